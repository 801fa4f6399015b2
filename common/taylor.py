"""A network's Taylor polynomial in its parameters: the linear and the quadratic model.

Around w_0, with dw = w - w_0, the Jacobian J and the Hessians H of the outputs at w_0,

    f_lin(w) = f(w_0) + J dw,    f_quad(w) = f_lin(w) + 1/2 dw^T H dw

(paper 003, which cites its authors' "Quadratic models for understanding neural network
dynamics"). The linear model's tangent kernel is constant, so gradient descent on it
diverges beyond eta_crit; the quadratic one's can shrink, and so it can catapult. Neither J
nor H is built: J dw and dw^T H dw are derivatives along dw, in forward mode. Where the
network is piecewise linear (ReLU), these are derivatives within the piece of w_0; with one
hidden layer that piece is itself quadratic, and `frozen_gates` several times faster.
"""

import torch
from torch import Tensor
from torch.func import grad, jvp
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from common.objective import Objective, supervised


def taylor(objective: Objective, w0: Tensor, order: int = 2) -> Objective:
    """The objective of the Taylor polynomial of a network around w_0.

    Args:
        objective: Of a network, on any samples (`common.objective.network`).
        w0: Where to expand [P].
        order: 1 (linear model) or 2 (quadratic model).

    Returns:
        An objective on the same samples and with the same loss.

    Raises:
        ValueError: If the order is another, the objective has no network, or PyTorch gets
            the network's second forward derivative wrong.

    Example:
        >>> one = torch.ones(1, 1)
        >>> net = supervised(lambda w, x: x * w.prod(), one, one, None)  # w_1 w_2 w_3
        >>> quadratic = taylor(net, torch.tensor([1.0, 1.0, 1.0]))
        >>> quadratic.outputs(torch.tensor([3.0, 3.0, 3.0]))  # 1 + 3 * 2 + 3 * 2**2
        tensor([[19.]])
    """
    if order not in (1, 2):
        raise ValueError(f"the order must be 1 or 2, not {order}")
    if objective.function is None:
        raise ValueError("a Taylor model needs an objective with a network")
    w0 = w0.detach()
    if order == 2:
        _check(objective, w0)

    def function(w: Tensor, x: Tensor) -> Tensor:
        if order == 1:
            return sum(jvp(lambda w: objective.function(w, x), (w0,), (w - w0,)))
        value, first, second = _derivatives(objective, w0, w - w0, x)
        return value + first + second / 2

    return supervised(function, objective.inputs, objective.targets, objective.labels)


def _derivatives(
    objective: Objective, w: Tensor, v: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs at inputs x, and their first and second derivative along v."""

    def along(w: Tensor) -> tuple[Tensor, Tensor]:
        with _Explicit():
            return jvp(lambda w: objective.function(w, x), (w,), (v,))

    (value, first), (_, second) = jvp(along, (w,), (v,))
    return value, first, second


class _Explicit(TorchFunctionMode):
    """Writes out layer_norm, whose second forward derivative is wrong in PyTorch 2.13.

    (The first one takes the mean and the deviation, which it keeps, for constants.)
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.layer_norm:
            return _layer_norm(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    axes = tuple(range(-len(normalized_shape), 0))
    centred = input - input.mean(axes, keepdim=True)
    result = centred * (centred.square().mean(axes, keepdim=True) + eps).rsqrt()
    result = result if weight is None else result * weight
    return result if bias is None else result + bias


def _check(objective: Objective, w: Tensor) -> None:
    """Hold the second derivative along a random direction against the one by gradients."""
    x = objective.inputs[:2]
    v = torch.randn(len(w), generator=torch.Generator().manual_seed(0)).to(w)
    v /= v.norm()
    parts = [float(part.sum()) for part in _derivatives(objective, w, v, x)]
    slope = grad(lambda w: objective.function(w, x).sum())
    second = float(grad(lambda w: slope(w) @ v)(w) @ v)
    if abs(second - parts[-1]) > 1e-3 * sum(map(abs, parts)):
        raise ValueError(f"a second derivative is {second} by gradients, not {parts[-1]}")


def frozen_gates(objective: Objective, w0: Tensor) -> Objective:
    """The objective of a ReLU network whose units stay on or off as they are at w_0.

    f(w) is then a polynomial in w, of as many factors as there are layers. Without biases
    and with one hidden layer it is bilinear,

        f(w) = sum_i v_i 1[u_i(0) . x > 0] u_i . x / sqrt(m d),

    so its own quadratic model: the same as `taylor` at little more than the price of the
    network, and with a tangent kernel by layer products.

    Args:
        objective: Of a network whose only nonlinearities are relu.
        w0: Where the gates are taken from [P].

    Returns:
        An objective on the same samples and with the same loss.

    Raises:
        ValueError: If the objective has no network.

    Example:
        >>> one = torch.ones(1, 1)
        >>> net = supervised(lambda w, x: F.relu(x * w), one, one, None)
        >>> frozen_gates(net, torch.tensor([1.0])).outputs(torch.tensor([-3.0]))
        tensor([[-3.]])
    """
    if objective.function is None:
        raise ValueError("frozen gates need an objective with a network")
    w0 = w0.detach().clone()  # a storage of its own: see `common.kernels`

    def function(w: Tensor, x: Tensor) -> Tensor:
        gates = _Gates()
        with torch.no_grad(), gates:
            objective.function(w0, x)
        with _Gated(gates.seen):
            return objective.function(w, x)

    return supervised(function, objective.inputs, objective.targets, objective.labels)


class _Gates(TorchFunctionMode):
    """Notes which units are on, relu by relu."""

    def __init__(self):
        super().__init__()
        self.seen: list[Tensor] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in RELU:
            self.seen.append((args[0] > 0).to(args[0].dtype))
        return function(*args, **(kwargs or {}))


class _Gated(TorchFunctionMode):
    """Multiplies by given gates instead of relu."""

    def __init__(self, gates: list[Tensor]):
        super().__init__()
        self.gates = iter(gates)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in RELU:
            return args[0] * next(self.gates)
        return function(*args, **(kwargs or {}))


RELU = (F.relu, torch.relu, Tensor.relu)

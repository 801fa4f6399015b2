"""Bias-free ReLU nets with one output, with their gradient in closed form.

The nets of `common.wide.wide_fully_connected`, and the same `Objective`; only a step of
gradient descent is faster than by autograd. ReLU is positively homogeneous, so every
constant factor of the layers is one factor c of the output, and for the last hidden layer
the derivative v_i 1[z_i > 0] is applied to small matrices instead of to [n, m] numbers:

    f(x) = c v . relu(W_k ... relu(W_1 x)).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from common.objective import Objective, Point, Problem
from common.wide import wide_fully_connected


class DensePoint(Point):
    """A `Point` whose loss and gradient come from one closed-form pass."""

    @cached_property
    def _value(self) -> tuple[Tensor, Tensor]:
        if self._curvature:
            return super()._value
        objective = self.objective
        x, y = objective.inputs.flatten(1), objective.targets
        return loss_and_gradient(self.w, x, y, objective.shapes, objective.factor)


@dataclass(frozen=True)
class DenseObjective(Objective):
    """The squared error of such a net on samples; see `dense`.

    Args:
        shapes: Of the weight matrices, (outputs, inputs) of each layer.
        factor: c.
    """

    shapes: Sequence[tuple[int, int]] = ()
    factor: float = 1.0

    def at(self, w: Tensor, curvature: bool = False) -> DensePoint:
        """The objective at w [P]."""
        return DensePoint(self, w, curvature)


def dense(problem: Problem, seed: int) -> tuple[DenseObjective, Tensor]:
    """What `problem.build(seed)` returns, with the gradient in closed form.

    Raises:
        ValueError: If the model is not `wide_fully_connected`, its loss is not the squared
            error, or it has several outputs.
    """
    if problem.model is not wide_fully_connected or problem.loss != "mse":
        raise ValueError("a closed form is known for wide_fully_connected with 'mse' only")
    plain, w = problem.build(seed)
    if plain.targets.shape[1] != 1:
        raise ValueError(f"one output is needed, not {plain.targets.shape[1]}")
    options = {"width": (256,) * 4, "he": True, "gain": 1.0} | problem.options
    sizes = [plain.inputs[0].numel(), *options["width"]]
    factor = options["gain"] * (2**0.5 if options["he"] else 1) ** len(options["width"])
    for inputs in sizes:
        factor /= inputs**0.5
    shapes = tuple(zip([*sizes[1:], 1], sizes, strict=True))
    return _closed_form(plain, shapes, factor), w


def _closed_form(plain: Objective, shapes: Sequence, factor: float) -> DenseObjective:
    def batch(rows: Tensor) -> DenseObjective:
        return _closed_form(plain.batch(rows), shapes, factor)

    return DenseObjective(**vars(plain) | {"batch": batch}, shapes=shapes, factor=factor)


def loss_and_gradient(
    w: Tensor, x: Tensor, y: Tensor, shapes: Sequence[tuple[int, int]], factor: float
) -> tuple[Tensor, Tensor]:
    """L = 1/(2n) |f - y|^2 and its gradient.

    Args:
        w: Weight matrices, one after the other [P].
        x: Inputs [n, d].
        y: Targets [n, 1].
        shapes: (outputs, inputs) of each layer; at least one hidden layer.
        factor: c.

    Returns:
        L and the gradient [P].
    """
    *Ws, v = _matrices(w, shapes)
    gradient = torch.empty_like(w)
    *Gs, g = _matrices(gradient, shapes)
    layers = [x]
    for W in Ws:
        layers.append((layers[-1] @ W.T).relu_())
    top = layers.pop()  # [n, m]
    r = (top @ v.T).mul_(factor).sub_(y)  # [n, 1]
    loss = r.square().sum() / (2 * len(x))
    r *= factor / len(x)
    torch.mm(r.T, top, out=g)
    mask = top.sign_()  # 1[z > 0]
    torch.mm(mask.T, r * layers[-1], out=Gs[-1])
    Gs[-1].mul_(v.T)
    if len(Ws) > 1:
        delta = (mask @ (Ws[-1] * v.T)).mul_(r)  # dL / d(the layer below) [n, m']
    for i in range(len(Ws) - 2, -1, -1):
        delta.mul_(layers.pop().sign_())
        torch.mm(delta.T, layers[-1], out=Gs[i])
        if i:
            delta = delta @ Ws[i]
    return loss, gradient


def _matrices(w: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Views of a flat vector as weight matrices."""
    parts = w.split([outputs * inputs for outputs, inputs in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

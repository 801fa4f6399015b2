"""common.taylor: against dense derivatives, and exact where the network is a polynomial."""

import pytest
import torch
from torch.autograd.functional import hessian

from common import taylor as taylor_module
from common.data import Images
from common.kernels import tangent_kernel
from common.models import fully_connected
from common.objective import Objective, network
from common.taylor import frozen_gates, taylor
from common.wide import (
    Linear,
    wide_convolutional,
    wide_fully_connected,
    wide_resnet,
    wide_transformer,
)

EXACT = {"rtol": 1e-9, "atol": 1e-9}  # float64: sums of some thousand products of order 1


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def build(make, outputs: int = 2, **options) -> tuple[Objective, torch.Tensor]:
    images = Images(
        normal(4, 1, 4, 4), torch.tensor([0, 1, 1, 0]), (), normal(4, outputs, seed=1)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return network(make((1, 4, 4), outputs, **options), images, "mse")


def normalised(shape, classes):
    """Layer normalisation with parameters, over two axes and over one."""
    body = [torch.nn.LayerNorm(shape[1:]), torch.nn.Flatten(), Linear(16, 4)]
    return torch.nn.Sequential(*body, torch.nn.LayerNorm(4), Linear(4, classes))


def two_linear_layers(shape, classes):
    return torch.nn.Sequential(torch.nn.Flatten(), Linear(16, 5), Linear(5, classes))


SMALL = [
    (fully_connected, {"width": (3, 4)}),
    (wide_fully_connected, {"width": (4, 3)}),
    (wide_convolutional, {"channels": 2, "strides": (2, 2)}),
    (wide_resnet, {"base": 4, "factor": 1, "blocks": 1}),
    (wide_transformer, {"patch": 2, "dim": 4, "heads": 2, "blocks": 1}),
    (normalised, {}),
]


@pytest.mark.parametrize("make, options", SMALL)
def test_models_equal_dense_derivatives(make, options):
    objective, w0 = build(make, **options)
    dw = 0.3 * normal(len(w0), seed=2)
    f0 = objective.outputs(w0)
    J = torch.autograd.functional.jacobian(objective.outputs, w0)
    linear, quadratic = taylor(objective, w0, 1), taylor(objective, w0)
    torch.testing.assert_close(linear.outputs(w0 + dw), f0 + J @ dw, **EXACT)
    H = hessian(lambda w: objective.outputs(w)[1, 0], w0)  # of one output
    expected = f0[1, 0] + J[1, 0] @ dw + dw @ H @ dw / 2
    torch.testing.assert_close(quadratic.outputs(w0 + dw)[1, 0], expected, **EXACT)
    one = quadratic.batch(torch.tensor([1]))
    torch.testing.assert_close(
        one.outputs(w0 + dw), quadratic.outputs(w0 + dw)[1:2], **EXACT
    )
    w = (w0 + dw).requires_grad_()
    (gradient,) = torch.autograd.grad(quadratic.outputs(w)[1, 0], w)
    torch.testing.assert_close(gradient, J[1, 0] + H @ dw, **EXACT)


@pytest.mark.parametrize("make, options", SMALL)
def test_tangent_kernels(make, options):
    """That of the linear model never moves, that of the quadratic one starts there."""
    objective, w0 = build(make, **options)
    w = w0 + 0.3 * normal(len(w0), seed=2)
    K = tangent_kernel(objective, w0).matrix
    linear, quadratic = taylor(objective, w0, 1), taylor(objective, w0)
    for place in (w0, w):
        torch.testing.assert_close(tangent_kernel(linear, place).matrix, K, **EXACT)
    torch.testing.assert_close(tangent_kernel(quadratic, w0).matrix, K, **EXACT)
    J = torch.autograd.functional.jacobian(quadratic.outputs, w).flatten(0, 1)
    torch.testing.assert_close(tangent_kernel(quadratic, w).matrix, J @ J.T, **EXACT)
    assert (tangent_kernel(quadratic, w).matrix - K).norm() > 0.01 * K.norm()


def test_the_quadratic_model_of_a_quadratic_network_is_the_network():
    objective, w0 = build(two_linear_layers)
    w = w0 + 3 * normal(len(w0), seed=2)
    quadratic = taylor(objective, w0)
    torch.testing.assert_close(quadratic.outputs(w), objective.outputs(w), **EXACT)
    for a, b in ((quadratic, objective), (taylor(objective, w0, 1), objective)):
        assert torch.allclose(a.at(w).gradient, b.at(w).gradient) == (a is quadratic)
    v = normal(len(w), seed=3)
    torch.testing.assert_close(
        quadratic.at(w).hessian_product(v), objective.at(w).hessian_product(v), **EXACT
    )


def test_the_error_is_of_the_next_order():
    objective, w0 = build(fully_connected, width=(5, 5))
    direction = normal(len(w0), seed=2)
    for order in (1, 2):
        model, errors = taylor(objective, w0, order), []
        for size in (1e-2, 1e-3):
            w = w0 + size * direction
            errors.append(float((model.outputs(w) - objective.outputs(w)).norm()))
        # a factor of ten to the power order + 1, up to the next term: a few times 1e-2
        assert errors[0] / errors[1] == pytest.approx(10 ** (order + 1), rel=0.2)


def test_cross_entropy_stays_cross_entropy():
    images = Images(normal(4, 1, 4, 4), torch.tensor([0, 1, 1, 0]), (0, 1))
    objective, w0 = network(fully_connected((1, 4, 4), 2, (3,)), images, "cross_entropy")
    quadratic = taylor(objective, w0)
    assert quadratic.at(w0).loss == pytest.approx(objective.at(w0).loss, rel=1e-12)
    torch.testing.assert_close(quadratic.at(w0).gradient, objective.at(w0).gradient)
    rows = torch.tensor([1, 2])
    expected = objective.batch(rows).at(w0).loss
    assert quadratic.batch(rows).at(w0).loss == pytest.approx(expected, rel=1e-12)


# ---------------------------------------------------------------- frozen gates


def test_frozen_gates_are_the_quadratic_model_of_a_shallow_net():
    objective, w0 = build(wide_fully_connected, width=(9,), he=False)
    frozen, quadratic = frozen_gates(objective, w0), taylor(objective, w0)
    for w in (w0, w0 + 5 * normal(len(w0), seed=2)):
        torch.testing.assert_close(frozen.outputs(w), quadratic.outputs(w), **EXACT)
        torch.testing.assert_close(frozen.at(w).gradient, quadratic.at(w).gradient, **EXACT)
        K = tangent_kernel(quadratic, w).matrix
        for method in ("layers", "jacobian"):
            torch.testing.assert_close(tangent_kernel(frozen, w, method).matrix, K, **EXACT)
    assert not torch.allclose(frozen.outputs(w), objective.outputs(w))


def test_gates_stay_as_they_are_in_a_deep_net():
    objective, w0 = build(wide_fully_connected, width=(4, 3))
    frozen = frozen_gates(objective, w0)
    torch.testing.assert_close(frozen.at(w0).gradient, objective.at(w0).gradient, **EXACT)
    w = w0 + normal(len(w0), seed=2)
    sizes = (64, 12, 6)
    (A0, B0, _), (A, B, C) = (
        [part.view(shape) for part, shape in zip(v.split(sizes), shapes, strict=True)]
        for v, shapes in ((w0, ((4, 16), (3, 4), (2, 3))), (w, ((4, 16), (3, 4), (2, 3))))
    )
    x = objective.inputs.flatten(1)
    gate = (x @ A0.T > 0).double()
    a0, a = x @ A0.T * gate / 4 * 2**0.5, x @ A.T * gate / 4 * 2**0.5
    gate = (a0 @ B0.T > 0).double()
    expected = a @ B.T * gate / 2 * 2**0.5 @ C.T / 3**0.5
    torch.testing.assert_close(frozen.outputs(w), expected, **EXACT)


def test_a_wrong_derivative_is_noticed(monkeypatch):
    """PyTorch's own layer_norm: when this fails, `taylor._Explicit` can go."""
    objective, w0 = build(normalised)
    monkeypatch.setattr(taylor_module, "_layer_norm", torch.layer_norm)
    with pytest.raises(ValueError, match="a second derivative is .* by gradients"):
        taylor(objective, w0)


def test_wrong_calls_are_refused():
    objective, w0 = build(two_linear_layers)
    with pytest.raises(ValueError, match="must be 1 or 2, not 3"):
        taylor(objective, w0, 3)
    for make in (taylor, frozen_gates):
        with pytest.raises(ValueError, match="objective with a network"):
            make(Objective(torch.sum), w0)

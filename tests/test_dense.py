"""common.dense: the closed form against autograd, for any depth, batches and images."""

from functools import partial

import pytest
import torch

from common.dense import dense
from common.kernels import tangent_kernel
from common.objective import Problem
from common.optimizers import GradientDescent
from common.stochastic import MiniBatch
from common.tasks import rank_two
from common.wide import wide_fully_connected

DATA = partial(rank_two, 30, 6, dtype=torch.float64)


def problem(**changes) -> Problem:
    options = {"width": changes.pop("width", (16,)), "he": changes.pop("he", False)}
    options["gain"] = changes.pop("gain", 1.0)
    given = {"data": DATA, "model": wide_fully_connected, "dtype": "float64"} | changes
    return Problem(options=options, **given)


@pytest.mark.parametrize("width", [(16,), (8, 12), (8, 4, 6)])
@pytest.mark.parametrize("he", [False, True])
def test_loss_and_gradient_are_those_of_autograd(width, he):
    small = problem(width=width, he=he, gain=0.7)
    (closed, w), (plain, start) = dense(small, 3), small.build(3)
    assert torch.equal(w, start)
    at, truth = closed.at(w), plain.at(w)
    # float64: sums of some hundred products
    torch.testing.assert_close(at.gradient, truth.gradient, rtol=1e-12, atol=1e-14)
    assert at.loss == pytest.approx(truth.loss, rel=1e-13)


def test_the_gradient_leaves_the_data_alone():
    closed, w = dense(problem(width=(8, 4)), 0)
    inputs, targets = closed.inputs.clone(), closed.targets.clone()
    first, second = closed.at(w).gradient, closed.at(w).gradient
    assert torch.equal(first, second)
    assert torch.equal(closed.inputs, inputs) and torch.equal(closed.targets, targets)


def test_curvature_and_kernel_work_as_on_any_objective():
    (closed, w), (plain, _) = dense(problem(), 1), problem().build(1)
    v = torch.ones_like(w)
    close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-13)
    close(closed.at(w).hessian_product(v), plain.at(w).hessian_product(v))
    close(closed.at(w, curvature=True).gradient, plain.at(w).gradient)
    close(tangent_kernel(closed, w).matrix, tangent_kernel(plain, w).matrix)


def test_batches_are_closed_forms_too():
    (closed, w), (plain, _) = dense(problem(), 2), problem().build(2)
    rule = MiniBatch(GradientDescent(0.5), size=7, n=30, seed=5)
    a, _ = rule.step(closed.at(w), rule.init(w))
    b, _ = rule.step(plain.at(w), rule.init(w))
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    rows = torch.tensor([3, 1])
    assert closed.batch(rows).batch(torch.tensor([1])).at(w).loss == pytest.approx(
        plain.batch(torch.tensor([1])).at(w).loss, rel=1e-13
    )


def test_images_with_two_classes():
    signed = problem(data="fashion_mnist", n=20, classes=(2, 6), size=7, signed=True)
    (closed, w), (plain, _) = dense(signed, 0), signed.build(0)
    torch.testing.assert_close(
        closed.at(w).gradient, plain.at(w).gradient, rtol=1e-12, atol=1e-14
    )
    assert closed.accuracy(w) == plain.accuracy(w)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model": "fully_connected"}, "wide_fully_connected"),
        ({"data": "fashion_mnist", "n": 20, "loss": "cross_entropy"}, "'mse' only"),
        ({"data": "fashion_mnist", "n": 20}, "one output is needed, not 10"),
    ],
)
def test_other_problems_are_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        dense(problem(**changes), 0)

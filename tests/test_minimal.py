"""Closed forms against exact Hessians, maps against autograd, SGD against chance."""

import numpy as np
import pytest
import torch

from common.minimal import Picky, Product, run_picky, run_product

ETA = 0.2
POINTS = [(2.5, 0.3), (0.7, 1.1), (-1.2, 0.4), (1.3, 1.3)]


def scalars(k, x, y):
    return torch.tensor([x] * k + [y] * k, dtype=torch.float64)


def full_loss(w):
    return (1 - w.prod()) ** 2 / 2


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("x, y", POINTS)
def test_the_two_numbers_stand_for_all_scalars(k, x, y):
    w, loss = scalars(k, x, y).requires_grad_(), Product(k)
    value = full_loss(w)
    (gradient,) = torch.autograd.grad(value, w)
    H = torch.autograd.functional.hessian(full_loss, w.detach())
    assert loss.loss(x, y) == pytest.approx(value.item(), rel=1e-12)
    after = (w - ETA * gradient).detach().numpy()
    assert loss.step(x, y, ETA) == pytest.approx((after[0], after[-1]), rel=1e-12)
    top = torch.linalg.eigvalsh(H)[-1].item()
    assert loss.sharpness(np.array(x), np.array(y)) == pytest.approx(top, rel=1e-10)


def test_the_function_of_two_variables_has_the_same_path_at_half_the_step():
    def loss(w):
        return (1 - (w[0] * w[1]) ** 2) ** 2 / 2

    w = torch.tensor([2.3, 0.4], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(w), w)
    after = (w - ETA / 2 * gradient).tolist()
    assert Product(2).step(2.3, 0.4, ETA) == pytest.approx(after, rel=1e-12)
    minimum = torch.tensor([2.5, 0.4], dtype=torch.float64)
    top = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, minimum))[-1]
    assert top * ETA / 2 == pytest.approx(Product(2).sharpness(2.5, 0.4) * ETA, rel=1e-10)


@pytest.mark.parametrize("k", [1, 2])
def test_starts_are_where_the_flow_ends_as_sharp_as_asked(k):
    loss, s, p = Product(k), np.array([1.0, 1.7]), np.array([0.3, 1.1])
    x, y = loss.starts(s, p, ETA)
    assert (x * y) ** k == pytest.approx(p)
    assert loss.flow_sharpness(x, y) * ETA / 2 == pytest.approx(s)
    xs, ys = loss.path(x, y, 1e-3, 20_000)  # tiny steps: the flow
    assert loss.sharpness(xs[-1], ys[-1]) * ETA / 2 == pytest.approx(s, rel=5e-3)
    for wrong in ((0.1, 1.0), (1.0, 0.0)):
        with pytest.raises(ValueError, match="no starts"):
            loss.starts(*wrong, ETA)


def test_a_step_hops_from_one_value_of_the_cycle_to_the_other():
    loss, gap = Product(2), np.array([4.8, 5.5])
    cycle = loss.two_cycle(gap, ETA)
    assert (cycle[0] < 1).all() and (cycle[1] > 1).all()
    for u, other in (cycle, cycle[::-1]):
        x = np.sqrt((gap + np.hypot(gap, 2 * u)) / 2)
        x, y = loss.step(x, u / x, ETA)
        assert x * y == pytest.approx(other, abs=1e-9)
    assert np.isnan(loss.two_cycle(np.array([50.0]), ETA)).all()


def test_ends_are_told_apart():
    loss = Product(2)
    x, y = loss.starts([1.5, 1.5, 6.0], [0.9, 0.9, 1.5], ETA)
    table = run_product(2, ETA, x, y, 3000)
    assert table.converged.tolist() == [True, True, False]
    assert table.diverged.tolist() == [False, False, True]
    assert table.S_end[:2].between(0.98, 1).all() and np.isnan(table.S_end[2])
    assert table.S_flow.tolist() == pytest.approx([1.5, 1.5, 6.0])
    xs, ys = loss.path(x[:1], y[:1], ETA, 3000)
    assert loss.sharpness(xs[-1], ys[-1]) * ETA / 2 == pytest.approx(table.S_end[:1])
    assert table.cpu_seconds.notna().tolist() == [False, False, True]


def test_escape_from_one_is_a_random_walk():
    loss, etas = Picky(), [0.5, 0.56, 0.58, 0.7, 1.1]
    table = run_picky(etas, [0], 400, 400)
    predicted = [loss.escape(eta, 400, 1e-5, 0.42) for eta in etas[:4]]
    # three standard errors of 400 runs, and what steps are more than a Brownian motion
    assert table.at_zero[:4].tolist() == pytest.approx(predicted, abs=0.15)
    assert table.at_one[0] == 1 and table.at_zero[3] == 1
    assert table.descent_at_one.tolist() == [True] * 4 + [False]


def test_thresholds_are_where_the_moments_are_one():
    loss = Picky()
    found = loss.thresholds
    assert (loss.factors(found["mean square"]) ** 2).mean() == pytest.approx(1)
    assert np.log(loss.factors(found["almost sure"])).mean() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("d", [-1e-3, -0.3, -0.5, -0.9, -1.3, 0.7])
def test_picky_steps_follow_the_gradient(d):
    for draw, c in enumerate(Picky().c):
        x = torch.tensor(1 + d, dtype=torch.float64, requires_grad=True)
        torch.minimum(x**2, c * (x - 1) ** 2).backward()
        after = Picky().step(np.array(d), ETA, draw)
        assert after == pytest.approx(d - ETA * x.grad.item(), abs=1e-14)
    mean = np.mean([min((1 + d) ** 2, c * d**2) for c in Picky().c])
    assert Picky().loss(np.array(d)) == pytest.approx(mean)


def test_bad_requests_are_refused():
    for wrong in (lambda: Product(0), lambda: run_picky([], [0], 1, 1)):
        with pytest.raises(ValueError):
            wrong()
    for wrong in (
        (2, ETA, [1.0], [1.0, 2.0], 5),
        (2, 0.0, [1.0], [1.0], 5),
        (2, ETA, [1.0], [1.0], 0),
    ):
        with pytest.raises(ValueError):
            run_product(*wrong)

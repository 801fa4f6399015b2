"""The path to a minimum: the four-scalar example in closed form, and a small network."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from common.objective import Problem, supervised
from common.optimizers import GradientDescent
from common.parabola import Tail, local_path, parabola, run_to_minimum
from common.training import train

ETA = 0.2


def scalars():
    """L = 1/2 (1 - w_1 w_2 w_3 w_4)^2 as a network with one sample."""
    one = torch.ones(1, 1, dtype=torch.float64)
    return supervised(lambda w, x: x * w.prod(), one, one, None)


@pytest.fixture(scope="module")
def path():
    x = (
        ((1.01 * 5) - ((1.01 * 5) ** 2 - 4) ** 0.5) / 2
    ) ** 0.5  # 2/x^2 + 2 x^2 = 1.01 * 10
    start = torch.tensor([x, 1 / x, x, 1 / x + 1e-2], dtype=torch.float64)
    tail = Tail(1e-7, 5)
    _, end = train(
        scalars(),
        GradientDescent(ETA),
        start,
        5000,
        [tail],
        lambda row: row["loss"] < 1e-18,
    )
    return end, *local_path(scalars(), end, tail.kept, ETA)


def test_the_end_is_just_below_the_edge(path):
    end, _, S, _ = path
    x = float(end[0])
    assert S == pytest.approx(float((1 / end**2).sum()), rel=1e-6)
    assert 0.98 < S * ETA / 2 < 1 < 1.01
    assert x < 1


def test_the_curve_is_the_closed_form(path):
    end, table, S, c = path
    # on w = (x, y, z, v) with product 1, S = sum 1/w_i^2: its gradient along that surface
    slope = -2 / end**3
    normal = 1 / end / (1 / end).norm()
    slope -= (normal @ slope) * normal
    assert c == pytest.approx(ETA * float(slope.norm()) / (4 * (2 - ETA * S)), rel=1e-4)


def test_the_path_is_that_parabola(path):
    _, table, S, c = path
    fitted, _, share = parabola(table)
    assert share > 0.999
    # leading order in delta
    assert fitted == pytest.approx(c, rel=5 * (2 - ETA * S))
    assert (table.b > 0).any() and (table.b < 0).any()
    # with one sample there is nothing else across
    assert np.allclose(table.a, table.rest, atol=1e-3 * table.a.max())


def test_parabola_needs_a_parabola():
    b = np.linspace(-1, 1, 21)
    line = pd.DataFrame({"b": b, "a": b})
    assert parabola(line)[2] == pytest.approx(0, abs=1e-12)
    exact = pd.DataFrame({"b": [*b, np.nan], "a": [*(3 * b**2 + 1), 7]})
    assert parabola(exact) == pytest.approx((3, 1, 1))


# A small network

PROBLEM = Problem(
    n=10,
    classes=(5, 8),
    size=14,
    model="fully_connected",
    options={"width": (16, 16), "activation": "elu"},
    dtype="float64",
    signed=True,
)


@pytest.fixture(scope="module")
def table():
    return run_to_minimum(PROBLEM, GradientDescent(0.3), 0, 3000, tolerance=1e-9)


def test_run(table):
    last = table.iloc[-1]
    assert last.loss < 1e-9 and last.sharpness < last.mss
    seen = table.dropna(subset="b")
    assert len(seen) > 5 and (seen.step % 9 == 0).all()
    assert (seen.loss <= 1e-5).all() and seen.loss.is_monotonic_decreasing
    assert seen.step.max() >= last.step - 9
    assert 0 < last.slowest < 2 and 0 < last.conditioning < 1
    objective, w = PROBLEM.build(0)
    J = torch.stack([
        torch.func.grad(lambda w, x: objective.function(w, x[None])[0, 0])(w, x)
        for x in objective.inputs
    ])  # fmt: skip
    values = torch.linalg.eigvalsh(J @ J.T)
    assert last.conditioning == pytest.approx(float(values[0] / values[-1]), rel=1e-6)


def test_refused():
    rule = GradientDescent(0.3)
    for wrong in ({"dtype": "float32"}, {"loss": "cross_entropy"}):
        with pytest.raises(ValueError, match="'mse' in float64"):
            run_to_minimum(replace(PROBLEM, **wrong), rule, 0, 10)
    with pytest.raises(ValueError, match="more steps"):
        run_to_minimum(PROBLEM, rule, 0, 10)
    with pytest.raises(ValueError, match="odd"):
        Tail(1e-5, 4)


def test_the_tail_is_forgotten_when_the_loss_rises():
    # 2/S < eta: from 1e-4 the loss only grows, so that only a single point is ever kept
    one = torch.ones(1, 1, dtype=torch.float64)
    unstable = supervised(lambda w, x: 2 * x * w, one, one, None)
    tail = Tail(1.0, 1)
    start = torch.tensor([0.51], dtype=torch.float64)
    train(unstable, GradientDescent(0.6), start, 5, [tail])
    assert not tail.kept
    train(unstable, GradientDescent(0.4), start, 5, [tail])
    assert len(tail.kept) == 6

"""The cubic expansion's dynamics, against objectives for which they are exact."""

from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch

from common.objective import Objective, Problem
from common.optimizers import GradientDescent
from common.stabilization import (
    MODELS,
    Expansion,
    invariant,
    prediction_errors,
    run_stabilization,
)
from common.training import run, trajectory

ETA, S = 0.1, 20.5
G = torch.tensor([0.0, -0.3, 0.1, 0.0], dtype=torch.float64)  # gradient across u
F = torch.tensor([0.0, 2.0, 1.0, -1.0], dtype=torch.float64)  # gradient of the sharpness
A = torch.diag(torch.tensor([0.0, 3.0, 1.0, 0.5], dtype=torch.float64))
START = torch.tensor([1e-2, 0.1, 0.0, -0.2], dtype=torch.float64)


def cubic(curved: bool) -> Objective:
    """L = 1 + G.v + 1/2 (S + F.v) x^2 (+ 1/2 v.A v), with w = (x, v)."""
    return Objective(
        lambda w: 1 + G @ w + (S + F @ w) * w[0] ** 2 / 2 + curved * (w @ A @ w) / 2
    )


def both(curved: bool, model: str) -> tuple[pd.DataFrame, pd.DataFrame, Expansion]:
    objective = cubic(curved)
    origin = torch.zeros(4, dtype=torch.float64)
    expansion = Expansion.around(objective.at(origin, curvature=True), 1e-12)
    steps = islice(trajectory(objective, GradientDescent(ETA), START), 42)
    real = expansion.observe(torch.stack([step.point.w for step in steps]))
    return real, expansion.predict(START, ETA, 40, model), expansion


def test_expansion():
    expansion = both(False, "cubic")[-1]
    assert expansion.S == pytest.approx(S, rel=1e-9)
    assert abs(float(expansion.u[0])) == pytest.approx(1, rel=1e-9)
    assert expansion.alpha == pytest.approx(-float(G @ F), rel=1e-9)
    assert expansion.beta == pytest.approx(float(F @ F), rel=1e-9)


def test_two_numbers_are_exact_on_a_cubic():
    real, predicted, _ = both(False, "cubic")
    # rounding, amplified by the growth of x (a factor of about 100)
    assert np.allclose(real.x, predicted.x, rtol=1e-9, atol=1e-12)
    assert np.allclose(real.y, predicted.y, rtol=1e-9, atol=1e-12)
    assert real.x.abs().max() > 5 * real.x.abs()[0]  # so that something was predicted


def test_with_the_hessian_it_is_exact_where_the_rest_is_curved():
    real, predicted, _ = both(True, "cubic, with Hessian")
    for column in ("x", "y", "loss"):
        assert np.allclose(real[column], predicted[column], rtol=1e-9, atol=1e-12)
    coarse = both(True, "cubic")[1]
    assert not np.allclose(real.y, coarse.y, rtol=1e-2)


def test_second_order_grows_for_ever():
    _, predicted, expansion = both(False, "second order")
    powers = predicted.x[0] * (1 - ETA * S) ** np.arange(41)
    assert np.allclose(predicted.x, powers, rtol=1e-7)  # 41 times the error of S
    slope = predicted.y.diff().dropna()
    assert np.allclose(slope, ETA * expansion.alpha)
    assert (predicted.sharpness == expansion.S).all()


def test_what_is_observed():
    real, _, _ = both(False, "cubic")
    path = [step.point.w for step in islice(
        trajectory(cubic(False), GradientDescent(ETA), START), 42)]  # fmt: skip
    middle = torch.stack([(a + b) / 2 for a, b in zip(path, path[1:], strict=False)])
    assert np.allclose(real.sharpness, S + middle @ F)
    assert (real.top >= real.sharpness - 1e-6).all()
    assert np.allclose(real.loss, [float(cubic(False).loss(w)) for w in path[:-1]])


def test_the_invariant_drifts_less_with_smaller_steps():
    def spread(eta):
        objective = Objective(
            lambda w: G @ w + (2 / eta + F @ w) * w[0] ** 2 / 2,
        )
        origin = torch.zeros(4, dtype=torch.float64)
        expansion = Expansion.around(objective.at(origin, curvature=True), 1e-12)
        path = expansion.predict(START, eta, round(10 / eta), "cubic")
        energy = invariant(path.x, path.y, expansion.alpha, expansion.beta)
        return np.ptp(energy)

    # a scheme of first order: a tenth of the step, a tenth of the error
    assert spread(0.001) / spread(0.01) == pytest.approx(0.1, rel=0.3)


def test_unknown_model():
    expansion = both(False, "cubic")[-1]
    with pytest.raises(ValueError, match="unknown model"):
        expansion.predict(START, ETA, 3, "quartic")


# A small network

PROBLEM = Problem(n=64, classes=4, size=7, model="fully_connected")


@pytest.fixture(scope="module")
def table():
    return run_stabilization(PROBLEM, 0.25, seed=0, steps=200, window=80)


def test_run(table):
    parts = {name: part for name, part in table.groupby("model")}
    assert set(parts) == {"real", *MODELS}
    onset, crossing = table.onset[0], table.crossing[0]
    assert onset >= crossing > 0
    for part in parts.values():
        assert part.step.tolist() == list(range(crossing + 80 - onset))
        assert part.x.iloc[0] == pytest.approx(parts["real"].x.iloc[0], rel=1e-4)
        assert part.y.iloc[0] == pytest.approx(parts["real"].y.iloc[0], rel=1e-4)
    plain = run(PROBLEM, GradientDescent(0.25), seed=0, steps=crossing + 80, every=1000)
    assert parts["real"].loss.tolist() == plain.loss[onset : crossing + 80].tolist()


def test_it_predicts_the_burst_and_second_order_does_not(table):
    off = prediction_errors(table)
    assert off.index.tolist() == sorted(MODELS)
    assert off.loss["second order"] > 3 * off.loss["cubic"]


def test_edge_not_reached():
    with pytest.raises(ValueError, match="not reached"):
        run_stabilization(PROBLEM, 0.01, seed=0, steps=5, window=10)


def made_up(length: int) -> pd.DataFrame:
    x = np.array([0.1, -1.0, 2.0, -1.0, 0.1])[:length]
    real = pd.DataFrame({"x": x, "y": -x, "loss": x**2}).assign(model="real")
    same = real.assign(model="same", x=-real.x)
    late = real.assign(model="late", x=np.roll(2 * x, 1))
    tables = [part.rename_axis("step").reset_index() for part in (real, same, late)]
    return pd.concat(tables, ignore_index=True)


def test_prediction_errors():
    off = prediction_errors(made_up(5))
    assert off.loc["same"].tolist() == [1, 0, 0, 0, 0]
    assert off.loc["late", ["peak", "delay"]].tolist() == [2, 1]
    # abs(x) of 0.2, 0.2, 2, 4, 2 against 0.1, 1, 2, 1, 0.1, in units of 2
    wrong = np.array([0.1, -0.8, 0.0, 3.0, 1.9]) / 2
    assert off.x["late"] == pytest.approx((wrong**2).mean() ** 0.5)


def test_an_oscillation_that_does_not_end():
    off = prediction_errors(made_up(4))
    wrong = np.array([1.9, -0.8, 0.0, 3.0]) / 2  # abs(x): 2, 0.2, 2, 4 and 0.1, 1, 2, 1
    assert off.x["late"] == pytest.approx((wrong**2).mean() ** 0.5)

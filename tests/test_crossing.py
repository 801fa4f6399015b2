"""The close-up of the first crossing: a small network, a toy, and made-up bursts."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal

from common.crossing import CloseUp, burst, climb, run_crossing
from common.objective import Objective, Problem
from common.optimizers import GradientDescent
from common.training import Step, run

# Crosses the edge after about 35 steps; a second or so for everything
PROBLEM = Problem(n=64, classes=4, size=7, model="fully_connected")
RULE = GradientDescent(0.25)
WINDOW = 70
COLUMNS = {
    *("step", "time", "loss", "mss", "diverged", "phase", "cpu_seconds"),
    *("sharpness_midpoint", "projection", "cosine", "cosine_random"),
    *("bulk_projection", "bulk_sharpness"),
}


@pytest.fixture(scope="module")
def table():
    return run_crossing(PROBLEM, RULE, seed=0, steps=200, window=WINDOW)


@pytest.fixture(scope="module")
def seen(table):
    return table[table.phase == "crossing"].reset_index(drop=True)


# A small network


def test_phases(table):
    assert set(table) == COLUMNS
    assert table.phase.tolist() == ["before"] + ["crossing"] * WINDOW
    first = table.step[1]
    assert table.step.tolist()[1:] == list(range(first, first + WINDOW))
    assert table.step[0] < first < 200
    assert not table.drop(columns="cpu_seconds").isna().any().any()


def test_where_the_phases_begin(table):
    looks = run(PROBLEM, RULE, seed=0, steps=int(table.step[1]), every=5).dropna(
        subset="sharpness"
    )
    # 1 %: the solver's tolerance, and a start that is not the same
    level = looks.sharpness / looks.mss
    before, at = (level[looks.step == s].item() for s in table.step[:2])
    assert 0.85 * 0.99 < before
    assert level[looks.step < table.step[0]].max() < 0.85 * 1.01
    assert at > 0.99 and level[looks.step < table.step[1]].max() < 1.01


def test_it_is_the_same_path_as_without_looking(table):
    plain = run(PROBLEM, RULE, seed=0, steps=int(table.step.max()), every=1000)
    assert table.loss.tolist() == plain.loss[table.step].tolist()


def test_starts_at_the_edge(seen):
    # 5 %: looked at every 5 steps, while the sharpness rises by about 1 % in that time
    assert seen.sharpness_midpoint[0] == pytest.approx(8, rel=0.05)
    assert (seen.mss == 8).all()


def test_measured_before_the_edge(table):
    assert 0.85 * 0.95 < table.sharpness_midpoint[0] / 8 < 1


def test_cosines(seen):
    assert seen.cosine.abs().max() <= 1 + 1e-6
    # A random direction in 2788 dimensions: 1/sqrt(P) = 0.02; five times that
    assert seen.cosine_random.abs().max() < 0.1
    assert seen.cosine.max() > 0.5  # near the peak the gradient lowers the sharpness


def test_the_bulk_direction_is_fixed(seen):
    assert seen.bulk_sharpness.nunique() == 1
    assert 0 < seen.bulk_sharpness[0] < seen.sharpness_midpoint.min()


def test_burst(table):
    numbers = burst(table)
    assert all(math.isfinite(value) for value in numbers.values())
    assert numbers["crossing"] == table.step[1]
    assert numbers["crossing"] < numbers["peak"] < table.step.max()
    assert numbers["growth"] > 3  # from 0.3 % to 30 % of the peak is log(100) = 4.6
    # 10 %: the prediction is linear
    assert numbers["predicted_growth"] == pytest.approx(numbers["growth"], rel=0.1)
    assert numbers["flips"] > 0.9
    assert numbers["loss_rise"] > 1


def test_pure(table):
    again = run_crossing(PROBLEM, RULE, seed=0, steps=200, window=WINDOW)
    drop = {"columns": "cpu_seconds"}
    assert_frame_equal(table.drop(**drop), again.drop(**drop), check_exact=True)


def test_measured_every_second_step(table, seen):
    sparse = run_crossing(PROBLEM, RULE, 0, 200, WINDOW, every=2)
    looks = sparse[sparse.phase == "crossing"].reset_index(drop=True)
    assert looks.projection.notna().all() and looks.bulk_projection.notna().all()
    for name in ("sharpness_midpoint", "cosine", "cosine_random"):
        assert looks[name].notna().tolist() == [True, False] * (WINDOW // 2)
    # 0.2 %: the solver's tolerance is 1e-3, and it starts from elsewhere
    np.testing.assert_allclose(
        looks.sharpness_midpoint[::2], seen.sharpness_midpoint[::2], rtol=2e-3
    )
    one, two = burst(table), burst(sparse)
    # 10 %: the prediction is linear; the direction is one step old at most
    assert two["predicted_growth"] == pytest.approx(two["growth"], rel=0.1)
    assert two["growth"] == pytest.approx(one["growth"], rel=0.1)
    assert abs(two["peak"] - one["peak"]) <= 1
    assert two["flips"] > 0.9


def test_edge_not_reached():
    """Neither the look before the edge nor the close-up: there is nothing to see."""
    table = run_crossing(PROBLEM, GradientDescent(0.01), seed=0, steps=10, window=5)
    assert len(table) == 0


def approached_only() -> pd.DataFrame:
    """Past the look before the edge, but the steps end before the edge."""
    return run_crossing(PROBLEM, RULE, seed=0, steps=12, window=5, approach=0.5)


def test_edge_approached_only():
    table = approached_only()
    assert table.phase.tolist() == ["before"]
    assert table.sharpness_midpoint[0] < 8


def test_no_burst():
    nothing = run_crossing(PROBLEM, GradientDescent(0.01), seed=0, steps=10, window=5)
    for table in (nothing, approached_only()):
        with pytest.raises(ValueError, match="the edge was not reached"):
            burst(table)


# A toy, where everything is known


CUBIC = torch.linspace(-1, 1, 10, dtype=torch.float64)


def toy(w: torch.Tensor) -> torch.Tensor:
    """Ten dimensions with cubic couplings; the sharpness has a gradient."""
    curvature = torch.linspace(1, 5, 10, dtype=torch.float64)
    return (curvature * w**2).sum() / 2 + (w @ CUBIC) * (w**2).sum() / 5


def toy_top(w: torch.Tensor) -> tuple[float, torch.Tensor]:
    values, vectors = torch.linalg.eigh(torch.autograd.functional.hessian(toy, w))
    return float(values[-1]), vectors[:, -1]


def test_close_up_of_a_toy():
    eta, objective = 0.3, Objective(toy)
    w = torch.linspace(0.5, -0.4, 10, dtype=torch.float64)
    point = objective.at(w)
    after = w - eta * point.gradient
    row = CloseUp()(Step(0, w, point, after, None, GradientDescent(eta)))

    middle = (w + after) / 2
    top, u = toy_top(middle)
    # 1e-5: the residual of the solver is below 1e-3, the value's error of second order
    assert row["sharpness_midpoint"] == pytest.approx(top, rel=1e-5)
    # 1 %: the vector's error is of first order
    assert abs(row["projection"]) == pytest.approx(abs(float(u @ point.gradient)), rel=0.01)
    step = 1e-5
    field = torch.tensor(
        [
            (toy_top(middle + step * e)[0] - toy_top(middle - step * e)[0]) / (2 * step)
            for e in torch.eye(10, dtype=torch.float64)
        ],
        dtype=torch.float64,
    )
    mean = (point.gradient + objective.at(after).gradient) / 2
    a, b = (v - (u @ v) * u for v in (mean, field))
    expected = float(a @ b / a.norm() / b.norm())
    assert abs(expected) > 0.1  # so that its sign is worth a comparison
    assert row["cosine"] == pytest.approx(expected, abs=0.01)
    eighth = torch.linalg.eigvalsh(torch.autograd.functional.hessian(toy, middle))[2]
    assert row["bulk_sharpness"] == pytest.approx(float(eighth), rel=1e-3)


def test_sign_of_the_direction_is_continuous():
    """A projection that changes sign does so for the gradient, not for the vector."""
    objective, probe = Objective(toy), CloseUp()
    w, signs = torch.full((10,), 0.01, dtype=torch.float64), []
    for index in range(6):
        point = objective.at(w)
        after = w - 0.3 * point.gradient  # 1 - 0.3 * 5 < 0: the top direction flips
        signs.append(
            np.sign(
                probe(Step(index, w, point, after, None, GradientDescent(0.3)))[
                    "projection"
                ]
            )
        )
        w = after
    assert signs[1:] == [-sign for sign in signs[:-1]]


# Made-up bursts


def made_up(fall: int = 3, measured_every: int = 1) -> pd.DataFrame:
    """A direction that grows by -1.2 a step, peaks, and is gone; the bulk halves."""
    eta, growing = 0.1, 40
    up = (-1.2) ** np.arange(growing)
    down = up[-1] * (-0.5) ** np.arange(1, 11)
    projection = np.concatenate([up, down])
    count = len(projection)
    sharpness = np.full(count, 22.0)  # abs(1 - 0.1 * 22) = 1.2
    sharpness[growing - 1 + fall :] = 18
    crossing = pd.DataFrame(
        {
            "step": 100 + np.arange(count),
            "loss": 1 + (projection / up[-1]) ** 2,
            "mss": 2 / eta,
            "sharpness_midpoint": sharpness,
            "projection": projection,
            "cosine": np.linspace(-0.2, 0.78, count),
            "cosine_random": np.where(np.arange(count) == 3, -0.3, 0.1),
            "bulk_projection": 0.5 ** np.arange(count),
            "bulk_sharpness": 5.0,  # abs(1 - 0.1 * 5) = 0.5
            "phase": "crossing",
        }
    )
    measured = ["sharpness_midpoint", "cosine", "cosine_random", "bulk_sharpness"]
    crossing.loc[crossing.index % measured_every != 0, measured] = np.nan
    before = crossing[:1].assign(step=60, phase="before", cosine=-0.4, projection=1e9)
    return pd.concat([before, crossing], ignore_index=True)


def test_made_up_burst():
    numbers = burst(made_up())
    assert numbers["crossing"] == 100
    assert numbers["peak"] == 139
    # 0.3 % and 30 % of the peak lie 31.9 and 6.6 steps before it
    grown = 25
    assert numbers["growth"] == pytest.approx(grown * math.log(1.2))
    assert numbers["predicted_growth"] == pytest.approx(grown * math.log(1.2))
    assert numbers["bulk_growth"] == pytest.approx(grown * math.log(0.5))
    assert numbers["bulk_predicted"] == pytest.approx(grown * math.log(0.5))
    assert numbers["flips"] == 1
    assert numbers["fall"] == 3
    assert numbers["cosine_crossing"] == pytest.approx(-0.2)
    assert numbers["cosine_peak"] == pytest.approx(-0.2 + 0.02 * 45)  # 6 steps later
    assert numbers["cosine_before"] == -0.4
    assert numbers["cosine_random"] == 0.3
    assert numbers["loss_rise"] == pytest.approx(2, rel=1e-5)


def test_wrong_prediction_is_seen():
    table = made_up()
    table.sharpness_midpoint *= 1.05
    numbers = burst(table)
    assert numbers["predicted_growth"] > 1.3 * numbers["growth"]


def test_fall_not_seen():
    assert burst(made_up(fall=20))["fall"] == math.inf


def test_no_flips():
    table = made_up()
    table.projection = table.projection.abs()
    assert burst(table)["flips"] == 0


def test_without_the_look_before():
    table = made_up()
    numbers = burst(table[table.phase == "crossing"])
    assert math.isnan(numbers["cosine_before"])
    assert numbers["crossing"] == 100


def test_made_up_burst_measured_every_third_step():
    sparse = made_up(measured_every=3)
    assert sparse.sharpness_midpoint[1:].notna().sum() == 17
    one, other = burst(made_up()), burst(sparse)
    # the sharpness is constant while it grows, so that nothing is lost in between
    for name in ("peak", "growth", "predicted_growth", "bulk_growth", "flips"):
        assert other[name] == pytest.approx(one[name])


def test_divergence_after_the_burst():
    # Fails as long as `climb` takes NaN, what a diverged row holds, for the peak.
    table = made_up()
    last = table[-1:].assign(step=150)
    last[["projection", "bulk_projection", "sharpness_midpoint", "cosine"]] = np.nan
    one, other = burst(table), burst(pd.concat([table, last], ignore_index=True))
    assert other["peak"] == one["peak"]
    assert other["growth"] == one["growth"] > 0


@pytest.mark.parametrize(
    "projection, found",
    [
        ([0.001, -0.01, 0.1, -0.5, 1, 0.1, 0.001], (1, 3, 4)),
        ([0.1, 0.2, 0.5, 1], (0, 2, 3)),  # it began in the middle
        ([1, 0.1, 0.01], (0, 0, 0)),  # it only falls
        ([0.5, 0.001, 0.1, -0.4, 1], (2, 3, 4)),  # from the last time below
        ([0.001, -0.01, -1], (1, 2, 2)),
    ],
)
def test_climb(projection, found):
    assert climb(pd.Series(projection)) == found

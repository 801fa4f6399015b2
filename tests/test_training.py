"""The training loop against closed forms, its probes, and whole runs."""

from dataclasses import dataclass
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pandas.testing import assert_frame_equal

from common.adaptive import Moments, RMSProp
from common.central import CentralFlow
from common.objective import Objective, Problem
from common.optimizers import GradientDescent, Repeated, StepDrop
from common.training import (
    BLOW_UP,
    Accuracy,
    Sharpness,
    run,
    run_together,
    time_of_step,
    train,
    trajectory,
)

H = torch.tensor([1.0, 3.0], dtype=torch.float64)
W = torch.tensor([2.0, -1.0], dtype=torch.float64)
QUADRATIC = Objective(lambda w: (H * w * w).sum() / 2)
PROBLEM = Problem(n=20, classes=2, size=7, model="fully_connected", options={"width": (8,)})


def quartic(w: torch.Tensor) -> torch.Tensor:
    """A loss whose Hessian changes from point to point."""
    return (w**4).sum() / 12 + (w[0] * w[1]) ** 2 + w[0] * w[2] ** 2 + (w**2).sum() / 2


class Index:
    """A probe that says at which steps it was asked."""

    def __init__(self, every: int):
        self.every = every

    def __call__(self, step):
        return {"index": float(step.index)}


# The loop


def test_quadratic_in_closed_form():
    eta = 0.2
    table, last = train(QUADRATIC, GradientDescent(eta), W, steps=7)
    assert list(table) == ["step", "time", "loss", "mss", "diverged"]
    path = W.numpy() * (1 - eta * H.numpy()) ** np.arange(8)[:, None]
    expected = (H.numpy() * path**2).sum(1) / 2
    assert table.step.tolist() == list(range(8))
    # float64: a few rounding errors in seven steps
    np.testing.assert_allclose(table.loss, expected, rtol=1e-13)
    np.testing.assert_allclose(last, path[-1], rtol=1e-13)
    np.testing.assert_allclose(table.time, eta * np.arange(8), rtol=1e-14)
    assert (table.mss == 10).all()
    assert not table.diverged.any()


def test_initial_parameters_are_left_alone():
    w = W.clone()
    train(QUADRATIC, GradientDescent(0.2), w, steps=3)
    assert torch.equal(w, W)


def test_divergence_is_a_column():
    eta = 1.0  # above 2/3: the second direction grows by -2 a step
    table, _ = train(QUADRATIC, GradientDescent(eta), W, 1000, [Index(1)])
    path = W.numpy() * (1 - eta * H.numpy()) ** np.arange(50)[:, None]
    loss = (H.numpy() * path**2).sum(1) / 2
    first = int(np.argmax(loss > BLOW_UP * loss[0]))
    assert len(table) == first + 1
    assert table.diverged.tolist() == [False] * first + [True]
    assert table["index"].isna().tolist() == [False] * first + [True]  # no probe there


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_loss_that_is_no_number_is_divergence(value):
    broken = Objective(lambda w: w.sum() ** 2 if w[0] > 1 else w.sum().abs() * value)
    table, _ = train(broken, GradientDescent(0.6), W, steps=10)
    assert table.diverged.tolist() == [False, True]


def test_below_the_edge_nothing_diverges():
    table, _ = train(QUADRATIC, GradientDescent(0.66), W, steps=300)
    assert len(table) == 301 and not table.diverged.any()


def test_until():
    rows = []

    def small(row):
        rows.append(row["step"])
        return row["loss"] < 0.5

    table, last = train(QUADRATIC, GradientDescent(0.2), W, 100, until=small)
    assert (table.loss < 0.5).tolist() == [False] * (len(table) - 1) + [True]
    assert rows == table.step.tolist()
    # the parameters are those of the last row
    assert QUADRATIC.at(last).loss == table.loss.iloc[-1]


def test_until_sees_the_probes():
    table, _ = train(
        QUADRATIC,
        GradientDescent(0.2),
        W,
        100,
        [Index(4)],
        until=lambda row: row.get("index", 0) >= 5,
    )
    assert table.step.iloc[-1] == 8  # the first multiple of 4 from 5 on


@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps(steps):
    with pytest.raises(ValueError, match=f"at least 1, not {steps}"):
        train(QUADRATIC, GradientDescent(0.2), W, steps)


def test_probes_are_asked_every_so_often():
    table, _ = train(QUADRATIC, GradientDescent(0.2), W, 7, [Index(3)])
    asked = table["index"].dropna()
    assert asked.index.tolist() == asked.tolist() == [0, 3, 6]


def test_time_under_a_step_drop():
    rule = GradientDescent(StepDrop(0.1, 0.05, at=2))
    table, _ = train(QUADRATIC, rule, W, steps=4)
    np.testing.assert_allclose(table.time, [0, 0.1, 0.2, 0.25, 0.3], rtol=1e-14)
    assert table.mss.tolist() == [20, 20, 40, 40, 40]


def test_time_of_step():
    assert time_of_step(GradientDescent(0.3), 5) == 0.3
    assert np.isnan(time_of_step(Repeated(GradientDescent(0.1), 3), 5))


def test_trajectory():
    steps = trajectory(QUADRATIC, GradientDescent(0.2), W)
    first, second, third = (next(steps) for _ in range(3))
    assert [first.index, second.index, third.index] == [0, 1, 2]
    assert torch.equal(first.before, W) and torch.equal(first.point.w, W)
    assert torch.equal(second.before, W)
    assert torch.equal(third.before, second.point.w)
    assert torch.equal(second.after, third.point.w)
    assert torch.equal(first.after, W - 0.2 * H * W)
    assert third.state == 3


# The sharpness


@pytest.mark.parametrize("at", ["iterate", "midpoint", "average"])
@pytest.mark.parametrize("k", [1, 2])
def test_sharpness_against_the_exact_hessian(at, k):
    w = torch.tensor([0.7, -1.1, 0.4], dtype=torch.float64)
    steps = 4
    probe = Sharpness(every=1, k=k, at=at, tolerance=1e-10)
    table, _ = train(Objective(quartic), GradientDescent(0.1), w, steps, [probe])
    path = trajectory(Objective(quartic), GradientDescent(0.1), w)
    suffix = "" if at == "iterate" else f"_{at}"
    names = ["sharpness", "lambda_2"][:k]
    assert list(table)[5:] == [f"{name}{suffix}" for name in names]
    for t, step in enumerate(islice(path, steps + 1)):
        place = {
            "iterate": step.point.w,
            "midpoint": (step.point.w + step.after) / 2,
            "average": (step.before + 2 * step.point.w + step.after) / 4,
        }[at]
        hessian = torch.autograd.functional.hessian(quartic, place)
        exact = torch.linalg.eigvalsh(hessian).flip(0)[:k]
        measured = table.loc[t, [f"{name}{suffix}" for name in names]]
        # three dimensions are exhausted by the solver: only rounding is left
        np.testing.assert_allclose(measured.astype(float), exact, rtol=1e-9)


def test_preconditioned_sharpness_against_the_exact_hessian():
    w = torch.tensor([0.7, -1.1, 0.4], dtype=torch.float64)
    rule = RMSProp(eta=0.05, beta2=0.9)
    probe = Sharpness(every=1, k=2, tolerance=1e-10, preconditioned=True)
    table, _ = train(Objective(quartic), rule, w, 4, [probe])
    nu = torch.zeros(3, dtype=torch.float64)
    for t, step in enumerate(islice(trajectory(Objective(quartic), rule, w), 5)):
        nu = 0.9 * nu + 0.1 * step.point.gradient**2
        P = nu.sqrt() + rule.eps  # with the second moment that the step from w_t uses
        hessian = torch.autograd.functional.hessian(quartic, step.point.w)
        exact = torch.linalg.eigvals(hessian / P[:, None]).real.sort(descending=True)[0]
        names = ["preconditioned_sharpness", "preconditioned_lambda_2"]
        np.testing.assert_allclose(table.loc[t, names].astype(float), exact[:2], rtol=1e-9)


def test_no_preconditioner():
    probe = Sharpness(preconditioned=True)
    with pytest.raises(ValueError, match="GradientDescent.*has no preconditioner"):
        train(QUADRATIC, GradientDescent(0.1), W, 1, [probe])


def test_run_of_an_adaptive_rule_measures_both():
    table = run(PROBLEM, RMSProp(1e-3), seed=0, steps=2, every=2)
    raw, scaled = table.sharpness, table.preconditioned_sharpness
    assert raw.notna().tolist() == scaled.notna().tolist() == [True, False, True]
    assert "preconditioned_sharpness" not in run(PROBLEM, GradientDescent(0.1), 0, 2)
    alone = run(PROBLEM, RMSProp(1e-3), seed=0, steps=2, every=2, raw=False)
    assert "sharpness" not in alone
    assert alone.preconditioned_sharpness.equals(scaled)


def test_the_places_differ():
    """Without this the comparison above could not tell them apart."""
    w = torch.tensor([0.7, -1.1, 0.4], dtype=torch.float64)
    probes = [Sharpness(1, at=at) for at in Sharpness.WEIGHTS]
    table, _ = train(Objective(quartic), GradientDescent(0.1), w, 2, probes)
    values = table.loc[1, ["sharpness", "sharpness_midpoint", "sharpness_average"]]
    assert np.ptp(values.astype(float)) > 0.01


def test_unknown_place():
    with pytest.raises(ValueError, match="unknown place 'end'.*midpoint"):
        Sharpness(at="end")


def test_accuracy():
    objective, w = PROBLEM.build(seed=0)
    table, _ = train(objective, GradientDescent(0.1), w, 2, [Accuracy(2)])
    assert table.accuracy.isna().tolist() == [False, True, False]
    assert table.accuracy[0] == objective.accuracy(w)


# Whole runs


def test_run_is_pure():
    torch.manual_seed(1)
    first = run(PROBLEM, GradientDescent(0.1), seed=3, steps=12, every=5, k=2)
    torch.manual_seed(2)
    second = run(PROBLEM, GradientDescent(0.1), seed=3, steps=12, every=5, k=2)
    assert "cpu_seconds" in first
    assert_frame_equal(
        first.drop(columns="cpu_seconds"),
        second.drop(columns="cpu_seconds"),
        check_exact=True,
    )
    other = run(PROBLEM, GradientDescent(0.1), seed=4, steps=1)
    assert other.loss[0] != first.loss[0]


def test_run_columns():
    places = ("iterate", "midpoint")
    table = run(PROBLEM, GradientDescent(0.1), 0, 12, every=5, k=2, places=places)
    measured = ["accuracy", "sharpness", "lambda_2", "sharpness_midpoint"]
    measured += ["lambda_2_midpoint"]
    assert set(table) == {
        *("step", "time", "loss", "mss", "diverged", "cpu_seconds"),
        *measured,
    }
    for name in measured:
        assert table.step[table[name].notna()].tolist() == [0, 5, 10]
    assert table.cpu_seconds.notna().tolist() == [False] * 12 + [True]
    assert table.cpu_seconds.iloc[-1] > 0
    assert (table.sharpness.dropna() >= table.lambda_2.dropna()).all()


def test_run_stops_at_accuracy():
    free = run(PROBLEM, GradientDescent(0.3), 0, 60, every=5).accuracy.dropna()
    assert free.iloc[0] < 0.95 <= free.max()  # so that there is something to stop at
    table = run(PROBLEM, GradientDescent(0.3), 0, 60, every=5, stop_at_accuracy=0.95)
    first = free.index[free >= 0.95][0]
    assert table.step.iloc[-1] == first
    assert table.accuracy.iloc[-1] == free[first]
    assert table.cpu_seconds.notna().tolist() == [False] * first + [True]


def test_diverged_run():
    table = run(PROBLEM, GradientDescent(50.0), 0, 200, every=1)
    assert table.diverged.iloc[-1] and len(table) < 200
    assert np.isnan(table.sharpness.iloc[-1])
    assert table.cpu_seconds.notna().sum() == 1


# Side by side


@dataclass(frozen=True)
class Excess:
    """Gradient descent with a flow's state, which knows what the oscillation adds."""

    eta: float

    def init(self, w):
        return None

    def step(self, point, state):
        return point.w - self.eta * point.gradient, SimpleNamespace(excess=0.5)

    def max_stable_sharpness(self, step):
        return 2 / self.eta


@pytest.fixture(scope="module")
def together():
    rules = {"a": GradientDescent(0.1), "b": GradientDescent(0.1)}
    rules |= {"c": GradientDescent(0.05), "d": Excess(0.1)}
    return run_together(PROBLEM, rules, ["a", "c"], seed=0, steps=5, every=2)


def test_together_rows(together):
    assert together.name.tolist() == ["a", "b", "c", "d"] * 6
    assert together.step.tolist() == [t for t in range(6) for _ in range(4)]
    measured = together[together.sharpness.notna()]
    assert sorted(set(measured.step)) == [0, 2, 4]
    assert together.cpu_seconds.notna().tolist() == [False] * 23 + [True]


def test_together_is_the_same_as_alone(together):
    alone = run(PROBLEM, GradientDescent(0.05), seed=0, steps=5, every=2)
    c = together[together.name == "c"].reset_index(drop=True)
    assert c.loss.tolist() == alone.loss.tolist()
    assert c.sharpness.dropna().tolist() == alone.sharpness.dropna().tolist()


def test_together_distances(together):
    rows = together.dropna(subset="displacement").set_index(["name", "step"])
    for same in ("a", "b", "d"):
        assert (rows.distance_to_a[same] == 0).all()
    assert (rows.distance_to_c["c"] == 0).all()
    assert rows.distance_to_a[("c", 0)] == 0
    assert (rows.distance_to_a["c"][1:] > 0).all()
    # c lags behind: the distance is symmetric
    assert rows.distance_to_a["c"].tolist() == rows.distance_to_c["a"].tolist()
    assert (rows.displacement.xs(0, level="step") == 0).all()
    assert (rows.displacement.xs(4, level="step") > 0).all()


def test_displacement_is_the_euclidean_norm(together):
    objective, w = PROBLEM.build(seed=0)
    _, last = train(objective, GradientDescent(0.1), w, steps=4)
    value = together.query("name == 'a' and step == 4").displacement.item()
    assert value == float((last - w).norm())


def test_predicted_loss(together):
    plain = together[together.name != "d"]
    assert (plain.predicted_loss == plain.loss).all()
    flow = together[together.name == "d"]
    assert (flow.predicted_loss == flow.loss + 0.5).all()


def test_together_from_near_the_edge():
    rules = {"a": GradientDescent(0.1), "c": GradientDescent(0.05)}
    alone = run(PROBLEM, GradientDescent(0.1), seed=1, steps=12, every=1)
    share = 1.04 * alone.sharpness[0] / 20
    start = alone.step[alone.sharpness > share * 20].min()
    assert 5 < start < 12
    table = run_together(PROBLEM, rules, ["a"], 1, steps=12, every=1, approach=share)
    assert sorted(set(table.step)) == [*range(start, 13)]
    rows = table.set_index(["name", "step"]).xs(start, level="step")
    assert (rows.distance_to_a == 0).all()
    assert (rows.displacement == 0).all()
    # both set off from where the first rule alone is
    assert table[table.name == "a"].loss.tolist() == alone.loss[start:].tolist()
    assert table.loss[1] == table.loss[0]


def test_together_without_an_approach_in_time():
    table = run_together(PROBLEM, {"a": GradientDescent(1e-3)}, [], 0, 5, approach=0.9)
    assert table.step.tolist() == [5]  # a single row: nothing to compare, and no crash


@pytest.fixture(scope="module")
def warm():
    rule = RMSProp(3e-3, beta2=0.95)
    rules = {"real": rule, "again": RMSProp(3e-3, beta2=0.95), "gd": GradientDescent(0.1)}
    rules |= {"central": CentralFlow(rule), "stable": CentralFlow(rule, terms=())}
    return run_together(PROBLEM, rules, ["real"], 0, steps=60, every=5, warm_steps=20)


def test_together_from_a_real_state(warm):
    assert sorted(set(warm.step)) == [*range(20, 61)]
    alone = run(PROBLEM, RMSProp(3e-3, beta2=0.95), seed=0, steps=60, every=5)
    rows = warm.set_index(["name", "step"])
    for name in ("real", "again"):  # with its moments: the run goes on as if nothing was
        assert rows.loc[name].loss.tolist() == alone.loss[20:].tolist()
    column = "preconditioned_sharpness"
    expected = alone[column].iloc[[20, 25]]  # warm and cold starts of the solver
    np.testing.assert_allclose(rows.loc["real"][column][[20, 25]], expected, rtol=1e-3)
    begin = rows.xs(20, level="step")
    assert (begin.loss == begin.loss["real"]).all() and (begin.displacement == 0).all()
    # the flows set off with the second moment that the real step uses
    flows = begin[column][["central", "stable"]]
    np.testing.assert_allclose(flows, begin[column]["real"], rtol=1e-3)


def test_together_records_the_squared_gradient(warm):
    rows = warm.set_index(["name", "step"])
    objective, w = PROBLEM.build(seed=0)
    state = (rule := RMSProp(3e-3, beta2=0.95)).init(w)
    for _ in range(22):
        w, state = rule.step(objective.at(w), state)
    assert isinstance(state, Moments)
    square = float(objective.at(w).gradient.square().sum())
    assert rows.square["real", 22] == rows.predicted_square["real", 22] == square
    assert rows.phi["real"].isna().all() and rows.phi["stable"].isna().all()
    central = rows.loc["central"]
    at_edge = central.phi.notna()
    assert at_edge.any() and central.phi.dropna().between(0, 1).all()
    assert (central.predicted_square >= central.square).all()
    assert (central.predicted_square > central.square)[at_edge].all()
    assert (central.predicted_loss > central.loss)[at_edge].all()
    # nothing of this for a rule without a preconditioner
    columns = ["square", "predicted_square", "phi", "preconditioned_sharpness"]
    assert rows.loc["gd"][columns].isna().all(axis=None)


def test_together_at_the_adaptive_edge(warm):
    rows = warm.dropna(subset="displacement").set_index(["name", "step"])
    sharpness = rows.preconditioned_sharpness * 3e-3 / 2
    assert sharpness["central"].loc[30:].max() < 1.02 < 1.5 < sharpness["stable"].max()


@pytest.mark.parametrize("bad", [-1, 6])
def test_warm_steps_out_of_range(bad):
    with pytest.raises(ValueError, match=f"warm_steps must lie in 0 ... 5, not {bad}"):
        run_together(PROBLEM, {"a": GradientDescent(0.1)}, [], 0, 5, warm_steps=bad)


def test_two_ways_to_set_off_late():
    with pytest.raises(ValueError, match="not after both"):
        rules = {"a": GradientDescent(0.1)}
        run_together(PROBLEM, rules, [], 0, 5, approach=0.5, warm_steps=2)


def test_a_flow_cannot_lead():
    flow = CentralFlow(RMSProp(3e-3))
    with pytest.raises(ValueError, match="a rule as the first optimizer, not CentralFlow"):
        run_together(PROBLEM, {"a": flow}, [], 0, 5, warm_steps=2)


def test_gradient_descent_has_no_preconditioned_columns(together):
    assert not {"square", "phi", "preconditioned_sharpness"} & set(together)


def test_unknown_reference():
    with pytest.raises(ValueError, match="unknown reference 'x'.*'a'"):
        run_together(PROBLEM, {"a": GradientDescent(0.1)}, ["x"], seed=0, steps=1)

"""common.features: catapults where they were asked for, runs that end at their target."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from common.agop import RANK_2, RANK_4, agop, alignment
from common.data import load
from common.dense import dense
from common.features import (
    corner,
    ends,
    judge,
    rank_correlations,
    rest_of_pair,
    run_catapults,
    run_rate,
    run_reference,
    run_to_target,
)
from common.kernels import tangent_kernel
from common.objective import Problem
from common.optimizers import GradientDescent
from common.tasks import rank_two
from common.torch_rules import TorchRule
from common.wide import wide_fully_connected

D = 10
TASK = Problem(
    partial(rank_two, 100, D, dtype=torch.float64),
    model=wide_fully_connected,
    options={"width": (64,), "he": False},
    dtype="float64",
)
SHARED = {
    "problem": TASK,
    "held_out": replace(TASK, data=partial(rank_two, 50, D, seed=1, dtype=torch.float64)),
    "truth": RANK_2.agop(D).numpy(),
    "seed": 0,
}
PLAN = SHARED | {"counts": (0, 1, 2), "factor": 1.3, "target": 0.02, "steps": 1000}


@pytest.fixture(scope="module")
def catapults():
    return run_catapults(**PLAN, block=3)


def test_each_catapult_is_a_spike_of_the_loss(catapults):
    for k, path in catapults.groupby("catapults"):
        jumps = path.eta.diff().to_numpy() > 0
        assert jumps.sum() == k  # one raise of eta for each
        starts = [*np.flatnonzero(jumps), len(path)]
        loss = path.loss.to_numpy()
        for start, end in zip(starts, starts[1:], strict=False):
            assert loss[start:end].max() > 1.5 * loss[start]
            assert loss[end - 1] < 1.1 * loss[start]
        calm = loss[: starts[0]]
        assert (np.diff(calm) < 0).all()  # below eta_crit: no rise


def test_runs_of_one_seed_begin_alike_and_end_at_the_target(catapults):
    one, two = (catapults[catapults.catapults == k].reset_index() for k in (1, 2))
    same = one.eta.to_numpy()[: len(two)] == two.eta.to_numpy()[: len(one)]
    shared = int(np.argmin(same))
    assert shared > 5 and (one.loss[:shared] == two.loss[:shared]).all()
    ends = catapults.dropna(subset="outcome")
    assert list(ends.outcome) == ["trained"] * 3
    assert (ends.loss <= 0.02).all()
    np.testing.assert_allclose(ends.train_mse, 2 * ends.loss, rtol=1e-12)
    assert (catapults.groupby("catapults").step.diff().dropna() == 1).all()


def test_the_step_size_is_in_units_of_the_critical_one(catapults):
    objective, w = dense(TASK, 0)
    assert catapults.eta[0] == pytest.approx(0.9 * tangent_kernel(objective, w).eta_crit())
    one = catapults[catapults.catapults == 1].reset_index(drop=True)
    for eta in one.eta[:5]:
        w = w - eta * objective.at(w).gradient
    expected = 1.3 * tangent_kernel(objective, w).eta_crit()
    assert one.eta[5] == pytest.approx(expected, rel=1e-9)


def test_the_same_call_gives_the_same_table(catapults):
    again = run_catapults(**PLAN, block=3)
    first, second = (t.drop(columns="cpu_seconds") for t in (catapults, again))
    assert first.equals(second)


def test_a_step_that_is_too_large_diverges_and_says_so():
    table = run_catapults(**PLAN | {"factor": 20.0, "counts": (0, 3)})
    ends = table.dropna(subset="outcome")
    assert list(ends.catapults) == [0, 1]  # the first catapult failed
    assert list(ends.outcome) == ["trained", "diverged"]
    assert np.isnan(ends.test_mse.iloc[1])


def test_judge_measures_what_it_says():
    objective, w = dense(TASK, 0)
    others, _ = SHARED["held_out"].build(0)
    row = judge(objective, others, w, SHARED["truth"], block=2)
    G = agop(lambda x: objective.function(w, x), objective.inputs)
    assert row["alignment"] == alignment(G, RANK_2.agop(D))
    wrong = torch.zeros(D, D)
    wrong[5, 5] = wrong[6, 6] = 1  # 1 and 2, moved by half of 10
    assert row["misaligned"] == pytest.approx(alignment(G, wrong), rel=1e-12)
    assert row["agop_1_2"] == float(G[0, 1]) and "agop_2_1" not in row
    error = others.function(w, others.inputs) - others.targets
    assert row["test_mse"] == pytest.approx(float(error.square().mean()), rel=1e-12)


def test_a_read_only_truth_brings_no_warning(recwarn):
    truth = SHARED["truth"].copy()
    truth.flags.writeable = False  # as joblib maps large arguments into memory
    objective, w = dense(TASK, 0)
    others, _ = SHARED["held_out"].build(0)
    assert judge(objective, others, w, truth) == judge(
        objective, others, w, SHARED["truth"]
    )
    assert not recwarn.list


def test_the_corner_is_that_of_the_agop(catapults):
    end = catapults.dropna(subset="outcome").iloc[0]
    G = corner(end)
    assert G.shape == (3, 3) and G.max() == 1 and (G == G.T).all()
    assert G[0, 2] == pytest.approx(abs(end.agop_1_3) / abs(end.filter(like="agop_")).max())
    with pytest.raises(ValueError, match="no corner"):
        corner(end.drop(end.filter(like="agop_").index))


def test_ends_are_the_rows_with_an_outcome(catapults):
    step = pd.DataFrame({"step": [0, 4], "loss": [1.0, 0.5], "outcome": [None, "stopped"]})
    runs = {("a", 7): catapults, ("b", 8): step.assign(cpu_seconds=1.0)}
    table = ends(runs, "task")
    assert list(table.task) == ["a"] * 3 + ["b"] and list(table.seed) == [7] * 3 + [8]
    assert list(table.catapults[:3]) == [0, 1, 2] and np.isnan(table.catapults[3])
    assert table.loss[3] == 0.5 and table.step[3] == 4
    last = catapults.groupby("catapults").loss.last()
    assert list(table.loss[:3]) == list(last)
    assert not {"row", "cpu_seconds"} & {*table.columns}


def test_rank_correlations_are_those_of_each_seed():
    table = pd.DataFrame({"seed": [3, 3, 3, 1, 1, 1], "x": [1, 2, 3, 1, 2, 3]})
    table["y"] = [10, 20, 300, 3, 2, 1]
    assert rank_correlations(table, "x", "y") == pytest.approx([-1, 1])  # seeds 1 and 3


def test_gradient_descent_is_the_run_without_batches():
    rule = GradientDescent(0.5)
    plan = SHARED | {"rule": rule, "target": 0.0, "epochs": 30}
    end = run_to_target(**plan, critical=True, every=1).iloc[-1]
    objective, w = dense(TASK, 0)
    eta = 0.5 * tangent_kernel(objective, w).eta_crit()
    for _ in range(30):
        w = w - eta * objective.at(w).gradient
    assert end.eta == pytest.approx(eta, rel=1e-12) and end.outcome == "stopped"
    assert end.loss == pytest.approx(objective.at(w).loss, rel=1e-9)
    assert end.supercritical == 0  # half of the critical step size


def test_supercritical_steps_are_counted_batch_by_batch():
    plan = SHARED | {"target": 0.0, "epochs": 2, "size": 5}
    slow = run_to_target(**plan, rule=GradientDescent(1e-6), every=1).iloc[-1]
    fast = run_to_target(**plan, rule=GradientDescent(1e3), every=1).iloc[-1]
    assert slow.supercritical == 0
    assert fast.supercritical > 0 and fast.outcome == "diverged"


@pytest.mark.parametrize("rule", [GradientDescent(1.0), TorchRule("Adam", 0.01)])
def test_training_stops_at_the_first_check_below_the_target(rule):
    plan = SHARED | {"rule": rule, "target": 0.03, "epochs": 300, "size": 10}
    table = run_to_target(**plan, checks=5)
    assert table.outcome.iloc[-1] == "trained"
    assert (table.loss[:-1] > 0.03).all() and table.loss.iloc[-1] <= 0.03
    assert (table.step.diff().dropna() == 2).all()  # ten batches in an epoch


def test_classes_bring_an_error():
    images = Problem(n=20, classes=(2, 6), size=7, signed=True, model=wide_fully_connected)
    plan = {"held_out": replace(images, split="test"), "truth": np.eye(49), "seed": 0}
    plan |= {"rule": GradientDescent(0.5), "target": 1e9, "epochs": 1}
    assert 0 < run_to_target(images, critical=True, **plan).test_error.iloc[-1] < 1


@pytest.mark.parametrize(
    "bad", [{"counts": (1, 0)}, {"counts": ()}, {"factor": 1.0}, {"gap": 0}]
)
def test_bad_plans_are_refused(bad):
    with pytest.raises(ValueError, match="catapult"):
        run_catapults(**PLAN | bad)


def test_bad_checks_are_refused():
    with pytest.raises(ValueError, match="must be positive"):
        run_to_target(**SHARED, rule=GradientDescent(1.0), target=1, epochs=1, checks=0)


def test_the_agop_of_samples_converges_only_to_its_own_limit():
    plan = {"seed": 0, "counts": [100, 10_000], "d": 5, "draws": 50}
    error = run_rate(RANK_2, RANK_2, **plan).error
    # |G_n - G*|^2 has the mean (2 + 2 + 2) / n: two of x^2, twice one of x_1 x_2;
    # the root of its mean over 50 draws is within 10 % of that
    np.testing.assert_allclose(error, [(6 / 100) ** 0.5, (6 / 10_000) ** 0.5], rtol=0.3)
    gap = float((RANK_4.agop(5) - RANK_2.agop(5)).norm())
    assert run_rate(RANK_4, RANK_2, **plan).error.iloc[1] == pytest.approx(gap, rel=0.1)


def test_the_rest_of_a_pair_is_what_was_not_trained_on():
    trained = load("fashion_mnist", 60, (2, 6), 7)
    rest = rest_of_pair("fashion_mnist", 60, (2, 6), 7)
    known = load("fashion_mnist", None, (2, 6), 7)
    assert len(rest.x) == 940 + 200 and torch.equal(rest.targets[:, 0], 2.0 * rest.y - 1)
    both = torch.cat([trained.x, rest.x[:940]]).flatten(1)
    order = [sorted(map(tuple, part.tolist())) for part in (both, known.x.flatten(1))]
    assert order[0] == order[1]
    with pytest.raises(ValueError, match="half of the n"):
        rest_of_pair("fashion_mnist", 61, (2, 6), 7)


def test_a_reference_is_symmetric_reproducible_and_leaves_the_random_state_alone():
    plan = ("fashion_mnist", (0, 6), 7, 2, 2, 16)
    before = torch.random.get_rng_state()
    table = run_reference(*plan)
    assert torch.equal(torch.random.get_rng_state(), before)
    G = table.filter(like="g_").to_numpy()
    assert G.shape == (49, 49) and np.allclose(G, G.T) and np.linalg.eigvalsh(G)[-1] > 0
    assert table.test_error.count() == 2 and (table.test_error.dropna() < 0.4).all()
    again = run_reference(*plan)
    assert again.drop(columns="cpu_seconds").equals(table.drop(columns="cpu_seconds"))
    with pytest.raises(ValueError, match="at least 1"):
        run_reference("fashion_mnist", (0, 6), 7, 0, 2)

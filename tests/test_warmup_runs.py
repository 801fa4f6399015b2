"""common.warmup_runs: the schedule, the rules against loops by hand, the held-out row."""

from functools import partial

import numpy as np
import pytest
import torch

from common.objective import Problem
from common.tasks import rank_two
from common.warmup_runs import run_catapult

BETA, R = 0.8, 0.5
SPAN = {"eta_i": 0.02, "hold": 10, "warmup": 20, "tail": 5, "every": 5}


@pytest.fixture(scope="module")
def problem() -> Problem:
    data = partial(rank_two, 12, 4, dtype=torch.float64)
    options = {"width": (5,), "activation": "tanh"}
    return Problem(data, model="fully_connected", options=options, dtype="float64")


@pytest.fixture(scope="module")
def table(problem):
    return run_catapult(problem, 0, BETA, R, **SPAN)


def parts(table):
    return [table[table.name == n] for n in ("heavy ball", "gradient descent")]


def test_both_get_the_schedule_that_follows_from_the_plateau(table):
    ball, descent = parts(table)
    assert [len(ball), len(descent)] == [36, 36]
    assert np.array_equal(ball.eta, descent.eta)
    plateau = ball.sharpness[ball.step == SPAN["hold"]].item()
    final = 2 * (1 + BETA) * R / plateau
    share = np.clip((ball.step - SPAN["hold"]) / SPAN["warmup"], 0, 1)
    expected = SPAN["eta_i"] + (final - SPAN["eta_i"]) * share
    np.testing.assert_allclose(ball.eta, expected, rtol=1e-12)
    np.testing.assert_allclose(ball.mss, 2 * (1 + BETA) / ball.eta)
    np.testing.assert_allclose(descent.mss, 2 / descent.eta)
    assert plateau / ball.mss.iloc[-1] == pytest.approx(R)


def test_the_sharpness_is_that_of_the_exact_hessian(problem, table):
    objective, w = problem.build(seed=0)
    exact = torch.linalg.eigvalsh(torch.func.hessian(objective.loss)(w))[-1]
    # the tolerance of the eigen-solver is 3e-6 of the largest eigenvalue by size
    assert table.sharpness[0] == pytest.approx(float(exact), rel=1e-4)
    assert table.dropna(subset="sharpness").step.unique().tolist() == list(range(0, 40, 5))


def test_the_losses_are_those_of_the_rules(problem, table):
    objective, start = problem.build(seed=0)
    for part, beta in zip(parts(table), (BETA, 0.0), strict=True):
        w = before = start
        for eta, loss in zip(part.eta, part.loss, strict=True):
            point = objective.at(w)
            assert loss == pytest.approx(point.loss, rel=1e-9)
            w, before = w - eta * point.gradient + beta * (w - before), w


def test_noise_and_batches_are_seeded_and_change_the_path(problem, table):
    for more in ({"noise": 1e-3}, {"batch": 4}):
        first, again = (run_catapult(problem, 0, BETA, R, **SPAN, **more) for _ in "ab")
        assert np.array_equal(first.loss, again.loss)
        assert first.loss.iloc[0] == table.loss.iloc[0]
        assert not np.array_equal(first.loss, table.loss)
    whole = run_catapult(problem, 0, BETA, R, **SPAN, batch=12)  # all samples, reordered
    np.testing.assert_allclose(whole.loss, table.loss, rtol=1e-9)


def test_without_the_control_there_is_heavy_ball_alone(problem, table):
    alone = run_catapult(problem, 0, BETA, R, **SPAN, control=False)
    assert set(alone.name) == {"heavy ball"}
    assert np.array_equal(alone.loss, parts(table)[0].loss)


def test_held_out_data_are_judged_at_the_end(problem, table):
    other = Problem(
        partial(rank_two, 30, 4, seed=9, dtype=torch.float64),
        model="fully_connected",
        options=problem.options,
        dtype="float64",
    )
    judged = run_catapult(problem, 0, BETA, R, **SPAN, held_out=other)
    assert np.array_equal(judged.loss, table.loss)
    values = judged.held_out_loss.dropna()
    assert values.index.tolist() == [35, 71] and values.between(0, 10).all()
    same = run_catapult(problem, 0, BETA, R, **SPAN, held_out=problem)
    np.testing.assert_allclose(same.held_out_loss.dropna(), same.loss[[35, 71]])
    assert "held_out_accuracy" not in same


def test_classes_have_an_accuracy():
    problem = Problem("fashion_mnist", 8, (0, 6), 7, "residual", {"channels": (2,)})
    span = {"eta_i": 0.01, "hold": 1, "warmup": 1, "tail": 1, "every": 1}
    table = run_catapult(problem, 0, BETA, R, **span, held_out=problem)
    assert table.held_out_accuracy.dropna().between(0, 1).all()


def test_divergence_is_recorded_and_ends_the_run(problem):
    table = run_catapult(problem, 0, BETA, R, **SPAN | {"eta_i": 1e3})
    assert set(table.name) == {"heavy ball"}  # no plateau, so no schedule for the other
    assert table.diverged.tolist() == [False] * (len(table) - 1) + [True]


@pytest.mark.parametrize("bad", [{"hold": 7}, {"hold": 0}, {"tail": 0}])
def test_lengths_that_do_not_fit_are_refused(problem, bad):
    with pytest.raises(ValueError, match="hold must be a multiple of 5"):
        run_catapult(problem, 0, BETA, R, **SPAN | bad)

"""common.diagonal_runs: batched runs are the single ones, and tables say how runs end."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch

from common.diagonal import SparseRegression
from common.diagonal_runs import Setting, by_run, finals, record, run_diagonal
from common.optimizers import HeavyBall, Warmup
from common.training import trajectory

SMALL = SparseRegression(n=8, d=6, support=2)
FIRST, SECOND = Setting(0.8, noise=1e-6), Setting(0.5, 0.0, 0.5)


def table(settings, seeds, **keywords):
    keywords = {"warmup": 20, "steps": 30, "regression": SMALL} | keywords
    return run_diagonal(settings, seeds, **keywords).drop(columns="cpu_seconds")


def test_a_run_does_not_depend_on_those_beside_it():
    many = by_run(table({"a": FIRST, "b": SECOND}, [3, 4]))
    alone = table({"b": SECOND}, [4])
    close = {"rtol": 1e-9, "atol": 1e-12}  # sums in another order, 30 steps
    pd.testing.assert_frame_equal(many["b", 4], alone, **close)


def test_the_batch_is_heavy_ball_on_the_single_network():
    seeds, x = [3, 4], 0.8
    net = SMALL.build(seeds)
    runs = by_run(table({"a": Setting(x, 0.9, noise=0.0)}, seeds))
    for r, seed in enumerate(seeds):
        eta = 2 * x / net.initial_sharpness([0.3])[r, 0].item()
        rule = HeavyBall(Warmup(0.05 * eta, eta, 20), 0.9)
        w = torch.full((12,), 0.3, dtype=torch.float64)
        steps = list(islice(trajectory(net.single(r), rule, w), 31))
        losses = [float(step.point.loss) for step in steps]
        np.testing.assert_allclose(runs["a", seed].loss, losses, rtol=1e-9)
        thresholds = [rule.max_stable_sharpness(t) for t in range(31)]
        np.testing.assert_allclose(runs["a", seed].mss, thresholds, rtol=1e-12)
        H = torch.func.hessian(net.single(r).loss)(steps[-1].point.w)
        top = torch.linalg.eigvalsh(H)[-1].item()
        assert runs["a", seed].sharpness.iloc[-1] == pytest.approx(top, rel=1e-4)


def test_rows_that_are_recorded_rarely_are_the_same_rows():
    often, rarely = (table({"a": FIRST}, [3], every=every) for every in (1, 10))
    rows = often[often.step % 10 == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows, rarely, rtol=1e-3)  # S: another number of products


def test_a_mini_batch_of_all_samples_is_the_full_gradient():
    full, batch = (table({"a": FIRST}, [3], batch=size) for size in (None, 8))
    np.testing.assert_allclose(full.loss, batch.loss, rtol=1e-9)


def test_a_preconditioned_rule_is_measured_by_its_own_hessian():
    from common.adaptive import Adam

    net = SMALL.build([0])
    run = record(net, Adam(1e-3), net.start([0.3]), ["adam"], [0], steps=3)
    assert (run.preconditioned_sharpness > 0).all()
    assert run.mss.iloc[0] == pytest.approx(38 / 1e-3)


def test_ends_are_sorted_into_converged_slow_and_diverged():
    settings = {
        "ends": Setting(0.9, 0.0, 0.5, share=1.0),
        "slow": Setting(1e-5, 0.0, 0.5),
        "lost": Setting(400.0, 0.0, 1.0),
    }
    ends = finals(run_diagonal(settings, [0, 1], 10, 4000, 100, regression=SMALL), settings)
    assert list(ends.outcome) == ["converged"] * 2 + ["slow"] * 2 + ["diverged"] * 2
    assert list(ends.seed) == [0, 1] * 3
    assert list(ends.alpha) == [0.5] * 4 + [1.0] * 2
    good = ends[ends.outcome == "converged"]
    np.testing.assert_allclose(good.ratio, good.sharpness / good.mss)


@pytest.mark.parametrize(
    "change", [{"x": 0}, {"beta": 1.0}, {"alpha": -1}, {"share": 1.1}, {"noise": -1e-9}]
)
def test_bad_settings_are_refused(change):
    with pytest.raises(ValueError, match="not a setting"):
        replace(FIRST, **change)


@pytest.mark.parametrize(
    ("settings", "seeds", "every"),
    [({}, [0], 1), ({"a": FIRST}, [], 1), ({"a": FIRST}, [0], 31)],
)
def test_nothing_to_run_is_refused(settings, seeds, every):
    with pytest.raises(ValueError, match="none of them may be 0"):
        table(settings, seeds, every=every)

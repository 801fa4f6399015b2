"""common.sgd_spikes: the run against a loop by hand, the numbers against brute force."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch

from common.objective import Problem
from common.sgd_spikes import (
    COLUMNS,
    batch_rises,
    kernel_changes,
    necessity,
    run_sgd,
    spike_table,
    supercritical,
)
from common.wide import wide_fully_connected

N, BATCH = 12, 4


def problem(width: tuple[int, ...] = (6,), **changes) -> Problem:
    settings = {"n": N, "classes": (2, 6), "size": 7, "signed": True, "dtype": "float64"}
    options = {"width": width}
    return Problem(model=wide_fully_connected, options=options, **settings | changes)


def linear() -> Problem:
    return problem(width=())


def run(loss, **columns) -> pd.DataFrame:
    """A table with a loss, and otherwise nothing going on."""
    size = len(loss)
    quiet = {"diverged": False, "kernel_norm": np.ones(size), "top_loss": loss, "eta": 1.0}
    quiet |= {"batch_eta_crit": 2.0, "batch_loss": 1.0, "batch_loss_after": 0.5}
    return pd.DataFrame({"step": range(size), "loss": loss} | quiet | columns)


def test_the_run_is_sgd_and_its_batches_are_those_of_the_kernel():
    table = run_sgd(problem(), seed=1, share=1.5, batch=BATCH, steps=7)
    objective, w = problem().build(1)
    J = torch.autograd.functional.jacobian(objective.outputs, w).flatten(0, 1)
    eta = 1.5 * 2 * N / float(torch.linalg.eigvalsh(J @ J.T)[-1])
    # float64, K a sum of some hundred products
    np.testing.assert_allclose(table.eta, eta, rtol=1e-10)
    generator, order = torch.Generator().manual_seed(1), []
    for _, row in table.iterrows():
        if len(order) < BATCH:
            order = torch.randperm(N, generator=generator).tolist()
        rows, order = torch.tensor(order[:BATCH]), order[BATCH:]
        J = torch.autograd.functional.jacobian(objective.outputs, w).flatten(0, 1)
        own = torch.linalg.eigvalsh(J[rows] @ J[rows].T)[-1]
        batch = objective.batch(rows)
        assert row.batch_eta_crit == pytest.approx(2 * BATCH / float(own), rel=1e-9)
        assert row.loss == pytest.approx(objective.at(w).loss, rel=1e-9)
        assert row.batch_loss == pytest.approx(batch.at(w).loss, rel=1e-9)
        w = w - eta * batch.at(w).gradient
        assert row.batch_loss_after == pytest.approx(batch.at(w).loss, rel=1e-9)
    assert table.top_loss.add(table.rest_loss).to_numpy() == pytest.approx(table.loss)
    assert table.cpu_seconds.notna().sum() == 1


def test_the_kernel_can_be_measured_less_often():
    table = run_sgd(problem(), 0, 0.1, BATCH, steps=6, every=3)
    assert table.dropna(subset="kernel_norm").step.tolist() == [0, 3, 6]
    assert len(supercritical(table)) == len(batch_rises(table)) == 3
    with pytest.raises(ValueError, match="every step"):
        spike_table(table)
    with pytest.raises(ValueError, match="every step"):
        kernel_changes(table, pd.DataFrame(columns=COLUMNS))


def test_a_linear_model_rises_only_beyond_the_critical_step_size():
    # there a step multiplies the residual of the batch by I - eta K_BB / |B|
    tables = [run_sgd(linear(), seed, 1.3, BATCH, steps=60) for seed in range(3)]
    together = necessity(pd.concat(tables, ignore_index=True))
    assert together["rises"] > 10
    assert 0.05 < together["supercritical"] < 0.95
    assert together["given_rise"] == 1
    assert together["rise_below"] == 0


def test_shuffled_is_the_mean_over_all_permutations():
    crit = [0.5, 0.8, 3.0, 2.0, 4.0]
    table = run([1.0] * 5, batch_eta_crit=crit, batch_loss_after=[2, 2, 2, 0, 0])
    expected = np.mean(
        [
            necessity(table.assign(batch_eta_crit=p))["given_rise"]
            for p in permutations(crit)
        ]
    )
    numbers = necessity(table)
    assert numbers["shuffled"] == pytest.approx(expected)
    assert numbers["given_rise"] == pytest.approx(2 / 3)
    assert (numbers["rise_given"], numbers["rise_below"]) == (1, pytest.approx(1 / 3))


def test_without_a_rise_nothing_is_said():
    numbers = necessity(run([1.0, 0.5, 0.2]))
    assert numbers["rises"] == 0
    assert np.isnan(numbers["given_rise"]) and np.isnan(numbers["shuffled"])


def test_catapult_and_noise_spikes_are_told_apart():
    loss = [1.0, 0.1, 0.5, 0.1, 0.1, 0.6, 0.1, 0.1, 0.7, 0.1]
    up = np.array([0.5, 2, 0.5, 0.5, 2, 0.5, 0.5, 0.5, 0.5, 0.5])  # after steps 1 and 4
    crit = [2, 0.5, 2, 2, 2, 0.5, 2, 0.5, 2, 2]  # but only step 1 is supercritical then
    found = spike_table(run(loss, batch_loss_after=up, batch_eta_crit=crit))
    assert found.peak.tolist() == [2, 5, 8]
    assert found.base.tolist() == [1, 3, 6]
    assert found.end.tolist() == [3, 6, 9]
    assert found.catapult.tolist() == [True, False, False]
    assert found.cause[0] == 1 and found.cause[1:].isna().all()
    np.testing.assert_allclose(found.height, [5, 6, 7])


def test_a_spike_ends_in_time():
    loss = np.r_[1.0, 0.1, 1.0, np.geomspace(0.9, 0.2, 40)]
    assert spike_table(run(loss), after=25).end.tolist() == [27]
    two = [1.0, 0.1, 1.0, 0.4, 1.0, 0.1]  # the second spike begins before the first is over
    found = spike_table(run(two))
    assert found.end.tolist() == [3, 5] and found.base.tolist() == [1, 3]
    late = np.r_[np.geomspace(1, 0.01, 20), np.geomspace(0.011, 1, 20), 0.01]
    assert spike_table(run(late), before=10).base.tolist() == [29]


@pytest.mark.parametrize(
    ("factor", "floor", "count"),
    [(1.5, 1e-3, 2), (3, 1e-3, 1), (1.5, 0.05, 1), (9, 0.05, 0)],
)
def test_what_counts_depends_on_two_thresholds(factor, floor, count):
    loss = [1.0, 0.1, 0.4, 0.02, 0.04, 0.02]
    found = spike_table(run(loss), factor, floor)
    assert len(found) == count and found.columns.tolist() == COLUMNS


def test_shares_and_ratios_are_those_of_the_steps():
    loss, top = np.array([1.0, 0.2, 1.0, 0.1]), np.array([0.5, 0.1, 0.7, 0.05])
    found = spike_table(run(loss, top_loss=top, kernel_norm=[8.0, 10, 9, 4]))
    assert found.top_share[0] == pytest.approx(0.6 / 0.8)
    assert found.kernel_ratio[0] == pytest.approx(0.4)


def test_what_comes_after_a_divergence_is_left_out():
    table = run([1.0, 0.1, 0.5, 0.1, np.nan], kernel_norm=[1, 1, 1, 1, np.nan])
    table.loc[4, "diverged"] = True
    found = spike_table(table)
    assert found.end.tolist() == [3]
    assert np.isfinite(kernel_changes(table, found)["inside"])


def test_changes_and_their_shifts_against_loops():
    rng = np.random.default_rng(0)
    norm = np.exp(rng.normal(size=30).cumsum())
    found = pd.DataFrame({"base": [3, 12], "end": [8, 20]})
    numbers = kernel_changes(run(np.ones(30), kernel_norm=norm), found)
    change = np.diff(np.log(norm))
    sums = [
        [sum(change[(t + shift) % 29] for t in range(a, b)) for a, b in ((3, 8), (12, 20))]
        for shift in range(29)
    ]
    total = np.sum(sums, axis=1)
    assert numbers["inside"] == pytest.approx(total[0])
    assert numbers["inside"] == pytest.approx(
        np.log(norm[8] * norm[20] / norm[3] / norm[12])
    )
    assert numbers["outside"] == pytest.approx(np.log(norm[-1] / norm[0]) - total[0])
    assert numbers["falls"] == np.mean(np.array(sums[0]) < 0)
    assert numbers["steps_inside"] == pytest.approx(13 / 29)
    assert numbers["shifted_inside"] == pytest.approx(total.mean())
    assert numbers["shifted_falls"] == pytest.approx(np.mean(np.array(sums) < 0))
    assert numbers["as_low"] == pytest.approx(np.mean(total <= total[0] + 1e-9))


def test_without_spikes_all_changes_are_outside():
    numbers = kernel_changes(
        run(np.ones(3), kernel_norm=[1.0, 2, 4]), pd.DataFrame(columns=COLUMNS)
    )
    assert numbers["inside"] == 0 and numbers["outside"] == pytest.approx(np.log(4))
    assert np.isnan(numbers["falls"])


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="positive"):
        run_sgd(problem(), 0, 0.0, BATCH, 3)
    with pytest.raises(ValueError, match="squared error"):
        run_sgd(problem(loss="cross_entropy", signed=False), 0, 1.0, BATCH, 3)
    with pytest.raises(ValueError, match="above 1"):
        spike_table(run([1.0, 2.0]), factor=1.0)

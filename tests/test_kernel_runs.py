"""common.kernel_runs: linear dynamics, descent by hand, catapults in made-up tables."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from common.kernel_runs import catapults, run_at, run_raised, summary
from common.objective import Problem
from common.tasks import rank_two
from common.wide import wide_fully_connected

N, FAC, STEPS = 12, 1.5, 25


@pytest.fixture(scope="module")
def problem() -> Problem:
    data = partial(rank_two, N, 4, dtype=torch.float64)
    options = {"width": (40,), "he": False}
    return Problem(data, model=wide_fully_connected, options=options, dtype="float64")


@pytest.fixture(scope="module")
def network(problem):
    return run_at(problem, 0, FAC, STEPS)


def exact(problem, seed=0):
    """Objective, w_0, K and r_0 by the Jacobian of all outputs."""
    objective, w = problem.build(seed)
    J = torch.func.jacrev(objective.outputs)(w).flatten(0, 1)
    return objective, w, J @ J.T, (objective.outputs(w) - objective.targets).flatten()


def test_the_step_size_is_a_multiple_of_the_critical_one(problem, network):
    K = exact(problem)[2]
    critical = 2 / torch.linalg.eigvalsh(K / N)[-1].item()
    np.testing.assert_allclose(network.eta, FAC * critical, rtol=1e-10)
    assert network.eta_crit[0] == pytest.approx(critical)
    assert network.kernel_norm[0] == pytest.approx(2 * N / critical)


def test_the_linear_model_follows_the_powers_of_its_matrix(problem):
    _, _, K, r = exact(problem)
    values, vectors = torch.linalg.eigh(K)
    for fac in (0.95, 1.05):
        table = run_at(problem, 0, fac, STEPS, "linear")
        rates = 1 - table.eta[0] * values / N
        powers = rates ** torch.arange(len(table))[:, None]
        loss = ((vectors.T @ r) * powers).square().sum(1) / (2 * N)
        # rounding is 1e-16 a step, and the residual does not shrink by more than 1e-3
        np.testing.assert_allclose(table.loss, loss, rtol=1e-9)
        assert table.linear_gap.max() < 1e-11
        assert table.kernel_norm.nunique() == 1
        assert table.loss.is_monotonic_decreasing == (fac < 1)


def test_divergence_is_recorded(problem):
    table = run_at(problem, 0, 3.0, 100, "linear")
    assert table.diverged.iloc[-1] and not table.diverged.iloc[:-1].any()
    assert table.loss.iloc[-1] > 1e4 * table.loss[0]


def test_the_network_is_that_of_descent_by_hand(problem, network):
    objective, w, K, r = exact(problem)
    eta, first = network.eta[0], r.clone()
    for row in network.itertuples():
        residual = objective.outputs(w).flatten() - objective.targets.flatten()
        assert row.loss == pytest.approx(float(residual.square().sum()) / (2 * N))
        gap = (residual - r).norm() / r.norm()
        assert row.linear_gap == pytest.approx(float(gap), rel=1e-6, abs=1e-12)
        w = w - eta * torch.func.grad(objective.loss)(w)
        r = r - eta / N * K @ r
    vectors = torch.linalg.eigh(K)[1][:, -5:]
    inside = (vectors.T @ first).square().sum() / (2 * N)
    assert network.top_loss[0] == pytest.approx(float(inside))
    np.testing.assert_allclose(network.top_loss + network.rest_loss, network.loss)


def test_the_random_subspace_holds_its_share(problem):
    losses = [run_at(problem, seed, 0.5, 1, "linear", s=3) for seed in range(40)]
    shares = [(table.random_loss / table.loss)[0] for table in losses]
    # a Beta(3/2, 9/2) has mean 3/12 and deviation .16: the mean of 40 has .026
    assert np.mean(shares) == pytest.approx(3 / N, abs=0.1)
    whole = run_at(problem, 0, 0.5, 1, s=N)
    np.testing.assert_allclose(whole.random_loss, whole.loss)


def test_frozen_gates_are_the_quadratic_model(problem):
    both = [run_at(problem, 0, FAC, 6, kind) for kind in ("frozen", "quadratic")]
    for column in ("loss", "kernel_norm", "top_loss", "linear_gap"):
        np.testing.assert_allclose(both[0][column], both[1][column], rtol=1e-6, atol=1e-9)


def test_the_step_size_is_raised_after_each_catapult(problem):
    table = run_raised(problem, 0, 1.3, 200, first=0.5, hold=4, raises=2)
    assert table.eta[0] == pytest.approx(0.5 * table.eta_crit[0])
    raises = np.flatnonzero(table.raised)
    assert len(raises) == 2 and raises[0] == 5
    np.testing.assert_allclose(table.eta[raises], 1.3 * table.eta_crit[raises - 1].array)
    assert table.eta.nunique() == 3
    events = catapults(table)
    assert events.raised.sum() == 2
    assert raises[1] == events.end[0] + 4 + 1


def test_without_raises_it_is_the_run_at_a_constant_step_size(problem, network):
    table = run_raised(problem, 0, 9.9, STEPS, first=FAC, raises=0)
    assert not table.raised.any()
    same = ["loss", "kernel_norm", "top_loss"]
    np.testing.assert_allclose(table[same], network[same], rtol=1e-10)


def made(loss, beyond, raised=()):
    """A table: `beyond` says where eta > eta_crit; lambda_max is 10 - step."""
    steps = np.arange(len(loss))
    table = pd.DataFrame({"step": steps, "loss": np.asarray(loss, float), "eta": 1.0})
    table["eta_crit"] = np.where(np.isin(steps, beyond), 0.5, 2.0)
    table["raised"] = np.isin(steps, raised)
    return table.assign(kernel_norm=10.0 - steps, top_loss=table.loss / 2)


def test_a_catapult_begins_beyond_rises_and_comes_back():
    table = made([3, 2, 1, 4, 8, 2, 1], beyond=[1, 2, 3])
    (event,) = catapults(table).to_dict("records")
    assert (event["begin"], event["peak"], event["end"]) == (1, 4, 6)
    assert event["height"] == 8 and event["top_share"] == 0.5
    assert event["kernel_ratio"] == pytest.approx(4 / 9)
    assert not event["raised"]


@pytest.mark.parametrize(
    ("loss", "beyond", "why"),
    [
        ([1, 1, 9, 1, 1], [], "never beyond the critical step size"),
        ([1, 1.2, 1.4, 1, 1], [0, 1, 2], "too low"),
        ([1, 1, 2, 9, 9], [0, 1, 2], "not back"),
        ([1, 1.1, 1.2, 9, 1], [0, 1], "below critical before it rose"),
    ],
)
def test_what_is_no_catapult(loss, beyond, why):
    assert catapults(made(loss, beyond)).empty, why


def test_one_after_the_other_and_which_came_with_a_raise():
    loss = [1, 5, 1, 1, 1, 5, 1, 1, 5, 1]
    events = catapults(made(loss, beyond=[0, 1, 4, 5, 7, 8], raised=[4, 9]))
    assert events.begin.tolist() == [0, 4, 7]
    assert events.end.tolist() == [2, 6, 9]
    assert events.raised.tolist() == [False, True, False]


def test_thresholds_and_rows_without_a_kernel():
    table = made([1, 2, 6, 1.05, 0.9], beyond=[0, 1])
    assert len(catapults(table, rise=5)) == 1 and catapults(table, rise=7).empty
    assert catapults(table).end.item() == 3
    assert catapults(table, back=1.0).end.item() == 4
    table.loc[3, "eta_crit"] = np.nan
    assert catapults(table).end.item() == 4


def test_the_summary(network):
    numbers, ratio = summary(network), network.kernel_norm / network.kernel_norm[0]
    peak = network.loss.idxmax()
    assert numbers.peak == network.loss.max() / network.loss[0]
    assert numbers.kernel_drift == (ratio - 1).abs().max()
    rise = network.loss[peak] - network.loss[0]
    top = (network.top_loss[peak] - network.top_loss[0]) / rise
    assert peak > 0 and numbers.top_share == pytest.approx(top)
    lost = summary(network.assign(loss=[*network.loss[:-1], np.nan]))
    assert lost.end == lost.peak == np.inf
    calm = summary(network.iloc[[0, -1]].reset_index(drop=True).assign(loss=[2.0, 1.0]))
    assert np.isnan(calm.top_share) and calm.growth == 0.5


@pytest.mark.parametrize("wrong", [{"fac": 0.0}, {"model": "cubic"}])
def test_wrong_settings_of_a_run(problem, wrong):
    with pytest.raises(ValueError):
        run_at(problem, 0, **({"fac": 1.0, "steps": 1} | wrong))


@pytest.mark.parametrize(
    "wrong", [{"fac": -1.0}, {"first": 0.0}, {"hold": -1}, {"raises": -1}, {"steps": 0}]
)
def test_wrong_settings_of_a_schedule(problem, wrong):
    with pytest.raises(ValueError, match="positive"):
        run_raised(problem, 0, **({"fac": 1.0, "steps": 1} | wrong))


def test_other_losses_and_thresholds():
    problem = Problem(loss="cross_entropy")
    for run in (run_at, run_raised):
        with pytest.raises(ValueError, match="mse"):
            run(problem, 0, 1.0, 1)
    for rise, back in ((1.0, 1.0), (1.5, 2.0), (2.0, 0.0)):
        with pytest.raises(ValueError, match="catapult"):
            catapults(made([1, 1], []), rise, back)

"""common.scaling_runs: the bundle against torch.optim.SGD, tables, mini-batches."""

import numpy as np
import pytest
import torch

from common.interpolators import MatrixSensing, interpolate
from common.objective import Problem
from common.scaling import integral_times
from common.scaling_runs import (
    Bundle,
    run_drift,
    run_network,
    run_relaxation,
    run_traces,
    times,
)

TINY = {"d": 3, "n": 5}
SETTING = {
    "name": "matrix sensing",
    "seed": 3,
    "shares": [0.2, 0.4, 0.8],
    "mus": [0.01, 0.03, 0.1],
    "eps": 0.05,
    "problems": 2,
    "noises": 2,
    "window": 1.5,
    "options": TINY,
    "search": 30,
}


def bundle(**changes):
    system, w = MatrixSensing.draw(1, 2, **TINY)
    w = interpolate(system, w)
    eta, eps = torch.tensor([0.01, 0.02]), torch.tensor([0.1, 0.2])
    given = dict(eta=eta, mus=[0.1, 1.0], eps=eps, noises=2, seed=7) | changes
    return Bundle(system, w, **given), system, w


@pytest.mark.parametrize("ema", [False, True])
def test_a_bundle_is_torch_sgd_with_noisy_labels(ema):
    runs, system, w = bundle(ema=ema)
    runs.advance(5)
    for problem in range(2):
        draw = torch.Generator().manual_seed(7 + problem)
        signs = (torch.randint(2, (5, 5, 2), generator=draw) * 2 - 1).double()
        eta, eps = [0.01, 0.02][problem], [0.1, 0.2][problem]
        for m, mu in enumerate([0.1, 1.0]):
            for noise in range(2):
                v = w[problem, :, 0].clone().requires_grad_()
                kwargs = dict(momentum=1 - mu, dampening=1 - mu if ema else 0.0)
                # torch starts from the first gradient, undampened: repeat its start
                rule = torch.optim.SGD([v], eta, **kwargs)
                rule.state[v]["momentum_buffer"] = torch.zeros_like(v)
                for k in range(5):
                    r = system.only(slice(problem, problem + 1)).residuals(v[None, :, None])
                    labels = eps * signs[k, :, noise]
                    rule.zero_grad()
                    ((r[0, :, 0] - labels).square().sum() / 2).backward()
                    rule.step()
                # float32 step sizes and noise scales
                got = runs.w[problem, :, m * 2 + noise]
                torch.testing.assert_close(got, v.detach(), rtol=1e-6, atol=1e-6)


def test_what_is_kept_goes_on_as_before():
    whole, part = bundle()[0], bundle()[0]
    whole.advance(3)
    whole.advance(3)
    part.advance(3)
    part.keep(torch.tensor([False, True]))
    part.advance(3)
    torch.testing.assert_close(part.w[0], whole.w[1])


def test_relaxation_times_are_those_of_the_estimators_module():
    table = run_relaxation(**SETTING, every=5)
    shares, mus, T = times(table)
    assert T.shape == (2, 3, 3, 2) and shares.tolist() == SETTING["shares"]
    assert table.ended.all() and table.cpu_seconds.notna().sum() == 1
    rows = table[(table.problem == 0) & (table.share == 0.4)]
    K = int(rows.K.iloc[0])
    traces = run_traces("matrix sensing", 3, 0.4, mus, 0.05, K, 2, 5, {**TINY}, search=30)
    # one problem alone draws other matrices: only the shape of its numbers is compared
    assert len(traces) == (K // 5 + 1) * 3 * 2 and (traces.trace > 0).all()
    # the window is where the definition closes: K >= c min T, not yet a record before
    best = np.exp(np.log(T).mean(-1)).min(-1)[0, 1]
    assert K - 5 - 5 < 1.5 * best <= K
    gap = np.exp(-np.arange(0, 400, 5) / np.array([[50.0], [90.0]]))[:, None]
    assert integral_times(gap, 5, 1.5)[1] > 0


def test_runs_that_never_relax_are_kept_and_marked():
    table = run_relaxation(**SETTING | {"shares": [8.0, 9.0, 10.0]}, every=5, most=40)
    assert not table.ended.any() and table["T"].gt(40).any() and table["T"].notna().all()
    assert table["test_error_0.2"].isna().all()


def test_one_noise_scale_for_each_share_and_bad_input():
    scaled = run_relaxation(**SETTING | {"eps": [0.05, 0.04, 0.03]}, every=5)
    assert sorted(scaled.eps.round(6).unique()) == [0.03, 0.04, 0.05]
    for bad in ({"eps": [0.1]}, {"mus": [0.1, 2.0]}, {"shares": [0.0, 0.1, 0.2]}):
        with pytest.raises(ValueError, match="positive"):
            run_relaxation(**SETTING | bad)
    with pytest.raises(ValueError, match="unknown system"):
        run_relaxation(**SETTING | {"name": "nothing"})


def test_the_drift_is_the_limit_of_many_small_steps():
    # mu far above its optimum: tr H of the mean over the noise falls as in the drift
    drifted = run_drift("matrix sensing", 3, 1, 0.0, {**TINY})
    mu, eps, share, steps = 0.3, 0.05, 0.3, 3000
    traces = run_traces("matrix sensing", 3, share, [mu], eps, steps, 16, steps, {**TINY})
    first, last = traces.groupby("step").trace.mean()
    gap = (last - traces.least[0]) / (first - traces.least[0])
    eta = share / drifted.sharpness[0]
    tau = steps * (eps * eta) ** 2 / (4 * mu**2)
    expected = np.interp(tau, drifted.tau, drifted.gap)
    assert 0.1 < expected < 0.9  # it has moved, and is not yet there
    # leading order: corrections of order eta lambda / 4 and mu, noise 1 / sqrt(16 runs)
    assert gap == pytest.approx(expected, abs=0.06)


def test_a_network_on_mini_batches():
    problem = Problem(
        n=24, classes=3, size=7, model="residual", options={"channels": (4, 8)}
    )
    options = dict(share=0.3, eps=0.05, batch=8, first=60, steps=20, every=10, test=30)
    table = run_network(problem, 0, mus=[0.1, 1.0], **options)
    assert table.step.tolist() == [0, 10, 20] * 2 and table.cpu_seconds.notna().sum() == 1
    assert table.trace.gt(0).all() and table.test_error.between(0, 1).all()
    starts = table[table.step == 0]
    assert starts.loss.nunique() == 1  # all momenta start from the same phase 1
    objective, w = problem.build(0)
    assert starts.loss.iloc[0] < objective.at(w).loss
    with pytest.raises(ValueError, match="squared"):
        run_network(Problem(loss="cross_entropy"), 0, mus=[0.1], **options)

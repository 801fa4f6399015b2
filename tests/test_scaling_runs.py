"""common.scaling_runs: the bundle against torch.optim.SGD, tables, mini-batches."""

import numpy as np
import pandas as pd
import pytest
import torch

from common.interpolators import MatrixSensing, interpolate
from common.objective import Problem
from common.scaling import integral_times
from common.scaling_runs import (
    Bundle,
    drift_times,
    equal_convergence,
    network_times,
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
    # the first problem at the first step size draws the noise of these traces
    rows = table[(table.problem == 0) & (table.share == 0.2)]
    K = int(rows.K.iloc[0])
    followed = run_traces("matrix sensing", 3, 0.2, mus, 0.05, K, 2, 2, 5, TINY, search=30)
    paths = followed.pivot_table(index=["mu", "noise"], columns="step", values="trace")
    least = followed.least[0]
    gap = (paths.to_numpy() - least) / (paths.to_numpy()[:, :1] - least)
    again, window = integral_times(gap.reshape(3, 2, -1), 5, 1.5)
    assert window == K
    np.testing.assert_allclose(again, T[0, 0], rtol=1e-4)  # float32, in other batches


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
    traces = run_traces("matrix sensing", 3, share, [mu], eps, steps, 1, 16, steps, TINY)
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


def test_drift_times_of_an_exponential():
    path = pd.DataFrame({"tau": np.linspace(0, 60, 60_001)})
    path["gap"] = np.exp(-path.tau)
    eta, eps, mus = 0.1, 0.02, np.array([0.01, 0.1])
    slow = 4 * mus**2 / (eps * eta) ** 2  # steps in a unit of tau
    # trapezoids of 1e-3: 1e-7; the tail beyond 60: e^-60
    np.testing.assert_allclose(drift_times(path, eta, eps, mus, np.inf), slow, rtol=1e-6)
    K = 200.0
    cut = slow * (1 - np.exp(-K / slow))
    np.testing.assert_allclose(drift_times(path, eta, eps, mus, K), cut, rtol=1e-6)


def test_equal_convergence_compares_the_optimum_with_less_momentum():
    mus, T = [0.01, 0.02, 0.04, 0.08], [200.0, 100.0, 130.0, 300.0]
    rows = [
        {"problem": 0, "share": 0.1, "mu": mu, "noise": s, "T": t, "steps_0.5": t}
        | {"steps_0.35": 2 * t, "steps_0.2": np.nan if mu == 0.08 else 3 * t}
        | {"test_error_0.5": 0.4, "test_error_0.35": 0.2 + mu, "test_error_0.2": 0.1}
        for mu, t in zip(mus, T, strict=True)
        for s in range(3)
    ]
    found = equal_convergence(pd.DataFrame(rows), 2.0)  # 0.02 against 0.04
    assert found.level.tolist() == [0.5, 0.35, 0.2]
    assert found.steps.tolist() == pytest.approx([1.3] * 3)
    assert found.test.tolist() == pytest.approx([0, np.log(0.22 / 0.24), 0])
    assert found.unequal.iloc[1:].tolist() == pytest.approx([np.log(0.4 / 0.24), np.log(4)])
    found = equal_convergence(pd.DataFrame(rows), 4.0)  # 0.08 never gets to 0.2
    assert found.level.tolist() == [0.5, 0.35]


def test_times_of_networks():
    steps, mus = np.arange(0, 2000, 10), np.array([0.1, 0.2])

    def table(scale):
        parts = [
            pd.DataFrame({"mu": mu, "step": steps, "trace": 1 + np.exp(-steps / tau)})
            for mu, tau in zip(mus, (scale, 2 * scale), strict=True)
        ]
        return pd.concat(parts, ignore_index=True)

    tables = {(x, seed): table(40 / x) for x in (0.5, 1.0) for seed in (0, 1)}
    shares, grid, T = network_times(tables, window=6, lift=0.0)
    assert shares.tolist() == [0.5, 1.0] and grid.tolist() == [0.1, 0.2]
    # trapezoids of (10 / 40)^2 / 12 = .005, a window of 6 or 3 relaxation times
    expected = np.array([80, 160]) * (1 - np.exp([-6, -3]))
    assert T.shape == (2, 2, 2)
    np.testing.assert_allclose(T[0], np.stack([expected] * 2, 1), rtol=0.01)

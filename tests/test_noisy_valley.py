"""The solvable valley: formulas against matrix powers, Monte Carlo, autograd and torch."""

import numpy as np
import pandas as pd
import pytest
import torch

from common.noisy_valley import (
    NoisyValley,
    alpha,
    relaxation,
    run_transverse,
    run_valley,
    step_size,
    transverse_map,
    transverse_moments,
    transverse_rate,
    transverse_variance,
)
from common.scaling import (
    argmin_exponent,
    collapse_exponent,
    crossover_exponent,
    integral_times,
)

ETA, MU, H = (
    a.ravel() for a in np.meshgrid([0.01, 0.3, 1.0], [0.02, 0.2, 1.0], [0.1, 1.7])
)
ETAS, MUS = np.geomspace(3e-4, 3e-2, 5), np.geomspace(8e-5, 0.04, 33)


def grid(table):
    return table["T"].to_numpy().reshape(len(ETAS), len(MUS), 1)


def test_the_stationary_variance_is_the_fixed_point_of_the_moments():
    M, source = transverse_map(ETA, MU, H)
    fixed = np.linalg.solve(np.eye(3) - M, 0.2**2 * source[..., None])[..., 0, 0]
    np.testing.assert_allclose(transverse_variance(ETA, MU, H, 0.2), fixed, rtol=1e-9)
    with pytest.raises(ValueError, match="unstable"):
        transverse_variance(4.0, 0.1, 1.0, 0.2)  # 2 (1 + beta) = 3.8


def test_the_moments_are_those_of_the_step():
    M, source = transverse_map(0.3, 0.2, 1.7)
    step = np.array([[1 - 0.3 * 1.7, 0.3 * 0.8], [-1.7, 0.8]])
    push = np.array([0.3, 1.0]) * 1.7**0.5
    rng = np.random.default_rng(0)
    root = rng.standard_normal((2, 2))
    before = root @ root.T
    after = step @ before @ step.T + 0.2**2 * np.outer(push, push)
    upper = np.array([0, 1, 3])  # zz, zq, qq
    mapped = M @ before.ravel()[upper] + 0.2**2 * source
    np.testing.assert_allclose(mapped, after.ravel()[upper], rtol=1e-12)


def test_oscillating_modes_relax_at_minus_log_beta_and_others_slowly():
    fast = MU**2 < 2 * ETA * H  # well inside (1 - sqrt(beta))^2 < eta h
    fast &= MU < 1
    np.testing.assert_allclose(transverse_rate(ETA, MU, H)[fast], -np.log(1 - MU[fast]))
    # sum over all steps of the propagator: the rate is what the transient shows
    path = transverse_moments(0.1, 0.05, 1.0, 0.3, 400)
    rest = 1 - path / transverse_variance(0.1, 0.05, 1.0, 0.3)
    k = np.arange(100, 400)
    measured = -np.polyfit(k, np.log(rest[100:400]), 1)[0]
    assert measured == pytest.approx(-np.log(0.95), rel=1e-3)
    # overdamped: to first order in eta h / mu^2 = .001, twice the drift rate eta h / mu
    assert transverse_rate(1e-4, 0.1, 0.1) == pytest.approx(2e-4, rel=0.01)


@pytest.mark.parametrize("ema", [False, True])
def test_the_monte_carlo_is_torchs_sgd_and_agrees_with_the_moments(ema):
    table = run_transverse([0.5], [0.1], [1.7], 0.2, seed=3, chains=20_000, span=2, ema=ema)
    eta = float(step_size(0.5, 0.1, ema))
    exact = transverse_moments(eta, 0.1, 1.7, 0.2, int(table.step.max()))
    # a sample variance of 20,000 has a relative error of 1 %; its square, 4 of them
    seen = table[table.step > 0]
    np.testing.assert_allclose(seen.variance, exact[seen.step], rtol=0.04)
    w = torch.zeros(3, requires_grad=True, dtype=torch.float64)
    damp = 0.9 if ema else 0.0
    rule = torch.optim.SGD([w], lr=0.5, momentum=0.9, dampening=damp)
    rule.state[w]["momentum_buffer"] = torch.zeros(3, dtype=torch.float64)
    rng, z, q = np.random.default_rng(0), np.zeros(3), np.zeros(3)
    for _ in range(20):
        noise = 0.2 * 1.7**0.5 * rng.standard_normal(3)
        q = 0.9 * q - 1.7 * z + noise
        z = z + eta * q
        rule.zero_grad()
        (1.7 * w**2 / 2 - torch.from_numpy(noise) * w).sum().backward()
        rule.step()
        np.testing.assert_allclose(w.detach().numpy(), z, rtol=1e-12)


def test_the_closed_moments_are_the_limit_of_many_residuals():
    """Autograd on 20,000 residuals, whose |z|^2 fluctuates by 1 %."""
    valley, eta, mu, n, steps = NoisyValley(0.7, 1.3, 0.3), 0.2, 0.05, 20_000, 300
    f64 = {"dtype": torch.float64}
    x = torch.tensor(0.8, requires_grad=True, **f64)
    z = torch.zeros(n, requires_grad=True, **f64)
    rule = torch.optim.SGD([x, z], lr=eta, momentum=1 - mu)
    generator, seen = torch.Generator().manual_seed(0), []
    for _ in range(steps + 1):
        seen.append((float(x.detach()), float(z.detach().square().sum())))
        noise = valley.eps * n**-0.5 * torch.randn(n, generator=generator, **f64)
        rule.zero_grad()
        f = (valley.h0 + valley.a * x**2).sqrt() * z
        ((f - noise) ** 2).sum().div(2).backward()
        rule.step()
    path = valley.follow(eta, mu, 0.8, still=True)
    closed = np.array([[float(a) for a in next(path)] for _ in range(steps + 1)])
    seen = np.array(seen)
    assert np.abs(closed[:, 0]).min() < 0.1  # it went from .8 through zero
    np.testing.assert_allclose(seen[:, 0], closed[:, 0], atol=0.02)
    np.testing.assert_allclose(seen[20:, 1], closed[20:, 1], rtol=0.1)


def test_near_the_flattest_point_time_and_rate_are_exact():
    valley = NoisyValley(0.7, 1.3, 0.1)
    eta, mu = 0.02, np.array([0.002, 0.01, 0.03])
    path, x0 = valley.follow(eta, mu, 1e-4), 1e-4
    x = np.stack([next(path)[0].copy() for _ in range(40_001)])
    np.testing.assert_allclose(((x / x0) ** 2).sum(0), valley.time(eta, mu), rtol=1e-6)
    # modulus of the slowest mode, from the map itself
    kappa = valley.stiffness(eta, mu)
    for k, m, rate in zip(kappa, mu, valley.drift_rate(eta, mu), strict=True):
        roots = np.linalg.eigvals([[1 - k, 1 - m], [-k, 1 - m]])
        assert rate == pytest.approx(-np.log(np.abs(roots).max()), rel=1e-9)


def test_the_two_time_scales_meet_at_the_optimum():
    valley = NoisyValley(2.0, 1.3, 0.1)
    for eta in (1e-7, 1e-5):  # corrections are of the order of mu
        mu, T = valley.optimum(eta)
        fine = mu * np.linspace(0.5, 2, 20_001)
        times = valley.time(eta, fine)
        assert fine[times.argmin()] == pytest.approx(mu, rel=0.01)
        assert times.min() == pytest.approx(T, rel=0.01)
        assert valley.tau_1(mu) == pytest.approx(2 * valley.tau_2(eta, mu))
        wide = 2 * mu * np.linspace(0.5, 2, 20_001)
        rates = valley.drift_rate(eta, wide)
        assert wide[rates.argmax()] == pytest.approx(valley.critical(eta), rel=0.01)
        assert rates.max() == pytest.approx(valley.critical(eta) / 2, rel=0.02)
        # far to the right of it, the drift of the paper
        assert valley.drift_rate(eta, 20 * mu) * valley.tau_2(
            eta, 20 * mu
        ) == pytest.approx(1, rel=0.01)


def test_the_time_of_a_power_of_eta_scales_as_alpha():
    valley, etas = NoisyValley(), np.geomspace(1e-12, 1e-9, 5)
    for gamma in (1 / 3, 1 / 2, 2 / 3, 0.85, 1):
        mu = valley.optimum(1e-9)[0] * (etas / 1e-9) ** gamma
        mu = mu * (10 if gamma < 0.6 else 0.1 if gamma > 0.7 else 1)
        slope = np.polyfit(np.log(etas), np.log(valley.time(etas, mu)), 1)[0]
        assert -slope == pytest.approx(float(alpha(gamma)), abs=0.01)


def test_runs_find_the_exact_optimum_and_the_exponent():
    valley = NoisyValley(eps=0.05)
    T = grid(run_valley(valley, ETAS, MUS, every=5))
    A, B = argmin_exponent(ETAS, MUS, T, resamples=2), collapse_exponent(ETAS, MUS, T)
    C = crossover_exponent(ETAS, MUS, T, level=1.5, resamples=2)
    for value in (A.slope.value, -A.time.value, B.p.value, B.q.value, C.slope.value):
        assert value == pytest.approx(2 / 3, abs=0.003)
    # a quartic through a sum of two powers, x0 = .3: within 2 % of the constants
    mu, T_star = valley.optimum(ETAS)
    np.testing.assert_allclose(A.mu[0], mu, rtol=0.02)
    np.testing.assert_allclose(A.T[0], T_star, rtol=0.02)


def test_the_runs_use_the_self_consistent_window():
    valley = NoisyValley(eps=0.05)
    table = run_valley(valley, [0.03], MUS[10:30], every=5, c=6)
    path = valley.follow(0.03, MUS[10:30], 0.3)
    x = np.stack([next(path)[0].copy() for _ in range(1001)], -1)[:, None, ::5]
    T, K = integral_times((x / 0.3) ** 2, 5, 6)
    np.testing.assert_allclose(table["T"], T[:, 0])
    assert (table.window == K).all()
    with pytest.raises(ValueError, match="no window in 100 steps at eta = .0.03"):
        run_valley(valley, [0.03], MUS[10:30], most=100)


def test_momentum_as_an_average_has_no_optimum_and_another_exponent():
    valley, etas = NoisyValley(eps=0.05), np.geomspace(0.7, 2.5, 5)
    table = run_valley(valley, etas, MUS, every=5, ema=True)
    T = grid(table)
    with pytest.raises(ValueError, match="no interior optimum"):
        argmin_exponent(etas, MUS, T, resamples=2)
    B = collapse_exponent(etas, MUS, T)
    assert B.p.value == pytest.approx(2, abs=0.15) and B.q.value == pytest.approx(
        2, abs=0.15
    )


def test_the_fit_returns_rate_and_variance():
    steps, rows = np.arange(0, 601, 10), []
    for cell, (eta, mu, h) in enumerate([(0.05, 0.01, 1.0), (0.5, 0.03, 4.0)]):
        exact = transverse_moments(eta, mu, h, 0.1, 600)[steps]
        columns = {"cell": cell, "eta": eta, "mu": mu, "h": h, "step": steps}
        rows.append(pd.DataFrame(columns | {"variance": exact}))
    fits = relaxation(pd.concat(rows))
    # the oscillation, of relative size mu / (2 sqrt(eta h)) = .02, averages out mostly
    np.testing.assert_allclose(fits.rate, -np.log1p(-fits.mu), rtol=0.01)
    exact = transverse_variance(fits.eta, fits.mu, fits.h, 0.1)
    np.testing.assert_allclose(fits.V, exact, rtol=2e-3)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="positive"):
        NoisyValley(a=0)
    with pytest.raises(ValueError, match="mu = 1 - beta in"):
        step_size(0.1, 1.5)
    with pytest.raises(ValueError, match="as many cells"):
        run_transverse([0.1], [0.1, 0.2], [1.0], 0.1, 0)

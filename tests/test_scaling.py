"""Estimators of an exponent against curves whose exponent is known."""

import numpy as np
import pytest

from common.scaling import (
    CAP,
    Power,
    RelaxationTimes,
    argmin_exponent,
    collapse_exponent,
    crossover_exponent,
    integral_times,
    window,
)

EXPONENTS = pytest.mark.parametrize("p", [1 / 2, 2 / 3, 1])
ETAS = np.geomspace(0.004, 0.06, 6)
MUS = 0.0002 * 1.3 ** np.arange(27)


def curves(p, problems=3, seeds=8, noise=0.1, seed=0):
    """T = (1 + (mu / C eta^p)^3 / 2) / mu: relaxation on the left, drift on the right.

    Noise as in the systems: most of it is common to all mu, some is not.
    """
    rng = np.random.default_rng(seed)
    C = 0.004 / 0.015**p * np.exp(0.2 * rng.standard_normal(problems))
    x = MUS / (C[:, None, None] * ETAS[:, None] ** p)
    common = noise * rng.standard_normal((problems, len(ETAS), 1, seeds))
    own = noise / 2 * rng.standard_normal((problems, *x.shape[1:], seeds))
    return ((1 + x**3 / 2) / MUS)[..., None] * np.exp(common + own), C


def estimates(p, **keywords):
    T, _ = curves(p, **keywords)
    A = argmin_exponent(ETAS, MUS, T, resamples=150)
    B = collapse_exponent(ETAS, MUS, T, resamples=150)
    C = crossover_exponent(ETAS, MUS, T, resamples=150)
    return A, B, C


@EXPONENTS
def test_without_noise_each_estimator_returns_the_truth(p):
    (A, B, C), (_, true) = estimates(p, noise=0.0), curves(p, noise=0.0)
    # quartics and straight lines through a curve that is neither; a tenth of a grid step
    assert A.slope.value == pytest.approx(p, abs=0.01)
    assert A.time.value == pytest.approx(-p, abs=0.01)
    assert B.p.value == pytest.approx(p, abs=0.01)
    assert B.q.value == pytest.approx(p, abs=0.01)
    assert C.slope.value == pytest.approx(p, abs=0.01)
    # 1 / mu + mu^2 / 2 C^3 is least at mu = C, and mu T = 3 at mu = 4^(1/3) C
    np.testing.assert_allclose(A.mu, true[:, None] * ETAS**p, rtol=0.05)
    np.testing.assert_allclose(A.T, 1.5 / A.mu, rtol=0.05)
    np.testing.assert_allclose(C.mu, 4 ** (1 / 3) * true[:, None] * ETAS**p, rtol=0.02)


@EXPONENTS
def test_the_intervals_hold_the_truth_and_no_other_exponent(p):
    # 95 % intervals: seven of ten or more hold the truth with probability .999
    # (in 120 draws: 94 to 98 %)
    all_runs = [estimates(p, seed=seed) for seed in range(10)]
    for slopes in zip(*((A.slope, B.p, C.slope) for A, B, C in all_runs), strict=True):
        assert sum(s.contains(p) for s in slopes) >= 7
        for other in {1 / 2, 2 / 3, 1} - {p}:
            assert not any(s.contains(other) for s in slopes)
    for _, B, _ in all_runs:
        assert B.rms[p] < 1.1 * B.rms["fit"] < 0.06
        assert all(B.rms[other] > 2 * B.rms["fit"] for other in {1 / 2, 2 / 3, 1} - {p})


def test_the_time_may_scale_with_another_exponent_than_mu():
    T, _ = curves(2 / 3)
    T = T * ETAS[:, None, None] ** 0.25
    B = collapse_exponent(ETAS, MUS, T, resamples=50)
    assert B.p.contains(2 / 3) and B.q.contains(2 / 3 - 0.25)
    assert B.q_fixed[2 / 3] == pytest.approx(2 / 3 - 0.25, abs=0.02)
    assert argmin_exponent(ETAS, MUS, T, resamples=50).slope.contains(2 / 3)


def test_the_interval_is_as_wide_as_the_scatter():
    runs = [estimates(2 / 3, problems=1, seed=seed) for seed in range(15)]
    for slopes in zip(*((A.slope, B.p, C.slope) for A, B, C in runs), strict=True):
        width = np.mean([s.high - s.low for s in slopes])
        scatter = np.std([s.value for s in slopes])
        assert 2 < width / scatter < 6  # 3.9 if both were exact


def test_one_problem_may_come_without_its_axis_and_one_seed_has_no_interval():
    T, _ = curves(2 / 3, problems=1)
    both = [argmin_exponent(ETAS, MUS, t, resamples=20) for t in (T, T[0])]
    assert both[0].slope == both[1].slope
    for fit in (argmin_exponent, collapse_exponent, crossover_exponent):
        alone = fit(ETAS, MUS, T[..., :1], resamples=5)
        power = getattr(alone, "slope", getattr(alone, "p", None))
        assert np.isnan(power.low) and not power.contains(power.value)
    assert str(Power(2 / 3, 0.6, 0.7)) == "0.667 [0.600, 0.700]"


@pytest.mark.parametrize("part, error", [(slice(14, None), "left"), (slice(9), "right")])
def test_an_optimum_at_the_edge_of_the_grid_is_refused(part, error):
    T, _ = curves(2 / 3, problems=1, noise=0.0)
    with pytest.raises(ValueError, match="no interior optimum.*eta = .* widen mus"):
        argmin_exponent(ETAS, MUS[part], T[:, :, part])


def test_failed_fits_are_refused():
    T, _ = curves(2 / 3, problems=1)
    with pytest.raises(ValueError, match="does not cross 1000 right .*eta = 0.0068"):
        crossover_exponent(ETAS, MUS[:20], T[:, :, :20], level=1e3)
    rng = np.random.default_rng(0)
    scattered = T * np.exp(rng.standard_normal(T.shape[:-1])[..., None])
    with pytest.raises(ValueError, match="collapse|interior"):
        collapse_exponent(ETAS, MUS, scattered)
    with pytest.raises(ValueError, match="points at 6 step sizes"):
        collapse_exponent(ETAS, MUS[:2], T[:, :, :2])
    # mu* ~ eta^3.5 is beyond what the collapse tries
    mus, eta = np.geomspace(1e-9, 1, 100), ETAS[:, None]
    steep = 1 / mus + (mus / (100 * eta**3.5)) ** 3 / mus
    with pytest.raises(ValueError, match="end of 0 to 3"):
        collapse_exponent(ETAS, mus, steep[..., None])


def test_a_cell_that_lacks_a_run_is_left_out():
    T, _ = curves(2 / 3, problems=1)
    whole = collapse_exponent(ETAS, MUS, T, resamples=20)
    at = np.argwhere(whole.used)[0]  # the point furthest to the left, of the first eta
    T[tuple(at)][3] = np.nan
    fit = collapse_exponent(ETAS, MUS, T, resamples=20)
    assert not fit.used[tuple(at)] and fit.used.sum() == whole.used.sum() - 1
    slope = argmin_exponent(ETAS, MUS, T, resamples=20).slope
    assert slope.value == pytest.approx(2 / 3, abs=0.02)
    T[0, 2] = np.nan
    with pytest.raises(ValueError, match="no complete cell at eta = 0.0118"):
        argmin_exponent(ETAS, MUS, T)


@pytest.mark.parametrize(
    "etas, mus, times, error",
    [
        (ETAS, MUS, np.ones((6, 4, 2)), "must be"),
        (ETAS[:2], MUS, np.ones((2, 27, 2)), "three etas"),
        (ETAS, MUS[::-1], np.ones((6, 27, 2)), "rising"),
        (-ETAS, MUS, np.ones((6, 27, 2)), "positive"),
        (ETAS, MUS, np.zeros((6, 27, 2)), "times must be positive"),
    ],
)
@pytest.mark.parametrize("fit", [argmin_exponent, collapse_exponent, crossover_exponent])
def test_bad_input_is_named(fit, etas, mus, times, error):
    with pytest.raises(ValueError, match=error):
        fit(etas, mus, times)


def decays(taus, steps, every):
    """exp(-k / tau) [M, 1, records]."""
    return np.exp(-np.arange(0, steps + 1, every) / np.asarray(taus)[:, None, None])


def test_the_window_is_so_many_times_the_smallest_relaxation_time():
    taus = [150.0, 100.0, 400.0]
    for c in (3.0, 5.0, 8.0):
        K = window(decays(taus, 4000, 1), 1, c)
        T = 100 * (1 - np.exp(-K / 100))  # the integral up to K
        assert K - 1 < c * T <= K + 1e-9 * K + 1  # the first such step
    for every in (1, 10):
        T, K = integral_times(decays(taus, 4000, every), every, 8)
        exact = np.array(taus) * (1 - np.exp(-K / np.array(taus)))
        np.testing.assert_allclose(T[:, 0], exact, rtol=(every / 100) ** 2 / 12 * 1.01)


def test_leading_axes_have_windows_of_their_own():
    gap = np.stack([decays([100.0, 200.0], 4000, 10), decays([200.0, 300.0], 4000, 10)])
    T, K = integral_times(gap, 10, 6)
    assert T.shape == (2, 2, 1) and K[1] == pytest.approx(2 * K[0], abs=10)
    for i in range(2):
        alone = integral_times(gap[i], 10, 6)
        np.testing.assert_array_equal(T[i], alone[0])
        assert K[i] == alone[1]


def test_a_diverged_run_counts_as_the_largest_gap_and_a_short_record_is_refused():
    gap = decays([100.0, 100.0, 100.0], 1000, 1)
    gap[1, :, 200:], gap[2, :, 200:] = np.nan, 1e9
    T, K = integral_times(gap, 1, 5)
    assert T[1, 0] == T[2, 0] == pytest.approx(100 + (K - 200) * CAP, rel=0.15)
    assert np.isnan(window(gap[..., :300], 1, 5))
    with pytest.raises(ValueError, match="1 of 1 curves: 299 steps end before 5 times"):
        integral_times(gap[..., :300], 1, 5)
    for bad in (gap[0], gap[..., :1]):
        with pytest.raises(ValueError, match="two records or more"):
            window(bad, 1, 5)
    for every, c in ((0, 5), (1, 1)):
        with pytest.raises(ValueError, match="at least 1, and c = . above 1"):
            window(gap, every, c)


def test_curves_that_are_complete_may_leave():
    taus = np.array([[100.0, 200.0], [300.0, 400.0], [50.0, 60.0]])
    gap = np.exp(-np.arange(0, 4001, 10) / taus[..., None, None])  # [3, 2, 1, records]
    whole, K = integral_times(gap, 10, 6)
    times, rows, found = RelaxationTimes(10, 6), np.arange(3), {}
    for record in np.moveaxis(gap, -1, 0):
        done = times.add(record[rows])
        found |= {int(rows[i]): times.T[i].copy() for i in np.flatnonzero(done)}
        times.keep(~done)
        rows = rows[~done]
        if not len(rows):
            break
    assert list(found) == [2, 0, 1]
    np.testing.assert_array_equal([found[i] for i in range(3)], whole)

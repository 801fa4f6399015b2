"""Estimators of the exponent in 1 - beta ~ eta^p, fixed before any exponent is looked at.

Written with mu = 1 - beta. The observable is the integral relaxation time

    T(mu, eta) = sum_k clip(gap_k, 0, 2),  gap_k = (trH_k - ref) / (trH_0 - ref)

of one run (paper 004 says when training is fast, not how to measure it; the choice is
ours). It is a smooth valley in log mu and scatters less than the time at which a threshold
is passed. Three estimators read an exponent off the times [problems, etas, mus, seeds]:

- (A) `argmin_exponent`: the slope of log mu*(eta), mu* the minimum of a quartic;
- (B) `collapse_exponent`: curves of all eta fall onto one, log T = -q log eta +
  F(log mu - p log eta), F a quartic;
- (C) `crossover_exponent`: the slope of the mu at which T = level / mu, where the time
  along the valley meets tau_1 = 1/mu.

Seeds must be paired over mu (the same noise for every mu) and independent over eta: they
are resampled so. A fit that fails raises ValueError; nothing is patched. On
exact power laws with 10 % noise the 95 % intervals hold the truth in 94 to 98 % of draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CAP = 2.0  # a gap counts at most so much: a run that diverges, too
DEPTH = 0.9  # points with log T up to so much above the smallest one enter a fit
FAILED = 0.1  # largest share of resamples in which an estimator may fail
MISFIT = 0.3  # a collapse with a larger rms of log T is refused
EXPONENTS = np.linspace(0, 3, 301)  # p that (B) tries; a parabola refines the best


@dataclass(frozen=True)
class Power:
    """An exponent and the 95 % percentile interval of its resamples.

    Args:
        value: From all runs.
        low: Lower end; NaN if there was nothing to resample (one problem, one seed).
        high: Upper end; NaN likewise.

    Example:
        >>> p = Power(0.66, 0.64, 0.68)
        >>> p.contains(2 / 3), p.contains(0.5), str(p)
        (True, False, '0.660 [0.640, 0.680]')
    """

    value: float
    low: float
    high: float

    def contains(self, exponent: float) -> bool:
        """Whether the interval holds the exponent; an interval of NaN holds none."""
        return bool(self.low <= exponent <= self.high)

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Optimum:
    """Estimate (A).

    Args:
        slope: d log mu* / d log eta.
        time: d log T* / d log eta, T* the time at mu*; minus alpha.
        mu: mu* [D, E] of D problems and E step sizes.
        T: T* [D, E].
        left: Points of the fit to the left of the smallest time, at the worst curve.
        right: The same to the right.
    """

    slope: Power
    time: Power
    mu: np.ndarray
    T: np.ndarray
    left: int
    right: int


@dataclass(frozen=True)
class Collapse:
    """Estimate (B).

    Args:
        p: The exponent of mu.
        q: The exponent of the time: log T + q log eta is a function of mu / eta^p.
        rms: Root mean square of what is left of log T, by exponent: "fit", and the fixed
            ones that were asked for, q being fitted for each.
        q_fixed: The q that goes with each fixed p.
        used: Which points [D, E, M] entered.
    """

    p: Power
    q: Power
    rms: dict[float | str, float]
    q_fixed: dict[float, float]
    used: np.ndarray


@dataclass(frozen=True)
class Crossover:
    """Estimate (C).

    Args:
        slope: d log mu / d log eta along T = level / mu.
        mu: That mu [D, E].
    """

    slope: Power
    mu: np.ndarray


class RelaxationTimes:
    """Integral relaxation times in the self-consistent window, while the runs go on.

    The window of a curve T(mu) is the first K with K >= c min_mu T(mu; K), T summed up to K
    and averaged over seeds in its log. A fixed window, or one that is another number of T*
    at every eta, shifts the optimum.

    Trapezoids between records: exact to (every / T)^2 / 12 for an exponential.

    Args:
        every: Steps between records.
        c: Length of the window in units of the smallest time.

    Attributes:
        T: [..., M, S] in steps, not changed any more once the window is complete.
        K: Window [...] in steps; NaN while it is not complete.

    Raises:
        ValueError: If every is below 1, or c not above 1.
    """

    def __init__(self, every: int, c: float):
        if every < 1 or c <= 1:
            raise ValueError(f"every = {every} must be at least 1, and c = {c} above 1")
        self.every, self.c, self.steps = every, c, -every

    def add(self, gap: np.ndarray) -> np.ndarray:
        """Take the next record, gap [..., M, S]; NaN (diverged) counts as 2.

        Returns:
            Whether each window [...] is complete.
        """
        gap = np.clip(np.nan_to_num(gap, nan=CAP, posinf=CAP), 0, CAP)
        self.steps += self.every
        if self.steps == 0:
            self.T, self.K = np.zeros_like(gap, float), np.full(gap.shape[:-2], np.nan)
        else:
            open_ = np.isnan(self.K)
            self.T += (gap + self._last) * (self.every / 2) * open_[..., None, None]
            with np.errstate(divide="ignore"):  # a time of 0: not even a record of 0
                least = np.exp(np.log(self.T).mean(-1).min(-1))
            self.K[open_ & (self.c * least <= self.steps)] = self.steps
        self._last = gap
        return ~np.isnan(self.K)

    def keep(self, rows: np.ndarray) -> None:
        """Go on with some rows of the first axis only."""
        self.T, self.K, self._last = self.T[rows], self.K[rows], self._last[rows]


def window(gap: np.ndarray, every: int, c: float) -> np.ndarray:
    """The window K [...] of traces [..., M, S, records]; NaN: they end before it does."""
    return _followed(gap, every, c).K


def integral_times(gap: np.ndarray, every: int, c: float) -> tuple[np.ndarray, np.ndarray]:
    """Times of `RelaxationTimes` for traces that are already there.

    Args:
        gap: [..., M, S, records], from step 0; NaN (diverged) counts as 2.
        every: Steps between records.
        c: Length of the window in units of the smallest time.

    Returns:
        T [..., M, S] and K [...].

    Raises:
        ValueError: If the records end before a window does.

    Example:
        >>> gap = np.exp(-np.arange(2001) / np.array([[100.0], [200.0]]))[:, None]
        >>> T, K = integral_times(gap, every=1, c=8)
        >>> T.round(1).tolist(), float(K)  # 100 (1 - e^-8), 200 (1 - e^-4)
        ([[100.0], [196.3]], 800.0)
    """
    times = _followed(gap, every, c)
    if (short := np.isnan(times.K)).any():
        raise ValueError(
            f"{int(short.sum())} of {short.size} curves: {times.steps} steps end before"
            f" {c:g} times the smallest relaxation time"
        )
    return times.T, times.K


def argmin_exponent(
    etas: Sequence[float],
    mus: Sequence[float],
    times: np.ndarray,
    sides: int = 2,
    resamples: int = 400,
    seed: int = 0,
) -> Optimum:
    """(A): where a quartic in log mu is least, against eta, on logarithmic scales.

    The quartic (a parabola below seven points) goes through the points within DEPTH of
    the smallest mean log time. It puts nothing in. Where the valley is flat to the left,
    because the window is short, it says little (notebook 05, row 5.8). On exact power laws
    the bias is below .01.

    Args:
        etas: [E], at least three.
        mus: [M].
        times: [E, M, S] or [D, E, M, S]; a cell (mu, eta) with a NaN is left out.
        sides: Points that the fit must have on each side of the smallest time.
        resamples: Of the seeds (for each eta) and of the problems.
        seed: Of the resamples.

    Raises:
        ValueError: If a minimum is not interior, or is not in a tenth of the resamples.
    """
    etas, mus, logs = _checked(etas, mus, times)
    used, first = _near(logs.mean(-1))
    left, right = _sides(used, first)
    poor = np.argwhere(np.minimum(left, right) < sides)
    if len(poor):
        names = ", ".join(f"eta = {etas[e]:.3g} (problem {d})" for d, e in poor)
        raise ValueError(
            f"no interior optimum with {sides} points on each side: {names}; widen mus"
        )
    x = np.log(mus)

    def places(means: np.ndarray, problem: int) -> tuple[np.ndarray, np.ndarray]:
        at = np.empty((2, *means.shape[:2]))
        for e in range(len(etas)):
            mask = used[problem, e]
            at[:, :, e] = _quartic_minimum(x[mask], means[:, e, mask])
        return at[0], at[1]

    D = len(logs)
    best = [places(m[None], d) for d, m in enumerate(logs.mean(-1))]
    mu, T = (np.exp([b[i][0] for b in best]) for i in (0, 1))
    draws = np.full((2, resamples, D), np.nan)
    for rows, slot, d, means in _resampled(logs, resamples, seed):
        for i, place in enumerate(places(means, d)):
            draws[i, rows, slot] = _slope(etas, place)
    values = [np.mean(_slope(etas, np.log(a))) for a in (mu, T)]
    slope, time = (
        _interval(v, draw.mean(-1), logs, "the argmin")
        for v, draw in zip(values, draws, strict=True)
    )
    return Optimum(slope, time, mu, T, int(left.min()), int(right.min()))


def collapse_exponent(
    etas: Sequence[float],
    mus: Sequence[float],
    times: np.ndarray,
    fixed: Sequence[float] = (1 / 2, 2 / 3, 1),
    resamples: int = 400,
    seed: int = 0,
) -> Collapse:
    """(B): the exponents with which the curves of all eta fall onto one.

    Least squares of log T = -q log eta + F(log mu - p log eta) over p, q and the five
    coefficients of a quartic F, p and q common to all problems, F one for each. The points
    are those of (A), so that all eta show the same part of F. Corrections to scaling are
    no noise: no interval covers them (on the nets of notebook 05 p is .02 to .04 too large
    on some seeds).

    Args:
        etas: [E], at least three.
        mus: [M].
        times: [E, M, S] or [D, E, M, S]; a cell (mu, eta) with a NaN is left out.
        fixed: Exponents p for which the misfit is given, too.
        resamples: Of the seeds (for each eta) and of the problems.
        seed: Of the resamples.

    Raises:
        ValueError: If there are too few points, the best p is at an end of EXPONENTS (also
            in a tenth of the resamples), or the misfit exceeds MISFIT.
    """
    etas, mus, logs = _checked(etas, mus, times)
    used, _ = _near(logs.mean(-1))
    if (few := int(used.sum((1, 2)).min())) < 3 * len(etas):
        raise ValueError(f"a collapse of {few} points at {len(etas)} step sizes; widen mus")
    log_eta, log_mu = (
        a.ravel() for a in np.broadcast_arrays(np.log(etas)[:, None], np.log(mus))
    )
    tried = np.concatenate([EXPONENTS, np.asarray(fixed, float)])
    D = len(logs)
    bases = [
        [_basis(log_mu[m] - p * log_eta[m], log_eta[m]) for p in tried]
        for m in used.reshape(D, -1)
    ]

    def parts(means: np.ndarray, d: int) -> np.ndarray:
        """yy, ey and ee [3, tried, B] of problem d with F projected out."""
        y = means.reshape(len(means), -1)[:, used[d].ravel()].T
        y = y - y.mean(0)  # F has a constant; smaller numbers cancel less
        rows = [
            ((y**2).sum(0) - ((Q.T @ y) ** 2).sum(0), r @ y, r @ r + 0 * y[0])
            for Q, r in bases[d]
        ]
        return np.moveaxis(np.array(rows), 1, 0)

    whole = sum(parts(m[None], d) for d, m in enumerate(logs.mean(-1)))
    total = np.zeros((3, len(tried), resamples))
    for rows, _, d, means in _resampled(logs, resamples, seed):
        total[:, :, rows] += parts(means, d)
    (p, q, rss), (ps, qs, _) = _least(whole), _least(total)
    n, own = used.sum(), slice(len(EXPONENTS), None)
    if np.isnan(p[0]):
        raise ValueError(f"no collapse: the best p is at an end of 0 to {EXPONENTS[-1]:g}")
    rms = np.sqrt(np.maximum(rss[:, 0], 0) / n)
    if (best := rms.min()) > MISFIT:
        raise ValueError(f"no collapse: rms of log T {best:.2f}, more than {MISFIT}")
    by_p = {"fit": float(best)} | dict(zip(fixed, rms[own].tolist(), strict=True))
    q_fixed = (-whole[1] / whole[2])[own, 0].tolist()
    powers = [_interval(v[0], d, logs, "the collapse") for v, d in ((p, ps), (q, qs))]
    return Collapse(*powers, by_p, dict(zip(fixed, q_fixed, strict=True)), used)


def crossover_exponent(
    etas: Sequence[float],
    mus: Sequence[float],
    times: np.ndarray,
    level: float = 3.0,
    resamples: int = 400,
    seed: int = 0,
) -> Crossover:
    """(C): where mu T = level, right of the minimum, against eta on logarithmic scales.

    For small mu, T is a multiple of tau_1 = 1/mu; mu T leaves its plateau where the time
    along the valley takes over. It is the tightest of the three and uses tau_1 = 1/mu: on
    T = eta^-q F(mu / eta^p) it is p only if q = p. Var z grows by 1/(1 - eta h/4), which
    biases it up by .02 at eta lambda_max = .8.

    Args:
        etas: [E], at least three.
        mus: [M].
        times: [E, M, S] or [D, E, M, S]; a cell (mu, eta) with a NaN is left out.
        level: Multiple of 1/mu; the window must be long enough for T to reach it.
        resamples: Of the seeds (for each eta) and of the problems.
        seed: Of the resamples.

    Raises:
        ValueError: If some curve never crosses the level, or not in a tenth of the
            resamples.
    """
    etas, mus, logs = _checked(etas, mus, times)
    x, D = np.log(mus), len(logs)

    def places(means: np.ndarray) -> np.ndarray:
        return _last_crossing(x, means + x - np.log(level), np.nanargmin(means, -1))

    mu = np.exp(places(logs.mean(-1)))
    if np.isnan(mu).any():
        names = ", ".join(
            f"eta = {etas[e]:.3g} (problem {d})" for d, e in np.argwhere(np.isnan(mu))
        )
        raise ValueError(f"mu T does not cross {level:g} right of the optimum: {names}")
    draws = np.full((resamples, D), np.nan)
    for rows, slot, _, means in _resampled(logs, resamples, seed):
        draws[rows, slot] = _slope(etas, places(means))
    value = np.mean(_slope(etas, np.log(mu)))
    return Crossover(_interval(value, draws.mean(-1), logs, "the crossover"), mu)


def _followed(gap, every, c):
    gap = np.asarray(gap)
    if gap.ndim < 3 or gap.shape[-1] < 2:
        raise ValueError(
            f"gap {gap.shape} must be [..., mu, seed, record] with two records or more"
        )
    times = RelaxationTimes(every, c)
    for record in np.moveaxis(gap, -1, 0):
        if times.add(record).all():
            break
    return times


def _checked(etas, mus, times):
    """Arrays, and log times [D, E, M, S]; NaN in all seeds of a cell that lacks one."""
    etas, mus, times = (np.asarray(a, float) for a in (etas, mus, times))
    if times.ndim == 3:
        times = times[None]
    if times.ndim != 4 or times.shape[1:3] != (len(etas), len(mus)) or len(etas) < 3:
        raise ValueError(
            f"times {times.shape} must be [(problems,) {len(etas)} etas, {len(mus)} mus,"
            " seeds], with three etas or more"
        )
    if min(etas.min(), mus.min()) <= 0 or (np.diff(mus) <= 0).any():
        raise ValueError("etas and mus must be positive, and mus rising")
    if not (times[~np.isnan(times)] > 0).all():
        raise ValueError("times must be positive (or NaN: that run is missing)")
    logs = np.log(times)
    logs[np.isnan(logs).any(-1)] = np.nan
    if (empty := np.isnan(logs).all((2, 3))).any():
        d, e = np.argwhere(empty)[0]
        raise ValueError(f"no complete cell at eta = {etas[e]:.3g} (problem {d})")
    return etas, mus, logs


def _near(means):
    """The run of points [D, E, M] within DEPTH of the smallest, and where that is."""
    first = np.nanargmin(means, -1)
    least = np.take_along_axis(means, first[..., None], -1)
    with np.errstate(invalid="ignore"):
        out = ~(means <= least + DEPTH)
    place = np.arange(means.shape[-1])
    before = np.where(out & (place < first[..., None]), place, -1).max(-1)
    after = np.where(out & (place > first[..., None]), place, len(place)).min(-1)
    return (place > before[..., None]) & (place < after[..., None]), first


def _sides(used, first):
    place = np.arange(used.shape[-1])
    return tuple(
        (used & side).sum(-1)
        for side in (place < first[..., None], place > first[..., None])
    )


def _quartic_minimum(x, y):
    """Place and value [2, B] of the least of a quartic through (x [n], y [B, n])."""
    degree = 4 if len(x) >= 7 else 2
    low, high = x[0], x[-1]
    z, fine = (2 * (a - low) / (high - low) - 1 for a in (x, np.linspace(low, high, 401)))
    coefficients = np.linalg.lstsq(np.vander(z, degree + 1), y.T, rcond=None)[0]
    curve = (np.vander(fine, degree + 1) @ coefficients).T
    at, value, edge = _parabola(curve)
    place = low + (high - low) * at / (len(fine) - 1)
    return np.where(edge, np.nan, place), np.where(edge, np.nan, value)


def _parabola(curve):
    """Index, value [B] of the least of curve [B, n] by a parabola, and if it is an end."""
    i = curve.argmin(-1)
    edge = (i == 0) | (i == curve.shape[-1] - 1)
    i = np.clip(i, 1, curve.shape[-1] - 2)
    before, here, after = (
        np.take_along_axis(curve, (i + k)[:, None], -1)[:, 0] for k in (-1, 0, 1)
    )
    bend = before - 2 * here + after
    flat = edge | (bend <= 0)
    shift = np.where(flat, 0, (before - after) / (2 * np.where(flat, 1, bend)))
    return i + shift, here - bend * shift**2 / 2, edge


def _basis(x, log_eta):
    """An orthonormal basis [n, 5] of the quartics in x, and the rest of log eta."""
    z = (x - x.mean()) / max(np.ptp(x), 1e-12)
    Q = np.linalg.qr(np.vander(z, 5))[0]
    return Q, log_eta - Q @ (Q.T @ log_eta)


def _least(parts):
    """p, q [B] of the least squares, and rss [tried, B], from yy, ey, ee [tried, B]."""
    yy, ey, ee = parts
    rss, n = yy - ey**2 / ee, len(EXPONENTS)
    at, _, edge = _parabola(rss[:n].T)
    below = np.minimum(at.astype(int), n - 2)
    qs, b = -ey / ee, np.arange(len(at))
    q = qs[below, b] + (at - below) * (qs[below + 1, b] - qs[below, b])
    p = EXPONENTS[0] + at * (EXPONENTS[1] - EXPONENTS[0])
    return np.where(edge, np.nan, p), np.where(edge, np.nan, q), rss


def _last_crossing(x, y, first):
    """Where y [..., M] last rises through 0 right of index `first` [...]; NaN: nowhere."""
    place = np.arange(y.shape[-1] - 1)
    with np.errstate(invalid="ignore"):
        up = (y[..., :-1] < 0) & (y[..., 1:] >= 0) & (place >= first[..., None])
    i = np.where(up, place, -1).max(-1)
    low, high = (
        np.take_along_axis(y, (np.maximum(i, 0) + k)[..., None], -1)[..., 0] for k in (0, 1)
    )
    share = -low / (high - low)
    return np.where(i < 0, np.nan, x[i] + share * (x[i + 1] - x[i]))


def _slope(etas, logs):
    """Least-squares slopes [...] of logs [..., E] over log eta."""
    z = np.log(etas) - np.log(etas).mean()
    return logs @ z / (z @ z)


def _resampled(logs, resamples, seed):
    """Yield (rows, slot, problem, means [rows, E, M]): every row fills each slot once."""
    rng = np.random.default_rng(seed)
    D, E, _, S = logs.shape
    chosen = rng.integers(D, size=(resamples, D))
    for slot in range(D):
        for d in range(D):
            rows = np.flatnonzero(chosen[:, slot] == d)
            weights = rng.multinomial(S, np.full(S, 1 / S), size=(len(rows), E)) / S
            yield rows, slot, d, np.einsum("bes,ems->bem", weights, logs[d])


def _interval(value, draws, logs, name):
    if logs.shape[0] == 1 and logs.shape[-1] == 1:
        return Power(float(value), np.nan, np.nan)
    if (lost := np.isnan(draws).mean()) > FAILED:
        raise ValueError(f"{name} fails in {lost:.0%} of the resamples")
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return Power(float(value), float(low), float(high))

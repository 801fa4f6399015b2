"""A valley in which heavy ball with label noise can be solved (paper 004, sections 1, 3).

Written with mu = 1 - beta and the paper's update, without dampening:

    pi' = beta pi - grad L + noise,  w' = w + eta pi'.

n residuals f_i = sqrt(h(x)) z_i, h(x) = h0 + a x^2, the labels of which are redrawn at
every step with total variance eps^2: L = 1/2 h(x) |z|^2. The floor z = 0 is a manifold of
minima, h the curvature across it (n equal eigenvalues). For n -> inf |z|^2 averages itself,
and A = E|z|^2, B = E z.q, C = E|q|^2 (q the momentum of z) close with x and its momentum p:

    q' = beta q - h z + sqrt(h) eps xi        C' = beta^2 C - 2 beta h B + h^2 A + h eps^2
    p' = beta p - a x A                       E z.q' = beta B - h A
                                              A' = A + 2 eta E z.q' + eta^2 C'
    x' = x + eta p'                           B' = E z.q' + eta C'

EMA momentum (dampening = beta) takes mu of every gradient: heavy ball of step eta mu. All
functions take arrays that broadcast.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from time import process_time

import numpy as np
import pandas as pd
from scipy.optimize import curve_fit

from common.scaling import RelaxationTimes


def step_size(eta: np.ndarray, mu: np.ndarray, ema: bool = False) -> np.ndarray:
    """The step of the heavy ball without dampening that a rule amounts to.

    Args:
        eta: Step size.
        mu: 1 - beta.
        ema: Whether the momentum is an average (`dampening=beta`).

    Raises:
        ValueError: If eta is not positive, or mu not in (0, 1].
    """
    eta, mu = np.asarray(eta, float), np.asarray(mu, float)
    if not ((eta > 0).all() and (mu > 0).all() and (mu <= 1).all()):
        raise ValueError("eta must be positive and mu = 1 - beta in (0, 1]")
    return eta * mu if ema else eta


def transverse_variance(
    eta: np.ndarray, mu: np.ndarray, h: np.ndarray, eps: np.ndarray
) -> np.ndarray:
    """Stationary variance of z' = z + eta q', q' = beta q - h z + sqrt(h) eps xi.

    eta eps^2 (1 + beta) / (mu (2 (1 + beta) - eta h)), at small steps eps^2 eta / (2 mu):
    it does not depend on the curvature.

    Raises:
        ValueError: If eta h is not below the stability limit 2 (1 + beta).

    Example:
        >>> round(float(transverse_variance(eta=0.01, mu=0.1, h=1.0, eps=1.0)), 4)
        0.0501
    """
    eta, mu, h, eps = (np.asarray(a, float) for a in (eta, mu, h, eps))
    room = 2 * (2 - mu) - eta * h
    if not (room > 0).all():
        raise ValueError("unstable: eta h must be below 2 (1 + beta)")
    return eta * eps**2 * (2 - mu) / (mu * room)


def transverse_map(
    eta: np.ndarray, mu: np.ndarray, h: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One step of (A, B, C) at a constant curvature: M [..., 3, 3], and source [..., 3].

    The moments after a step are M (A, B, C) + eps^2 source.
    """
    eta, mu, h = np.broadcast_arrays(*(np.asarray(a, float) for a in (eta, mu, h)))
    # (z, q) is multiplied by [[1 - eta h, eta beta], [-h, beta]] and pushed by (eta, 1)
    a, b, c, d = 1 - eta * h, eta * (1 - mu), -h, 1 - mu
    rows = [
        [a * a, 2 * a * b, b * b],
        [a * c, a * d + b * c, b * d],
        [c * c, 2 * c * d, d * d],
    ]
    M = np.moveaxis(np.array(rows), (0, 1), (-2, -1))
    return M, np.stack([eta**2 * h, eta * h, h], -1)


def transverse_rate(eta: np.ndarray, mu: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Rate at which the second moments relax, 1 / tau_1: minus the log of M's radius.

    Where z oscillates, (1 - sqrt(beta))^2 < eta h < (1 + sqrt(beta))^2, both roots of the
    step have modulus sqrt(beta) and the rate is -log(beta) = mu + mu^2/2 + ..., whatever
    eta and h are; where it does not (mu^2 > 4 eta h) it is about 2 eta h / mu.

    Example:
        >>> rates = transverse_rate(eta=0.01, mu=0.1, h=np.array([1.0, 1e-2]))
        >>> (rates / 0.1).round(3).tolist()
        [1.054, 0.02]
    """
    M, _ = transverse_map(eta, mu, h)
    return -np.log(np.abs(np.linalg.eigvals(M)).max(-1))


def transverse_moments(
    eta: np.ndarray, mu: np.ndarray, h: np.ndarray, eps: float, steps: int
) -> np.ndarray:
    """E z^2 [..., steps + 1] from z = q = 0, exactly: powers of `transverse_map`."""
    M, source = transverse_map(eta, mu, h)
    moments = np.zeros((*source.shape[:-1], steps + 1, 3))
    for k in range(steps):
        moments[..., k + 1, :] = (M @ moments[..., k, :, None])[..., 0] + eps**2 * source
    return moments[..., 0]


@dataclass(frozen=True)
class NoisyValley:
    """The valley h(x) = h0 + a x^2 under label noise of total variance eps^2.

    Near its flattest point, x = 0, the transverse variance stays at its stationary value
    and x is a damped oscillator, x'' + mu x' + K0/mu x = 0 with K0 = a eps^2 eta^2 / 2.

    Args:
        h0: Curvature at the flattest point.
        a: How fast it grows.
        eps: Standard deviation of the label noise.

    Raises:
        ValueError: If one of them is not positive.
    """

    h0: float = 1.0
    a: float = 1.0
    eps: float = 0.1

    def __post_init__(self):
        if min(self.h0, self.a, self.eps) <= 0:
            raise ValueError(f"h0, a and eps must be positive: {self}")

    def tau_1(self, mu: np.ndarray) -> np.ndarray:
        """Relaxation time 1/mu across the valley."""
        return 1 / np.asarray(mu, float)

    def tau_2(self, eta: np.ndarray, mu: np.ndarray) -> np.ndarray:
        """Drift time: dx/dk = -(eps eta)^2 / (4 mu^2) h'(x) = -x / tau_2 near x = 0."""
        return 2 * np.asarray(mu, float) ** 2 / (self.a * (self.eps * np.asarray(eta)) ** 2)

    def stiffness(self, eta: np.ndarray, mu: np.ndarray) -> np.ndarray:
        """The kappa = eta a A of x' = x + P', P' = beta P - kappa x; A as at x = 0."""
        return eta * self.a * transverse_variance(eta, mu, self.h0, self.eps)

    def drift_rate(self, eta: np.ndarray, mu: np.ndarray) -> np.ndarray:
        """Rate of the slowest mode of x near x = 0: minus the log of its modulus.

        mu/2 where x oscillates (mu small), about 1/tau_2 where mu is large; fastest at
        critical damping, kappa = (1 - sqrt(beta))^2.
        """
        beta, kappa = 1 - np.asarray(mu, float), self.stiffness(eta, mu)
        half = (1 + beta - kappa) / 2
        root = np.sqrt((half**2 - beta).astype(complex))
        return -np.log(np.maximum(np.abs(half + root), np.abs(half - root)))

    def critical(self, eta: np.ndarray) -> np.ndarray:
        """The mu of the fastest late decay, (2 a eps^2 eta^2)^(1/3); its rate is mu/2."""
        return (2 * self.a * (self.eps * np.asarray(eta)) ** 2) ** (1 / 3)

    def time(self, eta: np.ndarray, mu: np.ndarray) -> np.ndarray:
        """Integral relaxation time near x = 0: the sum of all (x_k / x_0)^2, exactly.

        (1 + beta) (mu^2 + 2 beta kappa / (1 + beta)) / (mu kappa (2 (1 + beta) - kappa)).
        At small mu and kappa it is (tau_1 + tau_2) / 2: the two time scales are added.

        Example:
            >>> valley, eta, mu = NoisyValley(), 1e-6, 1e-4
            >>> both = (valley.tau_1(mu) + valley.tau_2(eta, mu)) / 2
            >>> round(float(valley.time(eta, mu) / both), 3)
            1.0
        """
        mu = np.asarray(mu, float)
        kappa, two = self.stiffness(eta, mu), 2 - mu
        return (two * mu**2 + 2 * (1 - mu) * kappa) / (mu * kappa * (2 * two - kappa))

    def optimum(self, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The mu and T of the least (tau_1 + tau_2) / 2.

        They are (a eps^2 eta^2 / 4)^(1/3), half of `critical`, and 3 / (4 mu); there
        tau_1 = 2 tau_2.
        """
        mu = self.critical(eta) / 2
        return mu, 3 / (4 * mu)

    def follow(
        self,
        eta: np.ndarray,
        mu: np.ndarray,
        x0: np.ndarray,
        ema: bool = False,
        still: bool = False,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield x and A from x0 at rest on, step by step, without an end.

        Args:
            eta: Step sizes.
            mu: 1 - beta.
            x0: Where along the valley.
            ema: Momentum as an average.
            still: Start at z = q = 0, as the paper does, and not in the stationary state.
        """
        step, b = step_size(eta, mu, ema), 1 - np.asarray(mu, float)
        step, b, x = (a.copy() for a in np.broadcast_arrays(step, b, np.asarray(x0, float)))
        A, B, C, p = (np.zeros_like(x) for _ in range(4))
        if not still:
            M, source = transverse_map(step, 1 - b, self.h0 + self.a * x**2)
            moments = np.linalg.solve(np.eye(3) - M, self.eps**2 * source[..., None])
            A, B, C = np.moveaxis(moments[..., 0], -1, 0).copy()
        while True:
            yield x, A
            h = self.h0 + self.a * x * x
            C = b * b * C + h * (h * A - 2 * b * B + self.eps**2)
            zq = b * B - h * A
            p = b * p - self.a * x * A
            B = zq + step * C
            A = A + step * (2 * zq + step * C)
            x = x + step * p


def alpha(gamma: np.ndarray) -> np.ndarray:
    """With mu ~ eta^gamma the time scales as eta^-alpha: max(2 - 2 gamma, gamma).

    Example:
        >>> alpha(np.array([0.5, 2 / 3, 1.0])).round(3).tolist()
        [1.0, 0.667, 1.0]
    """
    gamma = np.asarray(gamma, float)
    return np.maximum(2 - 2 * gamma, gamma)


def run_transverse(
    etas: Sequence[float],
    mus: Sequence[float],
    hs: Sequence[float],
    eps: float,
    seed: int,
    chains: int = 4000,
    span: float = 4.0,
    points: int = 40,
    ema: bool = False,
) -> pd.DataFrame:
    """Monte Carlo of the modes across the valley, from z = q = 0, all cells at once.

    Args:
        etas: Step sizes, one for each cell.
        mus: 1 - beta, likewise.
        hs: Curvatures, likewise.
        eps: Standard deviation of the label noise.
        seed: Of the noise.
        chains: Runs of each cell; each has noise of its own.
        span: Length of the runs in units of the longest 1/mu.
        points: Records, evenly spaced.
        ema: Momentum as an average.

    Returns:
        A row per cell and record: `cell`, `eta`, `mu`, `h`, `step`, `variance` of z.

    Raises:
        ValueError: If there is not one mu and one h for each eta.
    """
    start = process_time()
    if not len(etas) == len(mus) == len(hs) or not len(etas):
        raise ValueError(
            f"{len(etas)} etas, {len(mus)} mus and {len(hs)} hs: as many cells"
        )
    eta, mu, h = (np.array(a, float)[:, None] for a in (etas, mus, hs))
    step = step_size(eta, mu, ema)
    every = max(1, round(span / mu.min() / points))
    rng = np.random.default_rng(seed)
    z, q, noise = (np.zeros((len(mu), chains)) for _ in range(3))
    rows = []
    for k in range(points * every + 1):
        if k % every == 0:
            cells = {"cell": range(len(mu)), "eta": etas, "mu": mus, "h": hs, "step": k}
            rows.append(pd.DataFrame(cells | {"variance": (z * z).mean(-1)}))
        rng.standard_normal(out=noise)
        q *= 1 - mu
        q -= h * z
        q += np.sqrt(h) * eps * noise
        z += step * q
    table = pd.concat(rows, ignore_index=True)
    table.loc[len(table) - 1, "cpu_seconds"] = process_time() - start
    return table


def relaxation(table: pd.DataFrame) -> pd.DataFrame:
    """Fit V (1 - exp(-rate k)) to every cell of `run_transverse`, by least squares.

    The oscillation about it, of relative size mu / (2 sqrt(eta h)), is left to average out.

    Returns:
        A row per cell: `eta`, `mu`, `h`, `rate`, `V`.

    Raises:
        RuntimeError: If a fit does not converge.
    """

    def rise(k, V, rate):
        return V * -np.expm1(-rate * k)

    def fit(cell):
        guess = (cell.variance.iloc[-1], cell.mu.iloc[0])
        (V, rate), _ = curve_fit(rise, cell.step, cell.variance / guess[0], (1, guess[1]))
        return pd.Series({"rate": rate, "V": V * guess[0]})

    keys = ["cell", "eta", "mu", "h"]
    fits = table.groupby(keys)[["step", "variance", "mu"]].apply(fit)
    return fits.reset_index().set_index("cell")


def run_valley(
    valley: NoisyValley,
    etas: Sequence[float],
    mus: Sequence[float] | Sequence[Sequence[float]],
    x0: float = 0.3,
    c: float = 8.0,
    every: int = 2,
    ema: bool = False,
    still: bool = False,
    most: int = 1_000_000,
) -> pd.DataFrame:
    """Integral relaxation times of the closed moments over a grid, all at once.

    The gap is that of the trace, h(x) - h0, in units of its start.

    Args:
        valley: The valley.
        etas: Step sizes.
        mus: 1 - beta: the same for every eta [M], or by eta [E, M].
        x0: Start.
        c: Length of the window in units of the smallest time of a row.
        every: Steps between records.
        ema: Momentum as an average.
        still: Start from zero noise.
        most: Steps that are taken at most.

    Returns:
        A row per eta and mu: `eta`, `mu`, `T`, `window`; the last row holds `cpu_seconds`.

    Raises:
        ValueError: If a window is not complete within `most` steps.
    """
    start, eta = process_time(), np.array(etas, float)[:, None]
    eta, mu = np.broadcast_arrays(eta, np.array(mus, float))
    times = RelaxationTimes(every, c)
    for x, _ in islice(valley.follow(eta, mu, x0, ema, still), 0, most + 1, every):
        if times.add((x[..., None] / x0) ** 2).all():
            break
    else:
        raise ValueError(f"no window in {most} steps at eta = {eta[np.isnan(times.K), 0]}")
    columns = {"eta": eta, "mu": mu, "T": times.T[..., 0], "window": times.K[:, None]}
    arrays = np.broadcast_arrays(*columns.values())
    table = pd.DataFrame(dict(zip(columns, (a.ravel() for a in arrays), strict=True)))
    table.loc[len(table) - 1, "cpu_seconds"] = process_time() - start
    return table

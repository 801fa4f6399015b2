"""Why the edge occurs, on losses that can be understood completely (paper 001).

- `Product`: the minimalist example 1/2 (1 - xyzw)^2, and the shallow 1/2 (1 - xy)^2.
- `Picky`: two functions of which gradient descent keeps a minimum that SGD leaves.

All of it are maps of a few lines over arrays, with any number of runs side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import process_time

import numpy as np
import pandas as pd
from numpy import ndarray
from scipy.optimize import brentq
from scipy.stats import norm

CONVERGED, DIVERGED = 1e-24, 1e3  # the loss; the size of a scalar
LOOK = 50  # steps between looks at which runs have ended


@dataclass(frozen=True)
class Product:
    """L = 1/2 (1 - p)^2, p a product of 2k scalars, k of them equal to x and k to y.

    k = 2 is the minimalist example with z = x, w = y, and k = 1 is 1/2 (1 - xy)^2. Scalars
    that start equal stay equal, so that two numbers are enough (paper 001, eq. 2). For the
    two variables alone, L(x, y) = 1/2 (1 - (xy)^k)^2 has the same path and the same eta S
    at its minima at the step size eta / k.

    The minima are xy = 1. Gradient flow keeps x^2 - y^2.

    Args:
        k: Half of the number of scalars.

    Raises:
        ValueError: If k < 1.
    """

    k: int = 2

    def __post_init__(self):
        if self.k < 1:
            raise ValueError(f"k must be at least 1, not {self.k}")

    def loss(self, x: ndarray, y: ndarray) -> ndarray:
        """1/2 (1 - (xy)^k)^2, elementwise.

        Example:
            >>> Product().loss(2.0, 1.0)
            4.5
        """
        return (1 - (x * y) ** self.k) ** 2 / 2

    def step(self, x: ndarray, y: ndarray, eta: float) -> tuple[ndarray, ndarray]:
        """One step of gradient descent on all 2k scalars (001 eq. 2 for k = 2).

        x' = x + eta (1 - p) x^(k-1) y^k, and y' the same with x and y exchanged.
        """
        inner = (x * y) ** (self.k - 1)
        pull = eta * (1 - inner * x * y) * inner
        return x + pull * y, y + pull * x

    def sharpness(self, x: ndarray, y: ndarray) -> ndarray:
        """Largest eigenvalue of the Hessian in all 2k scalars, in closed form.

        With q = (xy)^(k-1), p = q xy and r = 1 - p, directions that move all x alike and
        all y alike have the Hessian [[A, C], [C, B]], A = k q^2 y^2 - (k - 1) r p / x^2,
        B the same with x and y exchanged, C = k q (p - r). Those that move one x
        against another have the eigenvalue r p / x^2, and r p / y^2 for the y.
        """
        k, inner = self.k, (x * y) ** (self.k - 1)
        p, r = inner * x * y, 1 - inner * x * y
        # r p / x^2 and r p / y^2, free of divisions
        by_x, by_y = (
            r * (x * y) ** max(k - 2, 0) * other**2 if k > 1 else np.zeros_like(p)
            for other in (y, x)
        )
        A = k * (inner * y) ** 2 - (k - 1) * by_x
        B = k * (inner * x) ** 2 - (k - 1) * by_y
        C = k * inner * (p - r)
        top = (A + B) / 2 + np.hypot((A - B) / 2, C)
        return np.maximum.reduce([top, by_x, by_y]) if k > 1 else top

    def flow_sharpness(self, x: ndarray, y: ndarray) -> ndarray:
        """Sharpness k sqrt((x^2 - y^2)^2 + 4) of the minimum that gradient flow ends in.

        That of a minimum is k (x^2 + y^2), and the flow keeps x^2 - y^2. (From xy > 0.)
        """
        return self.k * np.hypot(x**2 - y**2, 2)

    def starts(self, s: ndarray, p: ndarray, eta: float) -> tuple[ndarray, ndarray]:
        """The x > y > 0 with the product p from which gradient flow ends at S = s 2/eta.

        Args:
            s: Sharpness of the flow's minimum in units of 2/eta; at least eta k, that of
                x = y.
            p: Product of all scalars, positive.
            eta: Step size.

        Raises:
            ValueError: If there are no such starts.
        """
        size = 2 * np.asarray(s, float) / (eta * self.k)  # x^2 + y^2 at the minimum
        p = np.asarray(p, float)
        if not (size >= 2).all() or not (p > 0).all():
            raise ValueError(f"no starts: s must be at least {eta * self.k} and p positive")
        gap, u = np.sqrt(size**2 - 4), p ** (1 / self.k)
        x = np.sqrt((gap + np.hypot(gap, 2 * u)) / 2)
        return x, u / x

    def two_cycle(self, gap: ndarray, eta: float, steps: int = 3000) -> ndarray:
        """The two values of xy between which descent would hop if x^2 - y^2 were kept.

        In truth x^2 - y^2 shrinks at every step, by the factor 1 - eta^2 r^2 q^2, the less
        the smaller the hops; that is why the ends lie just below the edge. With u = xy one
        step is u' = u + g sqrt(gap^2 + 4 u^2) + g^2 u, where g = eta (1 - u^k) u^(k-1).

        Args:
            gap: x^2 - y^2 [n].
            eta: Step size.
            steps: Iterations of the map.

        Returns:
            [2, n], the smaller one first; nan where the map settles on no cycle of two.
        """
        u = np.full(np.shape(gap), 0.95)
        path = []
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(steps + 4):
                g = eta * (1 - u**self.k) * u ** (self.k - 1)
                u = u + g * np.hypot(gap, 2 * u) + g**2 * u
                path = [*path[-3:], u]
            settled = (abs(path[3] - path[1]) < 1e-6) & (abs(path[2] - path[0]) < 1e-6)
        return np.where(settled, np.sort(path[2:], axis=0), np.nan)

    def path(
        self, x: ndarray, y: ndarray, eta: float, steps: int
    ) -> tuple[ndarray, ndarray]:
        """The iterates x_t, y_t [steps + 1, ...]; inf or nan after an overflow."""
        found = [(np.asarray(x, float), np.asarray(y, float))]
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(steps):
                found.append(self.step(*found[-1], eta))
        xs, ys = zip(*found, strict=True)
        return np.stack(xs), np.stack(ys)


def run_product(k: int, eta: float, x: ndarray, y: ndarray, steps: int) -> pd.DataFrame:
    """Gradient descent from many starts, each until it has converged or diverged.

    Args:
        k: See `Product`.
        eta: Step size.
        x: Starts [runs].
        y: Starts [runs].
        steps: At most so many steps.

    Returns:
        One row per start: `x0`, `y0`, `x`, `y` (at the end), `converged`, `diverged`, and
        in units of 2/eta the sharpness of the start, `S0`, of the minimum that gradient
        flow finds from it, `S_flow`, and of the end, `S_end` (nan unless converged). The
        last row holds `cpu_seconds`.

    Raises:
        ValueError: If x and y are not vectors of one length, or eta or steps not positive.
    """
    x, y = np.array(x, float), np.array(y, float)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise ValueError(f"starts must be two vectors alike, not {x.shape} and {y.shape}")
    if not (eta > 0 and steps >= 1):
        raise ValueError(f"eta and steps must be positive, not {eta} and {steps}")
    began, loss = process_time(), Product(k)
    table = pd.DataFrame({"x0": x, "y0": y})
    table["S0"] = loss.sharpness(x, y) * eta / 2
    table["S_flow"] = loss.flow_sharpness(x, y) * eta / 2
    ends = np.stack([x, y])
    left, now = np.arange(len(x)), ends.copy()  # runs that go on, and where they are
    for first in range(0, steps, LOOK):
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(min(LOOK, steps - first)):
                now = np.stack(loss.step(*now, eta))
            ends[:, left] = now
            on = (loss.loss(*now) > CONVERGED) & (abs(now) < DIVERGED).all(0)
        left, now = left[on], now[:, on]
    with np.errstate(over="ignore", invalid="ignore"):
        table["x"], table["y"] = ends
        table["converged"] = loss.loss(*ends) <= CONVERGED
        table["diverged"] = ~(abs(ends) < DIVERGED).all(0)
        table["S_end"] = np.where(table.converged, loss.sharpness(*ends) * eta / 2, np.nan)
    table.loc[len(table) - 1, "cpu_seconds"] = process_time() - began
    return table


@dataclass(frozen=True)
class Picky:
    """f_i(x) = min(x^2, c_i (x - 1)^2), of which every step of SGD draws one (001 fig. 2).

    The mean has the minima 0, where all f_i are alike, and 1, where they are not: there
    d = x - 1 is multiplied by 1 - eta a, a = 2 c_i drawn at random. Gradient descent stays
    at 1 up to the step size 2 / mean(a).

    Args:
        c: The curvatures at 1, halved.
    """

    c: tuple[float, ...] = (0.1, 1.9)

    def factors(self, eta: float) -> ndarray:
        """abs(1 - eta a) for each function: what d is multiplied by at 1."""
        return abs(1 - 2 * eta * np.array(self.c))

    @property
    def thresholds(self) -> dict[str, float]:
        """The step sizes beyond which 1 is unstable, in three senses.

        `descent`: 2 / mean(a); `mean square`: mean (1 - eta a)^2 = 1; `almost sure`:
        mean log abs(1 - eta a) = 0. For the first one SGD plays no role.

        Example:
            >>> {k: round(float(v), 4) for k, v in Picky().thresholds.items()}
            {'descent': 1.0, 'mean square': 0.5525, 'almost sure': 0.5595}
        """
        a = 2 * np.array(self.c)
        square = 2 * a.mean() / (a**2).mean()
        # past the pole of the logarithm at 1 / max(a) it rises through zero
        sure = brentq(
            lambda eta: np.log(self.factors(eta)).mean(), 1.5 / a.max(), 3 / a.max()
        )
        return {"descent": 2 / a.mean(), "mean square": square, "almost sure": sure}

    def escape(self, eta: float, steps: int, start: float, radius: float) -> float:
        """Share of the runs that leave 1 within so many steps, by the linear model.

        log abs(d) is a random walk with the mean m and variance s^2 of the logarithms of
        the factors. For a Brownian motion the probability of having risen by
        h = log(radius / start) within T steps is
        Phi((m T - h) / (s T^1/2)) + exp(2 m h / s^2) Phi((-h - m T) / (s T^1/2)).
        """
        steps_up = np.log(self.factors(eta))
        m, s, h = steps_up.mean(), steps_up.std(), np.log(radius / start)
        wide = s * np.sqrt(steps)
        tail = 2 * m * h / s**2 + norm.logcdf((-h - m * steps) / wide)
        return float(norm.cdf((m * steps - h) / wide) + np.exp(tail))

    def step(self, d: ndarray, eta: ndarray, draw: ndarray | None) -> ndarray:
        """One step from d = x - 1; every f_i has the gradient 2x, or 2 c_i d beyond.

        Args:
            d: Where the runs are.
            eta: Step size, or one for each.
            draw: Which function each run draws; None: their mean, gradient descent.
        """
        if draw is None:
            return sum(self.step(d, eta, i) for i in range(len(self.c))) / len(self.c)
        x, pull = 1 + d, np.array(self.c)[draw] * d
        return d - 2 * eta * np.where(x**2 < pull * d, x, pull)

    def loss(self, d: ndarray) -> ndarray:
        """The mean of the functions at x = 1 + d."""
        return sum(np.minimum((1 + d) ** 2, c * d**2) for c in self.c) / len(self.c)


def run_picky(
    etas: Sequence[float],
    seeds: Sequence[int],
    runs: int,
    steps: int,
    start: float = -1e-5,
    loss: Picky = Picky(),  # noqa: B008 (it is frozen)
) -> pd.DataFrame:
    """How many runs of SGD leave x = 1, over the step size; and whether descent does.

    Args:
        etas: Step sizes; they share the draws.
        seeds: Of the draws.
        runs: Runs for each step size and seed.
        steps: Steps of a run.
        start: x_0 - 1.
        loss: The functions.

    Returns:
        One row per step size and seed: `eta`, `seed`, `at_zero` and `at_one`, the shares of
        the runs within 0.2 of 0 (where all functions pull towards it) and of 1 at the end,
        and `descent_at_one`, whether gradient descent is. The last row holds `cpu_seconds`.

    Raises:
        ValueError: If there is nothing to run.
    """
    if not (len(etas) and len(seeds) and runs >= 1 and steps >= 1):
        raise ValueError(f"nothing to run: {etas}, {seeds}, {runs} runs, {steps} steps")
    began, etas = process_time(), np.asarray(etas, float)
    plain, rows = np.full(len(etas), start), []
    for _ in range(steps):
        plain = np.clip(loss.step(plain, etas, None), -10, 10)  # may diverge beyond 1
    for seed in seeds:
        draws = np.random.default_rng(seed).integers(len(loss.c), size=(steps, runs))
        eta, column = (part.ravel() for part in np.meshgrid(etas, range(runs)))
        d = np.full(len(eta), start)
        left, ends = np.arange(len(d)), d.copy()  # runs that are still undecided
        for first in range(0, steps, LOOK):
            for row in draws[first : first + LOOK]:
                d = loss.step(d, eta, row[column])
            ends[left] = d
            on = (abs(1 + d) > 0.2) & (abs(d) > 1e-100)
            left, d, eta, column = left[on], d[on], eta[on], column[on]
        ends = ends.reshape(runs, len(etas))
        columns = {"eta": etas, "seed": seed, "descent_at_one": abs(plain) < 0.2}
        for name, there in (("at_zero", -1), ("at_one", 0)):
            columns[name] = (abs(ends - there) < 0.2).mean(0)
        rows.append(pd.DataFrame(columns))
    table = pd.concat(rows, ignore_index=True)
    table.loc[len(table) - 1, "cpu_seconds"] = process_time() - began
    return table

"""Momentum with a part taken out: which part of it does what in a catapult.

Two hypotheses of paper 000 are about what momentum *does*: it damps the blow-up, and it
prolongs the self-stabilisation along -grad S. `Cut` tests them by removing the momentum
along chosen directions from the crossing of the threshold, or from the return below it, on.
At *every* step: what was removed once is back after 1 / (1 - beta) steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, product
from time import process_time
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common.catapults import first_return
from common.diagonal import DiagonalPoint, SparseRegression, power_iteration
from common.diagonal_runs import COLD, Setting, record
from common.observables import crossing
from common.optimizers import HeavyBall, Warmup
from common.stochastic import Noisy
from common.training import trajectory

CUTS = {
    "nothing": (1, 0, 0, 0),
    "n": (1, 0, -1, 0),
    "random": (1, 0, 0, -1),
    "all but q, n": (0, 1, 1, 0),
    "all but q": (0, 1, 0, 0),
    "all": (0, 0, 0, 0),
}
"""What is cut: the velocity v becomes a v + sum_i c_i d_i d_i^T v with these a, c_i.

d_1 = q, the top eigenvector of the Hessian; d_2 = n, the gradient of the sharpness without
its part along q, normalised; d_3, a random direction orthogonal to both.
"""

STARTS = ("crossing", "return")
CALM, CAREFUL = 2, 8
"""Hessian products for each q, until a run that is to be cut has crossed and from then on.

Two are enough for S, whose error is of second order in that of q. With the n of such a q
many of the cut runs diverge; with 4 products their S ends within .03 of that with 8 or 16.
"""


class Watched(NamedTuple):
    """State of `Cut`.

    Args:
        inner: The state of the rule.
        sharpness: S of the step taken [R, K, 1].
        q: Top eigenvectors [R, K, P].
        random: One direction for each row [R, 1, P].
        crossed: First step with S > mss [R, K, 1]; NaN until then.
        returned: First step after it with S < mss [R, K, 1]; NaN until then.
    """

    inner: tuple[int, Tensor]
    sharpness: Tensor
    q: Tensor
    random: Tensor
    crossed: Tensor
    returned: Tensor


@dataclass(frozen=True)
class Cut:
    """Heavy ball whose velocity w_t - w_{t-1} loses a part, from a moment of each run on.

    The moments are those of `common.observables.crossing` and `catapults.first_return`,
    found while the run goes on.

    Args:
        rule: Heavy ball, for a batch of runs [R, K, P].
        cuts: What is removed, a key of `CUTS` for each of the K settings.
        since: From when on, "crossing" or "return", for each setting.
        seed: Of the random directions, one for each of the R rows.

    Raises:
        ValueError: If a cut or a start is unknown, or their numbers differ.
    """

    rule: HeavyBall
    cuts: Sequence[str]
    since: Sequence[str]
    seed: Sequence[int]

    def __post_init__(self):
        if len(self.cuts) != len(self.since):
            raise ValueError(f"{len(self.cuts)} cuts but {len(self.since)} starts")
        for name, given, known in (("cut", self.cuts, CUTS), ("start", self.since, STARTS)):
            for one in given:
                if one not in known:
                    raise ValueError(f"unknown {name} {one!r}; choose from {[*known]}")

    @property
    def eta(self):
        """The rule's step size."""
        return self.rule.eta

    def max_stable_sharpness(self, step: int) -> float | Tensor:
        """That of the rule, with all its momentum."""
        return self.rule.max_stable_sharpness(step)

    def init(self, w: Tensor) -> Watched:
        """The state: nothing has happened.

        Raises:
            ValueError: If w is not [R, K, P] with R seeds and K cuts.
        """
        if w.shape[:-1] != (len(self.seed), len(self.cuts)):
            raise ValueError(
                f"{len(self.seed)} seeds and {len(self.cuts)} cuts for w {[*w.shape]}"
            )
        draw = [torch.Generator().manual_seed(seed) for seed in self.seed]
        lines = [torch.randn(1, w.shape[-1], generator=g, dtype=w.dtype) for g in draw]
        q = torch.randn(w.shape, generator=torch.Generator().manual_seed(0), dtype=w.dtype)
        never = torch.full_like(w[..., :1], torch.nan)
        return Watched(self.rule.init(w), never, q, torch.stack(lines), never, never)

    def step(self, point: DiagonalPoint, state: Watched) -> tuple[Tensor, Watched]:
        """One update."""
        count, before = state.inner
        touched = torch.tensor([cut != "nothing" for cut in self.cuts])[:, None]
        close = (state.crossed.isfinite() & touched).any()
        many = CAREFUL if close else CALM
        S, q = power_iteration(point.hessian_product, state.q, many if count else COLD)
        S, mss = S[..., None], torch.as_tensor(self.max_stable_sharpness(count)).to(S)
        crossed = _first(count, S > mss, state.crossed)
        returned = _first(count, (S < mss) & (count > crossed), state.returned)
        late = torch.tensor([s == "return" for s in self.since])[:, None]
        cut = torch.where(late, returned, crossed).isfinite()
        if cut.any():
            kept = self._kept(point, q, state.random, point.w - before)
            before = torch.where(cut, point.w - kept, before)
        after, inner = self.rule.step(point, (count, before))
        return after, Watched(inner, S, q, state.random, crossed, returned)

    def _kept(self, point: DiagonalPoint, q: Tensor, random: Tensor, v: Tensor) -> Tensor:
        """What is left of the velocities v [R, K, P]."""
        n = _orthogonal(point.curvature_gradient(q), q)
        parts = torch.tensor([CUTS[name] for name in self.cuts]).to(v).T[..., None]
        kept = parts[0] * v
        for part, line in zip(parts[1:], (q, n, _orthogonal(random, q, n)), strict=True):
            kept = kept + part * (line * v).sum(-1, keepdim=True) * line
        return kept


def _first(step: int, happens: Tensor, known: Tensor) -> Tensor:
    """The step at which something happened first; NaN while it has not."""
    return torch.where(known.isnan() & happens, float(step), known)


def _orthogonal(a: Tensor, *units: Tensor) -> Tensor:
    """The unit vectors along a [..., P], its parts along orthonormal ones taken out."""
    for unit in units:
        a = a - (a * unit).sum(-1, keepdim=True) * unit
    return a / a.norm(dim=-1, keepdim=True)


@dataclass(frozen=True)
class Intervention(Setting):
    """A setting in which a part of the momentum is cut.

    Args:
        cut: What is removed: a key of `CUTS`.
        since: From when on: "crossing" or "return".
    """

    cut: str = "nothing"
    since: str = "crossing"


def run_interventions(
    interventions: dict[str, Intervention],
    seeds: Sequence[int],
    warmup: int = 2000,
    steps: int = 3500,
    regression: SparseRegression = SparseRegression(),  # noqa: B008 (it is frozen)
) -> pd.DataFrame:
    """Train with every intervention on every seed's data, side by side.

    Args:
        interventions: By name.
        seeds: Of the data, the noise and the random directions.
        warmup: Length T of the warmup.
        steps: Number of steps.
        regression: Where the data come from.

    Returns:
        One row per intervention, seed and step: `setting`, `seed`, `step`, `loss`,
        `sharpness`, `mss` (that of heavy ball with all its momentum). The last row holds
        `cpu_seconds`.
    """
    start = process_time()
    net, chosen = regression.build(seeds), interventions.values()
    x, beta, share, noise = (
        net.X.new_tensor([getattr(one, name) for one in chosen])[:, None]
        for name in ("x", "beta", "share", "noise")
    )
    alphas = [one.alpha for one in chosen]
    eta = 2 * x / net.initial_sharpness(alphas)[..., None]
    rule = HeavyBall(Warmup(share * eta, eta, warmup), beta)
    cuts, since = [one.cut for one in chosen], [one.since for one in chosen]
    rule = Noisy(Cut(rule, cuts, since, seeds), noise, seeds)
    kept = [
        torch.stack([step.point.loss, step.state.inner.sharpness[..., 0], mss[..., 0]])
        for step in islice(trajectory(net, rule, net.start(alphas)), steps + 1)
        for mss in [rule.max_stable_sharpness(step.index)]
    ]
    axes = {"setting": [*interventions], "seed": list(seeds), "step": range(steps + 1)}
    index = pd.MultiIndex.from_product(axes.values(), names=axes)
    numbers = torch.stack(kept).permute(3, 2, 0, 1).reshape(-1, 3).numpy()
    table = pd.DataFrame(numbers, index, ["loss", "sharpness", "mss"]).reset_index()
    table.loc[len(table) - 1, "cpu_seconds"] = process_time() - start
    return table


def growth(beta: float, overshoot: float) -> float:
    """Growth per step of heavy ball's oscillation on a quadratic above its threshold.

    With w_t ~ z^t the rule w_{t+1} = (1 - eta S) w_t + beta (w_t - w_{t-1}) reads
    z^2 - (1 + beta - eta S) z + beta = 0; at eta S = 2 (1 + beta) (1 + d) the larger root
    is -z with z + beta / z = (1 + beta) (1 + 2 d). At d = 0, z = 1; to first order
    z = 1 + 2 d (1 + beta) / (1 - beta): the *same* overshoot d of its own threshold grows
    (1 + beta) / (1 - beta) times as fast as without momentum.

    Args:
        beta: Momentum.
        overshoot: d = S / mss - 1, not negative.

    Returns:
        z.

    Raises:
        ValueError: If the overshoot is negative: nothing grows.

    Example:
        >>> round(growth(0.0, 0.01), 3), round(growth(0.9, 0.001), 3)
        (1.02, 1.03)
    """
    if overshoot < 0:
        raise ValueError(f"the overshoot must not be negative, not {overshoot}")
    half = (1 + beta) * (1 + 2 * overshoot) / 2
    return half + (half**2 - beta) ** 0.5


def run_overshoot(
    betas: Sequence[float],
    overshoots: Sequence[float],
    seeds: Sequence[int],
    steps: int = 400,
    kick: float = 1e-6,
    alpha: float = 0.3,
    approach: int = 1500,
    regression: SparseRegression = SparseRegression(),  # noqa: B008 (it is frozen)
) -> pd.DataFrame:
    """Catapults from the same minimum at the same relative overshoot of the own threshold.

    Heavy ball (momentum 0.9, eta = 2 / S_0) finds a minimum; from there, kicked along the
    top eigenvector and at rest, every run has a constant eta = 2 (1 + beta) (1 + d) / S.

    Args:
        betas: Momenta.
        overshoots: d = S / mss - 1 at the start.
        seeds: Of the data.
        steps: Number of steps after the kick.
        kick: Its length.
        alpha: Initialisation.
        approach: Steps to the minimum.
        regression: Where the data come from.

    Returns:
        The table of `common.diagonal_runs.record`, its settings named "beta,d".
    """
    start = process_time()
    net = regression.build(seeds)
    eta = 3.2 / net.initial_sharpness([alpha])[..., None]  # x = 1.6, stable up to 1.9
    rule = HeavyBall(Warmup(0.05 * eta, eta, approach // 2), 0.9)
    *_, last = islice(trajectory(net, rule, net.start([alpha])), approach)
    w = last.point.w
    q = torch.randn(w.shape, generator=torch.Generator().manual_seed(0), dtype=w.dtype)
    S, q = power_iteration(last.point.hessian_product, q, COLD)
    pairs = list(product(betas, overshoots))
    beta, d = net.X.new_tensor(pairs).T[..., None]
    rule = HeavyBall(2 * (1 + beta) * (1 + d) / S[..., None], beta)
    names = [f"{b:g},{d:g}" for b, d in pairs]
    w = (w + kick * q).repeat(1, len(pairs), 1)
    table = record(net, rule, w, names, seeds, steps)
    table.loc[len(table) - 1, "cpu_seconds"] = process_time() - start
    return table


def measured_growth(table: pd.DataFrame, rise: float = 100, below: float = 0.01) -> float:
    """Growth per step of the oscillation of a run: exp of half the slope of log(loss).

    Fitted where the loss, on its way to the peak, is more than `rise` times the first one
    and less than `below` times the peak: it is then quadratic in the oscillation.

    Args:
        table: One run, one row per step.
        rise: See above.
        below: See above.

    Returns:
        The growth z; NaN if the loss is there for less than three steps.

    Example:
        >>> run = {"step": range(9), "loss": [4.0**t for t in range(9)]}
        >>> round(measured_growth(pd.DataFrame(run), rise=2, below=0.5), 3)
        2.0
    """
    peak = table.loss.max()
    inside = (table.loss > rise * table.loss.iloc[0]) & (table.loss < below * peak)
    rows = table[inside & (table.index < table.loss.idxmax())]
    if len(rows) < 3:
        return np.nan
    return float(np.exp(np.polyfit(rows.step, np.log(rows.loss), 1)[0] / 2))


def settled(table: pd.DataFrame, after: int = 100, until: int = 200) -> float:
    """Median S from `after` to `until` steps past the first return, over S at the crossing.

    NaN without a crossing and a return.

    Example:
        >>> run = {"step": range(5), "sharpness": [9, 12, 5, 3, 3], "mss": [10] * 5}
        >>> settled(pd.DataFrame(run), after=1, until=2)
        0.25
    """
    back, past = first_return(table), table.sharpness[table.step == crossing(table)]
    rows = table[(table.step >= back + after) & (table.step <= back + until)]
    return float(rows.sharpness.median() / past.iloc[0]) if len(past) else np.nan

"""Runs of linear diagonal networks with warmup, many hyperparameters and seeds at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from time import process_time

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common.diagonal import Diagonal, SparseRegression, power_iteration
from common.optimizers import HeavyBall, Optimizer, Warmup
from common.stochastic import MiniBatch, Noisy
from common.training import trajectory

COLD = 50  # Hessian products of the first measurement, from a random start
CONVERGED = 1e-3  # a training loss above this is not converged


@dataclass(frozen=True)
class Setting:
    """Heavy ball with warmup on a linear diagonal network; beta = 0 is gradient descent.

    Args:
        x: Final step size in units of 2 / S_0: eta_f = 2 x / S_0, S_0 the sharpness at the
            start. Heavy ball crosses its threshold iff x > 1 + beta, S being constant.
        beta: Momentum.
        alpha: Initialisation.
        share: eta_i / eta_f.
        noise: Standard deviation of the noise floor, per parameter and step.

    Raises:
        ValueError: If x or alpha is not positive, beta not in [0, 1), share not in (0, 1],
            or the noise negative.
    """

    x: float
    beta: float = 0.9
    alpha: float = 0.3
    share: float = 0.05
    noise: float = 1e-9

    def __post_init__(self):
        positive = min(self.x, self.alpha, self.share) > 0
        if not (positive and self.share <= 1 and 0 <= self.beta < 1 and self.noise >= 0):
            raise ValueError(f"not a setting: {self}")


def run_diagonal(
    settings: dict[str, Setting],
    seeds: Sequence[int],
    warmup: int = 2000,
    steps: int = 3500,
    every: int = 1,
    batch: int | None = None,
    regression: SparseRegression = SparseRegression(),  # noqa: B008 (it is frozen)
) -> pd.DataFrame:
    """Train every setting on every seed's data, side by side.

    Args:
        settings: By name.
        seeds: Of the data, the noise and the order of the samples.
        warmup: Length T of the warmup.
        steps: Number of steps.
        every: Steps between rows of the table.
        batch: Samples of a mini-batch; None: all.
        regression: Where the data come from.

    Returns:
        The table of `record`.

    Raises:
        ValueError: If there are no settings or seeds, or no steps between rows.
    """
    if not (len(settings) and len(seeds) and 1 <= every <= steps):
        raise ValueError(
            f"{len(settings)} settings, {len(seeds)} seeds, a row every {every} of {steps}"
            " steps: none of them may be 0, nor a row rarer than the steps"
        )
    net = regression.build(seeds)
    chosen = settings.values()
    alphas = [s.alpha for s in chosen]

    def per_setting(name: str) -> Tensor:
        return net.X.new_tensor([getattr(s, name) for s in chosen])[:, None]

    eta = 2 * per_setting("x") / net.initial_sharpness(alphas)[..., None]
    schedule = Warmup(per_setting("share") * eta, eta, warmup)
    rule = HeavyBall(schedule, per_setting("beta"))
    if batch is not None:
        rule = MiniBatch(rule, batch, regression.n, seeds)
    rule = Noisy(rule, per_setting("noise"), seeds)
    return record(net, rule, net.start(alphas), list(settings), seeds, steps, every)


def record(
    net: Diagonal,
    rule: Optimizer,
    w: Tensor,
    names: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    every: int = 1,
    products: int | None = None,
) -> pd.DataFrame:
    """Follow a rule from w [R, K, 2d]; R seeds, K names.

    Args:
        net: The networks.
        rule: An elementwise update rule.
        w: Where to set off.
        names: Of the K settings.
        seeds: Of the R networks.
        steps: Number of steps.
        every: Steps between rows of the table.
        products: Hessian products for each measurement of the sharpness, from the last
            one's vector; by default 3 at every step, 10 where it is measured more rarely.

    Returns:
        One row per setting, seed and recorded step: `setting`, `seed`, `step`, `loss`,
        `sharpness`, `mss`, `test_loss` (population), `l1` and `distance` (of theta to w*).
        For a rule with a preconditioner also `preconditioned_sharpness`, and `mss` is the
        threshold of that. The last row holds `cpu_seconds`.
    """
    start = process_time()
    products = products or (3 if every == 1 else 10)
    shape = w.shape[:2]
    q = torch.randn(w.shape, generator=torch.Generator().manual_seed(0), dtype=w.dtype)
    tops = {"sharpness": q}
    if hasattr(rule, "preconditioner"):
        tops["preconditioned_sharpness"] = q
    kept: dict[str, list[Tensor]] = {}
    for step in islice(trajectory(net, rule, w), steps + 1):
        if step.index % every:
            continue
        point = step.point
        row = {"loss": point.loss}
        for name, top in tops.items():
            root = None if name == "sharpness" else step.preconditioner.rsqrt()
            many = products if kept else COLD
            row[name], tops[name] = power_iteration(_scaled(point, root), top, many)
        threshold = torch.as_tensor(rule.max_stable_sharpness(step.index), dtype=w.dtype)
        row["mss"] = threshold.expand(*shape, 1)[..., 0]
        theta = net.theta(point.w)
        row["test_loss"] = net.test_loss(point.w)
        row["l1"], row["distance"] = theta.abs().sum(-1), (theta - net.truth).norm(dim=-1)
        for name, value in row.items():
            kept.setdefault(name, []).append(value)
    axes = [list(names), list(seeds), range(0, steps + 1, every)]
    index = pd.MultiIndex.from_product(axes, names=["setting", "seed", "step"])
    columns = {k: torch.stack(v).permute(2, 1, 0).reshape(-1) for k, v in kept.items()}
    table = pd.DataFrame({k: v.numpy() for k, v in columns.items()}, index).reset_index()
    table.loc[len(table) - 1, "cpu_seconds"] = process_time() - start
    return table


def by_run(table: pd.DataFrame) -> dict[tuple[str, int], pd.DataFrame]:
    """The tables of the single runs, (setting, seed) -> rows."""
    groups = table.groupby(["setting", "seed"], sort=False)
    return {key: run.reset_index(drop=True) for key, run in groups}


def finals(table: pd.DataFrame, settings: dict[str, Setting]) -> pd.DataFrame:
    """Where each run ends: its last row, beside its hyperparameters.

    Args:
        table: Of `run_diagonal`.
        settings: Those it was given.

    Returns:
        One row per run: the columns of `table`, those of `Setting`, `ratio` (sharpness /
        mss) and `outcome`: "converged" (loss <= 1e-3), "slow", or "diverged" (the loss is
        not finite, or above the first one).
    """
    ends = table[table.step == table.step.max()].drop(columns="cpu_seconds")
    knobs = pd.DataFrame([vars(settings[name]) for name in ends.setting], ends.index)
    ends = ends.join(knobs).assign(ratio=ends.sharpness / ends.mss)
    first = table[table.step == 0].loss.to_numpy()  # the runs in the same order
    lost, slow = ~(ends.loss <= first), ends.loss > CONVERGED
    outcome = np.select([lost, slow], ["diverged", "slow"], "converged")
    return ends.assign(outcome=outcome).reset_index(drop=True)


def _scaled(point, root: Tensor | None):
    """Products with the Hessian, or with P^-1/2 H P^-1/2."""
    if root is None:
        return point.hessian_product
    return lambda v: root * point.hessian_product(root * v)

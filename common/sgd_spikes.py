"""Spikes in the loss of SGD: which batch makes one, and what it does to the kernel.

A batch B has a critical step size of its own, eta_crit(B) = 2 / lambda_max(K_BB / |B|),
K_BB its block of the tangent kernel (paper 003, "mechanism of catapults in SGD"). `run_sgd`
follows it along a run of SGD with one step size, and the functions below read numbers off
its table. Two kinds of spikes are told apart, since the loss of the training set also
fluctuates with the choice of the batch:

* a *spike* is a peak of the full loss that is `factor` times higher than what lies on
  either side of it (the prominence of `common.catapults.spikes`). It lasts from its base,
  the lowest loss of the steps before, until the loss is back near that of the base;
* it is a *catapult spike* if on the way from the base to the peak some batch's own loss
  was raised by its own step, with eta > eta_crit(B) at that step; else a *noise spike*.
"""

from time import process_time

import numpy as np
import pandas as pd

from common.catapults import spikes
from common.kernels import KernelProbe, tangent_kernel
from common.objective import Problem
from common.optimizers import GradientDescent
from common.stochastic import MiniBatch
from common.training import train

BACK = 1.1  # a spike is over when the loss is below this many times that of its base
ROUNDING = 1e-9  # sums of logs that differ by less are equal
COLUMNS = [
    "base",
    "peak",
    "end",
    "height",
    "catapult",
    "cause",
    "kernel_ratio",
    "top_share",
]


def run_sgd(
    problem: Problem,
    seed: int,
    share: float,
    batch: int,
    steps: int,
    every: int = 1,
    s: int = 5,
) -> pd.DataFrame:
    """Train with SGD at one step size and follow the tangent kernel.

    Args:
        problem: Data, model and squared error.
        seed: Of the initialisation and the order of the samples.
        share: eta in units of the critical step size of all samples at w_0.
        batch: Samples of a batch.
        steps: Steps.
        every: Steps between measurements of the kernel; spikes need every step.
        s: Dimension of its top eigenspace.

    Returns:
        The table of `common.training.train` with the columns of
        `common.kernels.KernelProbe`, and `eta`; the last row holds `cpu_seconds`.

    Raises:
        ValueError: If share is not positive, or there is no squared error.
    """
    if share <= 0:
        raise ValueError(f"the step size must be positive, not {share} eta_crit")
    if problem.loss != "mse":
        raise ValueError("the parts of the loss are those of the squared error, loss='mse'")
    began = process_time()
    objective, w = problem.build(seed)
    eta = share * tangent_kernel(objective, w).eta_crit()
    rule = MiniBatch(GradientDescent(eta), batch, len(objective.inputs), seed)
    table, _ = train(objective, rule, w, steps, [KernelProbe(every, s)])
    table["eta"] = eta
    table.loc[len(table) - 1, "cpu_seconds"] = process_time() - began
    return table


def supercritical(table: pd.DataFrame) -> pd.Series:
    """Whether eta > eta_crit(B) of the batch of each measured step."""
    rows = table.dropna(subset="batch_eta_crit")
    return rows.eta > rows.batch_eta_crit


def batch_rises(table: pd.DataFrame) -> pd.Series:
    """Whether the batch's own loss is higher after its step, for each measured step."""
    rows = table.dropna(subset="batch_eta_crit")
    return rows.batch_loss_after > rows.batch_loss


def necessity(table: pd.DataFrame) -> dict[str, float]:
    """How well eta > eta_crit(B) tells which batches raise their own loss.

    Args:
        table: One run.

    Returns:
        `rises`, their number; `supercritical`, the share of steps with eta > eta_crit(B);
        `given_rise`, that share among the rises (NaN without any); `shuffled`, its mean
        if the values of eta_crit are shuffled between the steps, which is the share among
        all steps; `rise_given`, the converse: the share of rises among the supercritical
        steps; `rise_below`, among all others.

    Example:
        >>> run = {"batch_eta_crit": [1, 1, 3, 3], "eta": 2, "batch_loss": 1}
        >>> run |= {"batch_loss_after": [2, 0.5, 0.5, 0.5]}
        >>> [*necessity(pd.DataFrame(run)).values()]
        [1, 0.5, 1.0, 0.5, 0.5, 0.0]
    """
    above, up = supercritical(table), batch_rises(table)
    return {
        "rises": int(up.sum()),
        "supercritical": float(above.mean()),
        "given_rise": float(above[up].mean()),
        "shuffled": float(above.mean()) if up.any() else np.nan,
        "rise_given": float(up[above].mean()),
        "rise_below": float(up[~above].mean()),
    }


def spike_table(
    table: pd.DataFrame,
    factor: float = 2.0,
    floor: float = 0.01,
    before: int = 10,
    after: int = 25,
) -> pd.DataFrame:
    """The spikes of the full loss, and what each did to the tangent kernel.

    Args:
        table: One run, with the kernel measured at every step.
        factor: How much higher than its surroundings the peak must be.
        floor: Losses below count as equal to it: no spikes among the smallest losses.
        before: The base is where the loss is lowest within so many steps before the peak,
            and not before the peak of the previous spike.
        after: A spike ends at most so many steps after its peak, and at the latest where
            the next one has its base.

    Returns:
        One row per spike: `base`, `peak`, `end` (steps), `height` (loss at the peak over
        that at the base), `catapult` (see the module's docstring), `cause` (the first step
        that made it one; NaN for a noise spike), `kernel_ratio` (lambda_max(K) at the end
        over that at the base) and `top_share` (the rise of PL_s from the base to the peak
        over that of the loss; above 1 where the rest of the loss falls meanwhile).

    Raises:
        ValueError: If factor <= 1, or the kernel was not measured at every step.

    Example:
        >>> run = {"step": range(6), "loss": [1, 0.1, 2, 1, 0.1, 0.1], "diverged": False}
        >>> run |= {"kernel_norm": [9, 9, 9, 6, 3, 3], "top_loss": [0.5, 0, 1.9, 0, 0, 0]}
        >>> run |= {"eta": 2, "batch_eta_crit": [3, 1, 3, 3, 3, 3]}
        >>> run |= {"batch_loss": 1, "batch_loss_after": [0, 4, 0, 0, 0, 0]}
        >>> spike = spike_table(pd.DataFrame(run)).loc[0]
        >>> [int(spike[name]) for name in ("base", "cause", "peak", "end")]
        [1, 1, 2, 4]
        >>> [float(spike[name]) for name in ("height", "kernel_ratio", "top_share")]
        [20.0, 0.3333333333333333, 1.0]
    """
    if factor <= 1:
        raise ValueError(f"a spike rises by a factor above 1, not {factor}")
    table = _measured(table)
    loss, steps = table.loss.to_numpy(), table.step.to_numpy()
    peaks = np.searchsorted(steps, spikes(table, np.log10(factor), 1, floor))
    starts = [max(a, b - before) for a, b in zip([0, *peaks], peaks, strict=False)]
    bases = [a + loss[a:b].argmin() for a, b in zip(starts, peaks, strict=True)]
    caused = (supercritical(table) & batch_rises(table)).to_numpy()
    rows = []
    for base, peak, limit in zip(bases, peaks, [*bases, len(loss) - 1][1:], strict=True):
        tail = loss[peak : min(limit, peak + after) + 1]
        over = np.flatnonzero(tail < BACK * loss[base])
        end = peak + (over[0] if len(over) else len(tail) - 1)
        causes = base + np.flatnonzero(caused[base:peak])
        top, total = (column[peak] - column[base] for column in (table.top_loss, loss))
        row = {"base": steps[base], "peak": steps[peak], "end": steps[end]}
        row |= {"height": loss[peak] / loss[base], "catapult": len(causes) > 0}
        row["cause"] = steps[causes[0]] if len(causes) else np.nan
        row["kernel_ratio"] = table.kernel_norm[end] / table.kernel_norm[base]
        rows.append(row | {"top_share": top / total})
    return pd.DataFrame(rows, columns=COLUMNS)


def kernel_changes(table: pd.DataFrame, found: pd.DataFrame) -> dict[str, float]:
    """How log lambda_max(K) changes inside spikes, outside them, and in other places.

    The same windows elsewhere are the control: the pattern of spikes is shifted along the
    run by every number of steps, and what leaves at the end comes in at the start.

    Args:
        table: One run, with the kernel measured at every step.
        found: Spikes of it, rows of `spike_table`.

    Returns:
        `inside` and `outside`, the sums of the changes of log lambda_max from step to step
        from the base of a spike to its end, and in all other steps; `falls`, the share of
        spikes in which it falls (NaN without any); `steps_inside`, their share of the
        steps; `shifted_inside`, `shifted_outside` and `shifted_falls`, the mean of the same
        over all shifts; `as_low`, the share of the shifts with as low a sum inside.

    Raises:
        ValueError: If the kernel was not measured at every step.

    Example:
        >>> run = {"step": range(5), "kernel_norm": np.exp([0, 1, 2, 0, 1])}
        >>> spike = pd.DataFrame({"base": [2], "end": [3]})
        >>> changes = kernel_changes(pd.DataFrame(run).assign(diverged=False), spike)
        >>> [round(float(changes[name]), 6) for name in ("inside", "outside", "as_low")]
        [-2.0, 3.0, 0.25]
    """
    table = _measured(table)
    change = np.diff(np.log(table.kernel_norm))
    spans = (found[["base", "end"]].to_numpy() - table.step.iloc[0]).astype(int)
    # row i: the changes as they are i steps further on
    shifted = np.stack([np.roll(change, -i) for i in range(len(change))])
    sums = [shifted[:, a:b].sum(1) for a, b in spans]
    inside = np.sum(sums, 0) if sums else np.zeros(len(change))
    total, falls = change.sum(), np.mean([s < 0 for s in sums], 0) if sums else [np.nan]
    return {
        "inside": inside[0],
        "outside": total - inside[0],
        "falls": falls[0],
        "steps_inside": sum(b - a for a, b in spans) / len(change),
        "shifted_inside": inside.mean(),
        "shifted_outside": total - inside.mean(),
        "shifted_falls": np.mean(falls),
        "as_low": np.mean(inside <= inside[0] + ROUNDING),
    }


def _measured(table: pd.DataFrame) -> pd.DataFrame:
    """The rows before a divergence, all with their kernel."""
    table = table[~table.diverged].reset_index(drop=True)
    if table.kernel_norm.isna().any():
        raise ValueError("this needs the kernel at every step: run_sgd(..., every=1)")
    return table

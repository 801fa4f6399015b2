"""Numbers read off a run with catapults: spikes, the fall of the sharpness, where it ends.

Each takes a table of one run with the columns `step`, `loss`, `sharpness` (NaN where it
was not measured) and `mss`. A catapult is "a sharp increase in loss, followed by a decrease
that forms a single spike in the training loss, coupled with a rapid sharpness reduction"
(paper 000): `spikes` finds the first, `steepest_fall` the second.
"""

import numpy as np
import pandas as pd
from scipy.signal import find_peaks

from common.observables import crossing, measured


def spikes(
    table: pd.DataFrame, decades: float = 1.0, window: int = 25, floor: float = 0.0
) -> np.ndarray:
    """Steps of the spikes of the loss: peaks of log10 of its envelope.

    A peak counts if its topographic prominence is at least `decades`: to climb higher one
    has to go down that far first, on either side. The envelope, a centred running maximum,
    hides the ringing of momentum. The fall from the initial loss is no peak.

    Args:
        table: One run, one row per step.
        decades: Prominence in powers of ten.
        window: Steps of the running maximum.
        floor: Losses below this count as equal to it: a rise from 1e-20 to 1e-10 is no
            spike that anyone would see.

    Returns:
        The steps at which the loss is highest, rising.

    Example:
        >>> loss = [1, 1e-2, 1e-4, 1e-2, 1, 1e-2, 1e-4, 2e-4, 1e-4]
        >>> spikes(pd.DataFrame({"step": range(9), "loss": loss}), window=1)
        array([4])
    """
    loss = table.loss.clip(lower=max(floor, np.finfo(float).tiny))
    envelope = np.log10(loss.rolling(window, center=True, min_periods=1).max())
    tops, _ = find_peaks(envelope[np.isfinite(envelope)], prominence=decades)
    half = window // 2
    highest = [table.loss[max(0, t - half) : t + half + 1].idxmax() for t in tops]
    return table.step[highest].to_numpy()


def spike_ratio(table: pd.DataFrame, start: float = 0) -> float:
    """Largest loss over the lowest one before it, from a step on.

    Example:
        >>> loss = {"step": [0, 1, 2, 3, 4], "loss": [9.0, 2.0, 0.1, 5.0, 0.1]}
        >>> spike_ratio(pd.DataFrame(loss))
        50.0
    """
    loss = table.loss[table.step >= start]
    return float((loss / loss.cummin()).max())


def drift(table: pd.DataFrame) -> float:
    """Largest |S / S(0) - 1| before the crossing (in the whole run, without one).

    Example:
        >>> run = {"step": [0, 1, 2], "sharpness": [10, 11, 12.5], "mss": [15, 13, 12]}
        >>> round(drift(pd.DataFrame(run)), 3)
        0.1
    """
    rows = measured(table)
    before = rows[rows.step < np.nan_to_num(crossing(table), nan=np.inf)].sharpness
    return float((before / before.iloc[0] - 1).abs().max()) if len(before) else np.nan


def up_crossings(table: pd.DataFrame, calm: float = 25) -> int:
    """How often the sharpness rises through the maximum stable sharpness.

    While the loss blows up the iterates jump back and forth, and with them the sharpness
    through its threshold. That is one crossing, not many: the next one counts only after
    `calm` steps without a measurement above the threshold.

    Args:
        table: One run.
        calm: Steps.

    Example:
        >>> run = pd.DataFrame({"step": range(8), "sharpness": [1, 3, 1, 3, 1, 1, 1, 3]})
        >>> up_crossings(run.assign(mss=2), calm=3), up_crossings(run.assign(mss=2), calm=0)
        (2, 3)
    """
    rows = measured(table)
    above = (rows.sharpness > rows.mss).to_numpy()
    up = np.flatnonzero(above[1:] & ~above[:-1]) + 1
    steps = rows.step.to_numpy()
    before = [steps[:i][above[:i]] for i in up]
    fresh = [not len(b) or steps[i] - b[-1] > calm for i, b in zip(up, before, strict=True)]
    return int(sum(fresh))


def tracking_error(table: pd.DataFrame) -> float:
    """Median of |S / MSS - 1| from the crossing on; NaN without one.

    Example:
        >>> run = {"step": [0, 1, 2, 3], "sharpness": [1, 6, 3, 4], "mss": [5, 5, 4, 4]}
        >>> round(tracking_error(pd.DataFrame(run)), 3)
        0.2
    """
    rows = measured(table)
    rows = rows[rows.step >= crossing(table)]
    return float((rows.sharpness / rows.mss - 1).abs().median())


def first_return(table: pd.DataFrame) -> float:
    """First measured step after the crossing with sharpness < mss; NaN if none."""
    rows = measured(table)
    below = rows.step[(rows.sharpness < rows.mss) & (rows.step > crossing(table))]
    return float(below.iloc[0]) if len(below) else np.nan


def steepest_fall(table: pd.DataFrame, within: float = 200) -> float:
    """Smallest S(t + within) / S(t) of the run: what the sharpness fell to in that time.

    Args:
        table: One run.
        within: Steps.

    Raises:
        ValueError: If the run is not longer than that.

    Example:
        >>> run = {"step": [0, 1, 2, 3, 4], "sharpness": [10, 10, 4, 5, 5]}
        >>> steepest_fall(pd.DataFrame(run), within=2)
        0.4
    """
    rows = measured(table)
    start = rows[rows.step + within <= rows.step.max()]
    if start.empty:
        raise ValueError(f"the run has {rows.step.max()} steps: no fall within {within}")
    later = np.interp(start.step + within, rows.step, rows.sharpness)
    return float((later / start.sharpness).min())


def final_ratio(table: pd.DataFrame, last: int = 100, column: str = "sharpness") -> float:
    """S_f / MSS_f: median of sharpness / mss over the last steps.

    Args:
        table: One run.
        last: How many steps.
        column: Which sharpness.
    """
    rows = measured(table, column)
    rows = rows[rows.step >= rows.step.max() - last]
    return float((rows[column] / rows.mss).median())

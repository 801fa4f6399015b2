"""Numbers read off a training table: crossings, hovering, rises, collapse.

Each takes a table of `common.training.run` (columns `step`, `time`, `loss`, `mss`, and a
column of sharpnesses that is NaN where it was not measured), or, where it says so, one of
`common.training.run_together` (columns `step`, `name`, ...).
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd


def measured(table: pd.DataFrame, column: str = "sharpness") -> pd.DataFrame:
    """The rows in which a column was measured."""
    return table.dropna(subset=column)


def crossing(table: pd.DataFrame, column: str = "sharpness") -> float:
    """First measured step with sharpness > maximum stable sharpness; NaN if none.

    Example:
        >>> crossing(pd.DataFrame({"step": [0, 5], "sharpness": [9, 11], "mss": [10, 10]}))
        5.0
    """
    rows = measured(table, column)
    above = rows.step[rows[column] > rows.mss]
    return float(above.iloc[0]) if len(above) else np.nan


def hover(
    table: pd.DataFrame, column: str = "sharpness", after: int = 50, start: float = np.nan
) -> float:
    """Median of sharpness / mss from `after` steps past the crossing on; NaN if none.

    Args:
        table: One run.
        column: Which sharpness.
        after: Steps left out after the crossing: the first burst.
        start: Count from this step instead of the crossing.
    """
    start = crossing(table, column) if np.isnan(start) else start
    rows = measured(table, column)
    rows = rows[rows.step >= start + after]
    return float((rows[column] / rows.mss).median()) if len(rows) else np.nan


def rises(table: pd.DataFrame, start: float = 0, end: float = np.inf) -> tuple[int, int]:
    """Number of steps in [start, end) after which the loss is higher, and of all steps.

    Example:
        >>> rises(pd.DataFrame({"step": [0, 1, 2], "loss": [3.0, 2.0, 2.5]}))
        (1, 2)
    """
    change = np.diff(table.loss)
    inside = (table.step[:-1] >= start) & (table.step[:-1] < end)
    return int((change[inside] > 0).sum()), int(inside.sum())


def rise_share(table: pd.DataFrame, column: str = "sharpness") -> float:
    """Share of the steps from the crossing on that raise the loss; NaN without any."""
    up, steps = rises(table, crossing(table, column))
    return up / steps if steps else np.nan


def rises_before(table: pd.DataFrame, column: str = "sharpness") -> int:
    """Number of steps before the crossing (of all, without one) that raise the loss."""
    return rises(table, 0, np.nan_to_num(crossing(table, column), nan=np.inf))[0]


def fall(table: pd.DataFrame, column: str = "sharpness") -> float:
    """loss(end) / loss(crossing); NaN without a crossing."""
    after = table.loss[table.step >= crossing(table, column)]
    return after.iloc[-1] / after.iloc[0] if len(after) else np.nan


def sharpening(
    table: pd.DataFrame, intervals: int, column: str = "sharpness"
) -> tuple[float, float]:
    """Progressive sharpening: S(end) / S(0), and the share of coarse intervals with a rise.

    Args:
        table: One run.
        intervals: Number of equal intervals.
        column: Which sharpness.
    """
    rows = measured(table, column)
    ends = np.linspace(0, len(rows) - 1, intervals + 1).round().astype(int)
    values = rows[column].to_numpy()[ends]
    return values[-1] / values[0], float((np.diff(values) > 0).mean())


def collapse(table: pd.DataFrame, reference: pd.DataFrame, by: str, until: float) -> float:
    """Largest relative difference of two sharpness curves over a common axis.

    Args:
        table: One run.
        reference: Another one; interpolated.
        by: The axis, "time" or "step".
        until: Compare where `table.step` is below this.
    """
    rows, other = measured(table), measured(reference)
    rows = rows[(rows.step < until) & (rows[by] <= other[by].max())]
    expected = np.interp(rows[by], other[by], other.sharpness)
    return float((rows.sharpness / expected - 1).abs().max())


def side_by_side(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """One column of a table of `run_together`: a row per measured step, a column per name.

    Example:
        >>> rows = {"step": [0, 0, 1, 1], "name": ["gd", "flow"] * 2, "loss": [2, 2, 1, 0]}
        >>> side_by_side(pd.DataFrame(rows), "loss").gd.tolist()
        [2, 1]
    """
    return table.pivot(index="step", columns="name", values=column).dropna()


def averaged(series: pd.Series, window: int = 51) -> pd.Series:
    """Centred running mean over an odd number of steps; NaN near the ends."""
    return series.rolling(window, center=True).mean()


def late(table: pd.DataFrame, column: str = "preconditioned_sharpness") -> float:
    """Median of sharpness / threshold over the second half of a run."""
    return hover(table, column, after=0, start=table.step.median())


def past(
    table: pd.DataFrame, start: float, column: str = "preconditioned_sharpness"
) -> pd.DataFrame:
    """The measured rows from a step on, with `ratio`, sharpness / threshold."""
    seen = measured(table[table.step >= start], column)
    return seen.assign(ratio=seen[column] / seen.mss)


def by_name(table: pd.DataFrame, names: Iterable[str]) -> dict[str, pd.DataFrame]:
    """The parts of a table of `run_together`, in this order, as far as it has them.

    Example:
        >>> rows = {"step": [0, 0, 1, 1], "name": ["gd", "flow"] * 2, "loss": [2, 2, 1, 0]}
        >>> parts = by_name(pd.DataFrame(rows), ["flow", "other"])
        >>> {name: part.loss.tolist() for name, part in parts.items()}
        {'flow': [2, 0]}
    """
    parts = {name: table[table.name == name].reset_index() for name in names}
    return {name: part for name, part in parts.items() if len(part)}


def late_distance(table: pd.DataFrame, name: str, reference: str = "real") -> float:
    """Mean distance to the reference over the last tenth of a table of `run_together`."""
    column = f"distance_to_{reference}"
    part = measured(by_name(table, [name])[name], column)
    return part[part.step >= part.step.quantile(0.9)][column].mean()


def prediction_error(
    table: pd.DataFrame,
    name: str,
    column: str = "predicted_loss",
    reference: str = "real",
    window: int = 51,
) -> float:
    """Median relative error of a flow's loss against the reference's running mean."""
    real = averaged(side_by_side(table, "loss")[reference], window)
    return (side_by_side(table, column)[name] / real - 1).abs().median()

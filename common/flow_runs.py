"""Gradient flow of a network down to a given loss: how far does the sharpness rise?

What depends on depth, width and data is compared at the same loss (paper 001, figures 14,
17 and 18). The flow measures the sharpness for its own steps; here it is written down.
"""

from time import process_time

import numpy as np
import pandas as pd
import torch

from common.curvature import Curvature
from common.data import Images, load
from common.flows import COARSE, PATIENCE, GradientFlow
from common.objective import Problem
from common.taylor import taylor
from common.training import Step, train


class KnownSharpness:
    """The sharpness that gradient flow has measured for itself, every PATIENCE steps."""

    every = PATIENCE

    def __call__(self, step: Step) -> dict[str, float]:
        """Read it off the flow's state."""
        return {"sharpness": float(step.state.tracker.last.values[0])}


def run_flow(
    problem: Problem,
    seed: int,
    level: float,
    steps: int = 4000,
    stride: float = 1.5,
    linearised: bool = False,
) -> pd.DataFrame:
    """Follow gradient flow from scratch until the loss has fallen to a level.

    Args:
        problem: Data, model and loss.
        seed: Seed of the initialisation.
        level: Training loss at which to stop, at the next known sharpness.
        steps: Steps after which to stop in any case.
        stride: Time per step * sharpness at the start; below 2.2 the flow's first steps
            are classical Runge-Kutta. The sharpness is known every `PATIENCE` steps.
        linearised: Train the linear model at the start in place of the network.

    Returns:
        The rows of `common.training.train` in which the sharpness is known: `step`,
        `time`, `loss`, `sharpness`, ..., and `cpu_seconds` in the last row.

    Raises:
        ValueError: If the level or the stride is not positive, or steps < 1.
    """
    if not min(level, stride) > 0:
        raise ValueError(f"level and stride must be positive, not {level} and {stride}")
    began = process_time()
    objective, w = problem.build(seed)
    if linearised:
        objective = taylor(objective, w, order=1)
    eta = stride / float(Curvature(tolerance=COARSE)(objective.at(w)).values[0])
    table, _ = train(
        objective,
        GradientFlow(eta),
        w,
        steps,
        [KnownSharpness()],
        until=lambda row: row["loss"] <= level and "sharpness" in row,
    )
    table = table.dropna(subset="sharpness").reset_index(drop=True)
    table.loc[len(table) - 1, "cpu_seconds"] = process_time() - began
    return table


def at_loss(table: pd.DataFrame, level: float, column: str = "sharpness") -> float:
    """A column where the loss first reaches a level, linear in log loss; NaN if never.

    Args:
        table: One run, with `loss` and the column in every row.
        level: The training loss.
        column: What to read.

    Example:
        >>> table = pd.DataFrame({"loss": [1.0, 0.1, 0.01], "sharpness": [2.0, 4.0, 8.0]})
        >>> round(at_loss(table, 0.1**1.5), 9)
        6.0
    """
    below = np.flatnonzero(table.loss <= level)
    if not len(below):
        return np.nan
    rows = table.iloc[max(below[0] - 1, 0) : below[0] + 1][::-1]
    return float(np.interp(np.log(level), np.log(rows.loss), rows[column]))


def with_permuted_labels(
    data: str, n: int, classes: int, size: int, share: float, seed: int = 0
) -> Images:
    """Images of `common.data.load`, the labels of a share of them permuted among these.

    The images and the number in each class stay as they are; what is lost is that the
    labels are easy to tell from the pixels (Zhang et al. 2017, "Understanding deep
    learning requires rethinking generalization").

    Args:
        data: Name of the data set.
        n: Number of images.
        classes: Number of classes.
        size: Side of the images in pixels.
        share: Of the images whose labels are permuted, from 0 to 1.
        seed: Of the choice and of the permutation.

    Raises:
        ValueError: If the share is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share must be from 0 to 1, not {share}")
    images = load(data, n=n, classes=classes, size=size)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(n, generator=generator)[: round(share * n)]
    y = images.y.clone()
    y[chosen] = y[chosen[torch.randperm(len(chosen), generator=generator)]]
    return Images(images.x, y, images.classes)


def rise_of_means(values: pd.DataFrame) -> np.ndarray:
    """Smallest ratio of neighbouring means, each run left out in turn: one number a run.

    Above 1 the means rise from column to column, whichever run is left out: their rank
    correlation with the columns is 1.

    Args:
        values: A positive number for each run (row) and setting (column, in order).

    Returns:
        One ratio for each run [runs].

    Raises:
        ValueError: If there are fewer than two runs or two settings.

    Example:
        >>> rise_of_means(pd.DataFrame({1: [1.0, 1.0, 4.0], 2: [2.0, 2.0, 2.0]})).round(2)
        array([0.8, 0.8, 2. ])
    """
    x = np.asarray(values, dtype=float)
    if min(x.shape) < 2:
        raise ValueError(f"at least two runs and two settings are needed, not {x.shape}")
    means = (x.sum(0) - x) / (len(x) - 1)
    return (means[:, 1:] / means[:, :-1]).min(1)

"""Heavy ball on a quadratic and in a valley: what the sliders of notebook 07 move.

On the quadratic the threshold 2 (1 + beta) / eta parts convergence from divergence. In the
valley, which sharpens until it is reached, crossing it ends in a catapult instead.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from common.figures import BLACK, BLUE, RED, panels, surface, threshold
from common.objective import Objective
from common.optimizers import HeavyBall
from common.stochastic import Noisy
from common.toys import Valley
from common.training import trajectory

CURVATURES = (2.2, 0.15)  # of the quadratic
STARTS = {"quadratic": (1.0, 9.0), "valley": (1e-3, -float(np.log(1.85)))}
WINDOWS = {"quadratic": (-3.0, 3.0, -3.0, 10.0), "valley": (-0.6, 0.6, -1.7, 1.4)}
DECADES = {"quadratic": (-2, 1.5), "valley": (-3.5, 0.5)}  # of the loss that are drawn
FALL, NOISE = 5e-3, 1e-5  # of the valley's floor; standard deviation per step


def heavy_ball_paths(eta: float, beta: float, steps: int = 200) -> pd.DataFrame:
    """Heavy ball on a quadratic and in the valley of `common.toys`, from fixed starts.

    Args:
        eta: Step size.
        beta: Momentum; 0 is gradient descent.
        steps: Number of steps, at most: a run ends where a coordinate exceeds 1e6.

    Returns:
        A row per loss and step: `on` ("quadratic" or "valley"), `step`, `x`, `y`,
        `loss`, `sharpness` and `mss`, the threshold 2 (1 + beta) / eta.
    """
    rule, tables = HeavyBall(eta, beta), []
    for where, (loss, sharpness) in _losses().items():
        w = torch.tensor(STARTS[where], dtype=torch.float64)
        noise = NOISE if where == "valley" else 0.0
        path = []
        for step in trajectory(Objective(loss), Noisy(rule, noise), w):
            path.append(step.point.w)
            if len(path) > steps or not path[-1].abs().max() < 1e6:
                break
        path = torch.stack(path)
        table = pd.DataFrame(path.numpy(), columns=["x", "y"])
        table["loss"] = [float(loss(w)) for w in path]
        table["sharpness"] = sharpness(path).numpy()
        tables.append(table.assign(on=where, step=table.index))
    return pd.concat(tables).assign(mss=rule.max_stable_sharpness(0))


def heavy_ball_figure(table: pd.DataFrame) -> Figure:
    """What `heavy_ball_paths` found: each loss seen from above, and over the steps."""
    figure, axes = panels(2, 2, height=2.7, width_ratios=[1, 1.5])
    for (left, right), (on, (loss, _)) in zip(axes, _losses().items(), strict=True):
        walk = table[table.on == on]
        ratio = walk.sharpness / walk.mss
        surface(left, _of_two(loss), WINDOWS[on], DECADES[on])
        left.plot(walk.x, walk.y, ".-", color=RED if ratio.iloc[0] > 1 else BLUE, lw=0.8)
        left.plot(walk.x.iloc[0], walk.y.iloc[0], "o", color=BLACK, ms=5)
        left.set(title=f"{on}: starts at {ratio.iloc[0]:.2f} of the threshold")
        left.set(xlabel="$x$ (steep)", ylabel="$y$")
        right.set(xlim=(0, 200), xlabel="step")
    steep, flat = (table[table.on == "quadratic"][name].abs() for name in "xy")
    ratio = (table.sharpness / table.mss)[table.on == "valley"]
    axes[0, 1].semilogy(steep, color=RED, label="steep, $|x|$")
    axes[0, 1].semilogy(flat, color=BLACK, lw=1, label="flat, $|y|$")
    axes[0, 1].set(ylim=(1e-6, 1e6), title="distance from the minimum")
    axes[0, 1].legend(loc="upper right", ncols=2)
    axes[1, 1].plot(ratio, color=BLUE)
    threshold(axes[1, 1], 1, "$2(1+\\beta)/\\eta$")
    axes[1, 1].set(ylim=(0, max(1.4, min(1.1 * ratio.max(), 3))))
    axes[1, 1].set(title="sharpness / threshold", ylabel="$S$ / threshold")
    return figure


def _losses() -> dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]]:
    """Loss and sharpness, by name, for w [..., 2]."""
    curvatures = torch.tensor(CURVATURES, dtype=torch.float64)
    valley = Valley(FALL)
    return {
        "quadratic": (
            lambda w: (curvatures * w.square()).sum(-1) / 2,
            lambda w: curvatures[0].expand(w.shape[:-1]),
        ),
        "valley": (valley.loss, valley.sharpness),
    }


def _of_two(
    loss: Callable[[Tensor], Tensor],
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The same as a function of arrays x and y."""
    return lambda x, y: loss(torch.tensor(np.stack([x, y], -1))).numpy()

"""A figure that turns into one with sliders where somebody can move them.

In a notebook that a person has open the sliders redraw the figure in place. Executed by a
program (papermill, nbval), or without ipywidgets, it is the plain figure of the defaults:
the same output every time, and what is stored is a picture that any viewer can show.
"""

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython import get_ipython
from IPython.display import display
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


def explore(draw: Callable[..., Figure], **sliders: tuple[float, float, float, float]):
    """Show a figure, with sliders above it if somebody is there to move them.

    Args:
        draw: Maps a number for each slider to a figure.
        sliders: Name -> (lowest, highest, step, where it starts).

    Returns:
        The figure of the starting values.

    Raises:
        ValueError: If a slider does not start within its range.
    """
    for name, (low, high, step, value) in sliders.items():
        if not (low <= value <= high and step > 0):
            raise ValueError(
                f"slider {name!r} cannot start: {low}, {high}, {step}, {value}"
            )
    controls = _controls(sliders) if somebody_there() else {}
    figure = draw(**{name: value for name, (*_, value) in sliders.items()})
    shown = display(figure, display_id=True)
    plt.close(figure)  # or it would be shown a second time at the end of the cell

    def redraw(_) -> None:
        new = draw(**{name: control.value for name, control in controls.items()})
        shown.update(new)
        plt.close(new)

    for control in controls.values():
        control.observe(redraw, "value")
    return figure


def somebody_there() -> bool:
    """Whether a front end runs the cell that can ask its user for input.

    Each request to a kernel says so (`allow_stdin` of the Jupyter messaging protocol):
    JupyterLab and its relatives do, papermill and nbval do not.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    return bool(kernel and kernel.get_parent()["content"].get("allow_stdin"))


def _controls(sliders: dict) -> dict:
    """A displayed slider for each; none without ipywidgets, an optional dependency."""
    try:
        from ipywidgets import FloatSlider, HBox
    except ImportError:
        return {}
    made = {
        name: FloatSlider(
            value, min=low, max=high, step=step, description=name, continuous_update=False
        )
        for name, (low, high, step, value) in sliders.items()
    }
    display(HBox([*made.values()]))
    return made


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

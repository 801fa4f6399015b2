"""A figure that turns into one with sliders where somebody can move them.

In a notebook that a person has open the sliders redraw the figure in place. Executed by a
program (papermill, nbval), or without ipywidgets, it is the plain figure of the defaults:
the same output every time, and what is stored is a picture that any viewer can show.
"""

from collections.abc import Callable

import matplotlib.pyplot as plt
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure


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

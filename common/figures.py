"""One look for all figures, and one way to save them with the numbers they show."""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common import ROOT

STYLE = Path(__file__).with_name("style.mplstyle")
WIDE = 10.0  # width of a full figure in inches
ROW = 3.1  # height of a row of panels in inches
LARGE = 300_000  # bytes from which the plotted numbers are compressed

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PINK = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
"""The colours of Okabe and Ito: told apart with every kind of colour vision."""

plt.style.use(STYLE)


def panels(rows: int, columns: int, height: float = ROW, **keywords):
    """A figure of full width with a grid of panels: `fig, axes = panels(1, 3)`."""
    return plt.subplots(rows, columns, figsize=(WIDE, height * rows), **keywords)


def by_step_size(etas: list[float]) -> dict[float, str]:
    """A colour for each step size, dark = small, from a map that is safe to tell apart."""
    shades = sns.color_palette("viridis", len(etas) + 1).as_hex()[:-1]
    return dict(zip(sorted(etas), shades, strict=True))


def threshold(ax: Axes, y: float, text: str = "", color: str = BLACK, x: float = 0.99):
    """A dashed threshold line at y, labelled just above it at the right end."""
    ax.axhline(y, color=color, linestyle="--", linewidth=1)
    if text:
        ax.annotate(
            text,
            (x, y),
            xycoords=("axes fraction", "data"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize="small",
            color=color,
        )


class Figures:
    """Saves the figures of one notebook under one profile.

    Args:
        notebook: Name of the notebook, such as "01_edge_of_stability".
        profile: Name of the profile.
        folder: Where figures go; by default `figures/`.
    """

    def __init__(self, notebook: str, profile: str, folder: Path | None = None):
        self.folder = (folder or ROOT / "figures") / profile / notebook

    def save(self, figure: Figure, name: str, data: pd.DataFrame) -> None:
        """Write <name>.png and the plotted numbers, <name>.csv (.csv.gz when large).

        Args:
            figure: The figure.
            name: File name without ending.
            data: Every number that the figure shows.

        Raises:
            ValueError: If there are no numbers.
        """
        if data.empty:
            raise ValueError(f"figure {name!r} comes without its numbers")
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".{name}.{os.getpid()}"
        figure.savefig(partial, format="png", metadata={"Software": None})
        os.replace(partial, self.folder / f"{name}.png")
        text = data.to_csv(index=False, float_format="%.5g")
        for ending in (".csv", ".csv.gz"):
            (self.folder / f"{name}{ending}").unlink(missing_ok=True)
        large = len(text) > LARGE
        compression = {"method": "gzip", "mtime": 0} if large else None
        data.to_csv(partial, index=False, float_format="%.5g", compression=compression)
        os.replace(partial, self.folder / (f"{name}.csv" + ".gz" * large))

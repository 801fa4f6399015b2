"""One look for all figures, and one way to save them with the numbers they show."""

import gzip
import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

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
    """Make a figure of full width with a grid of axes, each `height` inches high."""
    return plt.subplots(rows, columns, figsize=(WIDE, height * rows), **keywords)


def by_step_size(etas: list[float]) -> dict[float, str]:
    """A colour for each step size, dark = small, from a map that is safe to tell apart."""
    shades = sns.color_palette("viridis", len(etas) + 1).as_hex()[:-1]
    return dict(zip(sorted(etas), shades, strict=True))


def threshold(ax: Axes, y: float, text: str = "", color: str = BLACK):
    """A dashed threshold line at y, its label outside the panel, at the right."""
    ax.axhline(y, color=color, linestyle="--", linewidth=1)
    where = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": "small"}
    if text:
        ax.annotate(text, (1.01, y), color=color, **where)


def surface(
    ax: Axes,
    loss: Callable[[np.ndarray, np.ndarray], np.ndarray],
    window: tuple[float, float, float, float],
    decades: tuple[float, float],
    each: float = 0.5,
):
    """Draw a loss of two variables seen from above, pale: its logarithm in equal steps.

    Args:
        ax: Where to draw; gets the window as its limits.
        loss: Maps arrays x and y to positive numbers.
        window: Lowest and highest x, lowest and highest y.
        decades: Lowest and highest log10 of the loss that has its own shade.
        each: Decades between two lines.
    """
    x, y = np.meshgrid(np.linspace(*window[:2], 240), np.linspace(*window[2:], 240))
    low, high = decades
    height = np.log10(np.clip(loss(x, y), 10.0**low, 10.0**high))
    levels = np.linspace(low, high, round((high - low) / each) + 1)
    pale = {"cmap": "Greys", "vmin": low, "vmax": low + 3.5 * (high - low)}
    ax.contourf(x, y, height, levels, zorder=0, **pale)
    lines = {"colors": "white", "linestyles": "-", "linewidths": 0.7}
    ax.contour(x, y, height, levels, zorder=0, **lines)
    ax.set(xlim=window[:2], ylim=window[2:])
    ax.grid(False)


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
            data: Every number that the figure shows; a column `cpu_seconds` is left out.

        Raises:
            ValueError: If there are no numbers.
        """
        if data.empty:
            raise ValueError(f"figure {name!r} comes without its numbers")
        data = data.drop(columns="cpu_seconds", errors="ignore")  # new at every run
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".{name}.{os.getpid()}"
        figure.savefig(partial, format="png", metadata={"Software": None})
        os.replace(partial, self.folder / f"{name}.png")
        figure.set_layout_engine("none")  # found: not sought again for the notebook's copy
        text = data.to_csv(index=False, float_format="%.5g")
        large = len(text) > LARGE
        # gzip.compress stores no file name: the same numbers are the same bytes
        raw = text.encode()
        partial.write_bytes(gzip.compress(raw, mtime=0) if large else raw)
        endings = (".csv.gz", ".csv") if large else (".csv", ".csv.gz")
        os.replace(partial, self.folder / f"{name}{endings[0]}")
        (self.folder / f"{name}{endings[1]}").unlink(missing_ok=True)

    def animate(
        self,
        figure: Figure,
        name: str,
        artists: Sequence[Artist],
        update: Callable[[Hashable], None],
        frames: Iterable[Hashable],
        milliseconds: int = 60,
        colors: int = 256,
    ) -> None:
        """Write <name>.gif, an endless loop: the same frames are the same bytes.

        What does not move is drawn once; all frames share their colours.

        Args:
            figure: The figure; closed afterwards.
            name: File name without ending.
            artists: What moves.
            update: Sets the artists to a frame.
            frames: What `update` is called with, one after the other.
            milliseconds: How long a frame is seen, a multiple of 10.
            colors: Number of colours, at most 256.

        Raises:
            ValueError: If there are no frames, or the format has not that time or number
                of colours.
        """
        frames = list(frames)
        if not frames:
            raise ValueError(f"animation {name!r} has no frames")
        if milliseconds <= 0 or milliseconds % 10 or not 2 <= colors <= 256:
            raise ValueError(
                f"a GIF counts in 10 milliseconds and has 2 to 256 colours, not "
                f"{milliseconds} and {colors}"
            )
        canvas = FigureCanvasAgg(figure)
        for artist in artists:
            artist.set_animated(True)  # left out of what is drawn once
        canvas.draw()
        still = canvas.copy_from_bbox(figure.bbox)
        images = []
        for frame in frames:
            canvas.restore_region(still)
            update(frame)
            for artist in artists:
                artist.axes.draw_artist(artist)
            images.append(Image.fromarray(np.array(canvas.buffer_rgba())[..., :3]))
        plt.close(figure)
        some = np.vstack([np.array(image) for image in images[:: len(images) // 12 + 1]])
        palette = Image.fromarray(some).quantize(colors)
        images = [image.quantize(palette=palette, dither=0) for image in images]
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".{name}.{os.getpid()}"
        rest = {"save_all": True, "append_images": images[1:], "loop": 0}
        images[0].save(partial, format="gif", duration=milliseconds, **rest)
        os.replace(partial, self.folder / f"{name}.gif")


def band(ax: Axes, values: pd.Series, color: str, label: str, line: str = "-"):
    """Median and range over runs: values that share an index entry are one point.

    Args:
        ax: Where to draw.
        values: Numbers of all runs, the index their place on the x axis.
        color: Of the line and of the band.
        label: Of the line.
        line: Its style.

    Returns:
        What was drawn: the columns `median`, `min` and `max`, by place.
    """
    spread = values.groupby(level=0).agg(["median", "min", "max"])
    ax.plot(spread["median"], line, color=color, label=label, lw=1.5)
    low, high = spread["min"], spread["max"]
    ax.fill_between(spread.index, low, high, color=color, alpha=0.25, lw=0)
    return spread


def look(seed: int, seeds: Sequence[int]) -> dict[str, float]:
    """Line style of a seed's curve: bold for the first seed, thin for the others."""
    first = seed == seeds[0]
    return {"lw": 1.4 if first else 0.7, "alpha": 1 if first else 0.45}

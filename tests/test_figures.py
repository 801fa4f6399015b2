"""Figures: saved with their numbers, the same bytes every time, in one style."""

import gzip
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from common import figures
from common.figures import Figures, by_step_size, panels, surface, threshold


@pytest.fixture
def house(tmp_path) -> Figures:
    return Figures("01_demo", "quick", tmp_path)


@pytest.fixture
def figure():
    fig, ax = panels(1, 1)
    ax.plot([0, 1, 2], [1, 4, 9], label="S")
    ax.legend()
    yield fig
    plt.close(fig)


DATA = pd.DataFrame({"step": [0, 1, 2], "S": [1.0, 1 / 3, np.nan], "run": ["a", "b", "c"]})


def files(house: Figures) -> list[str]:
    return sorted(path.name for path in house.folder.iterdir())


def test_save(house, figure, tmp_path):
    house.save(figure, "sharpness", DATA)
    assert house.folder == tmp_path / "quick" / "01_demo"
    assert files(house) == ["sharpness.csv", "sharpness.png"]  # and nothing partial
    png = (house.folder / "sharpness.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n") and len(png) > 1000
    assert b"Software" not in png  # another version of matplotlib, the same bytes
    saved = pd.read_csv(house.folder / "sharpness.csv")
    assert list(saved) == ["step", "S", "run"]
    assert saved.step.tolist() == [0, 1, 2] and saved.run.tolist() == ["a", "b", "c"]
    # five digits are written
    np.testing.assert_allclose(saved.S, DATA.S, rtol=5e-5)


@pytest.mark.parametrize("large_first", [True, False])
def test_large_numbers_are_compressed(house, figure, monkeypatch, large_first):
    for large in (large_first, not large_first):
        monkeypatch.setattr(figures, "LARGE", 10 if large else 1000)
        house.save(figure, "s", DATA)
        ending = ".csv.gz" if large else ".csv"
        assert files(house) == [f"s{ending}", "s.png"]  # the older one is gone
        raw = (house.folder / f"s{ending}").read_bytes()
        text = (gzip.decompress(raw) if large else raw).decode()
        assert text.splitlines() == ["step,S,run", "0,1,a", "1,0.33333,b", "2,,c"]


def test_the_limit_is_really_used(house, figure):
    data = pd.DataFrame({"x": np.arange(60_000) / 7})
    house.save(figure, "s", data)
    assert files(house) == ["s.csv.gz", "s.png"]
    assert len(pd.read_csv(house.folder / "s.csv.gz")) == 60_000


@pytest.mark.parametrize("data", [pd.DataFrame(), DATA[:0]])
def test_no_numbers(house, figure, data):
    with pytest.raises(ValueError, match="'s' comes without its numbers"):
        house.save(figure, "s", data)
    assert not house.folder.exists()


@pytest.mark.parametrize("limit", [10, 1000], ids=["compressed", "plain"])
def test_same_bytes_in_another_process(tmp_path, monkeypatch, limit):
    # "compressed" fails as long as gzip stores the name of the partial file, which holds
    # the number of the process.
    monkeypatch.setattr(figures, "LARGE", limit)
    contents = []
    for process in (11, 222):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        house = Figures("01_demo", "quick", tmp_path / str(process))
        fig, ax = panels(1, 2)
        ax[0].plot([0, 1, 2], [1, 4, 9])
        threshold(ax[0], 5, "2/η")
        house.save(fig, "s", DATA)
        plt.close(fig)
        contents.append({p.name: p.read_bytes() for p in house.folder.iterdir()})
    first, second = contents
    assert sorted(first) == sorted(second)
    assert [name for name in first if first[name] != second[name]] == []


def test_failed_drawing_keeps_the_old_figure(house, figure, monkeypatch):
    house.save(figure, "s", DATA)
    before = {name: (house.folder / name).read_bytes() for name in files(house)}

    def half(path, **_):
        path.write_bytes(b"\x89PNG")
        raise KeyboardInterrupt

    monkeypatch.setattr(figure, "savefig", half)
    with pytest.raises(KeyboardInterrupt):
        house.save(figure, "s", DATA * 2)
    assert {name: (house.folder / name).read_bytes() for name in before} == before


def moving(house, name="walk", places=(0, 1, 2), **options):
    fig, ax = plt.subplots(figsize=(2, 1.5))
    ax.set(xlim=(-1, 4), ylim=(-1, 1))
    (dot,) = ax.plot([], [], "o", color=figures.RED, ms=20)
    house.animate(fig, name, [dot], lambda t: dot.set_data([t], [0]), places, **options)
    return house.folder / f"{name}.gif"


def test_animation(house):
    path = moving(house, milliseconds=120)
    assert files(house) == ["walk.gif"]  # and nothing partial
    with Image.open(path) as gif:
        assert gif.n_frames == 3 and gif.size == (200, 150)
        assert gif.info["loop"] == 0 and gif.info["duration"] == 120
        centres = []
        for frame in range(3):
            gif.seek(frame)
            pixels = np.asarray(gif.convert("RGB"), float) / 255
            red = np.abs(pixels - to_rgb(figures.RED)).max(axis=2) < 0.02
            assert red.sum() > 100  # the dot is there, in its own colour
            centres.append(np.nonzero(red)[1].mean())
            assert (pixels < 0.2).all(axis=2).any()  # and so are the axes
    # the dot moves to the right by equal steps (to a pixel)
    assert np.diff(centres)[0] == pytest.approx(np.diff(centres)[1], abs=1)
    assert np.diff(centres)[0] > 10
    assert plt.get_fignums() == []


def test_same_frames_same_bytes(tmp_path, monkeypatch):
    contents = []
    for process in (11, 222):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        house = Figures("01_demo", "quick", tmp_path / str(process))
        contents.append(moving(house).read_bytes())
    assert contents[0] == contents[1]


def test_failed_animation_keeps_the_old_one(house):
    before = moving(house).read_bytes()
    with pytest.raises(TypeError):
        moving(house, places=(0, None, "end"))
    assert moving(house, "other").exists()
    assert (house.folder / "walk.gif").read_bytes() == before


@pytest.mark.parametrize(
    "options, message",
    [
        ({"places": ()}, "'walk' has no frames"),
        ({"milliseconds": 15}, "10 milliseconds"),
        ({"milliseconds": 0}, "10 milliseconds"),
        ({"colors": 300}, "2 to 256 colours"),
    ],
)
def test_what_a_gif_cannot_hold(house, options, message):
    with pytest.raises(ValueError, match=message):
        moving(house, **options)
    assert not house.folder.exists()
    plt.close("all")


def test_palette_is_distinct():
    names = ("BLACK", "ORANGE", "SKY", "GREEN", "YELLOW", "BLUE", "RED", "PINK")
    colours = np.array([to_rgb(getattr(figures, name)) for name in names])
    gaps = np.linalg.norm(colours[:, None] - colours[None], axis=2)
    assert gaps[~np.eye(8, dtype=bool)].min() > 0.2  # clearly, not by a rounding


def test_step_sizes_from_dark_to_light():
    colours = by_step_size([0.4, 0.1, 0.2])
    assert list(colours) == [0.1, 0.2, 0.4]
    light = [np.dot(to_rgb(c), (0.2126, 0.7152, 0.0722)) for c in colours.values()]
    assert light == sorted(light) and len(set(light)) == 3


def test_threshold(figure):
    ax = figure.axes[0]
    threshold(ax, 5.0, "2/eta", color=figures.RED)
    line, text = ax.lines[-1], ax.texts[-1]
    assert list(line.get_ydata()) == [5, 5]
    assert line.get_linestyle() == "--" and line.get_color() == figures.RED
    assert text.get_text() == "2/eta" and text.xy[1] == 5


def test_threshold_without_text(figure):
    ax = figure.axes[0]
    threshold(ax, 5.0)
    assert len(ax.lines) == 2 and len(ax.texts) == 0


def test_style():
    fig, axes = panels(2, 3, height=2.0)
    assert axes.shape == (2, 3)
    assert fig.get_size_inches().tolist() == [figures.WIDE, 4]
    assert fig.get_constrained_layout()
    spines = axes[0, 0].spines
    assert not spines["top"].get_visible() and not spines["right"].get_visible()
    assert spines["left"].get_visible() and spines["bottom"].get_visible()
    plt.close(fig)


def test_a_band_holds_median_and_range_of_the_runs_at_each_place():
    _, ax = plt.subplots()
    values = pd.Series([1.0, 5.0, 3.0, 7.0], index=[0, 0, 0, 1])
    spread = figures.band(ax, values, "black", "runs")
    assert spread.loc[0].tolist() == [3, 1, 5] and spread.loc[1].tolist() == [7, 7, 7]
    assert ax.lines[0].get_ydata().tolist() == [3, 7]


def test_a_surface_has_the_window_as_its_limits_and_no_holes():
    fig, ax = panels(1, 1)
    surface(ax, lambda x, y: (x * y) ** 2, (-1, 2, -3, 4), (-4, 1))
    assert ax.get_xlim() == (-1, 2) and ax.get_ylim() == (-3, 4)
    fill, lines = ax.collections
    assert list(fill.levels) == list(lines.levels) == list(np.linspace(-4, 1, 11))
    # zeros and values beyond the last shade are drawn in the first and the last one
    assert all(path.vertices.size for path in (fill.get_paths()[0], fill.get_paths()[-1]))
    plt.close(fig)

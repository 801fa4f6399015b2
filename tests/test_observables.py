"""Numbers read off tables that were made by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from common.observables import (
    averaged,
    collapse,
    crossing,
    fall,
    hover,
    late,
    late_distance,
    measured,
    past,
    prediction_error,
    rise_share,
    rises,
    rises_before,
    sharpening,
    side_by_side,
)

NAN = math.nan


def table(sharpness, mss=10.0, **columns) -> pd.DataFrame:
    """One row per step; the sharpness is NaN where it was not measured."""
    steps = np.arange(len(sharpness))
    return pd.DataFrame({"step": steps, "sharpness": sharpness, "mss": mss, **columns})


def test_measured():
    rows = measured(table([1.0, NAN, 3.0], other=[NAN, 5.0, NAN]))
    assert rows.step.tolist() == [0, 2]
    assert measured(table([1.0, NAN], other=[NAN, 5.0]), "other").step.tolist() == [1]


@pytest.mark.parametrize(
    "sharpness, step",
    [
        ([9, 9.5, 11, 12], 2),
        ([9, NAN, NAN, 12, 9, 12], 3),
        ([11, 9, 11], 0),
        ([9, 10, 10.5], 2),  # the threshold itself is not above it
    ],
)
def test_crossing(sharpness, step):
    assert crossing(table(sharpness)) == step


@pytest.mark.parametrize("sharpness", [[9, 9.5], [NAN, NAN], [9, NAN], [10, 10]])
def test_no_crossing(sharpness):
    assert math.isnan(crossing(table(sharpness)))


def test_crossing_of_a_moving_threshold():
    assert crossing(table([9, 9, 9], mss=[10, 10, 8])) == 2


def test_crossing_counts_steps_not_rows():
    late = table([9, 11]).assign(step=[100, 105])
    assert crossing(late) == 105


def test_crossing_of_another_column():
    rows = table([9, 9, 9], sharpness_midpoint=[9, 11, 9])
    assert math.isnan(crossing(rows))
    assert crossing(rows, "sharpness_midpoint") == 1


def test_hover():
    rows = table([9, 11, 50, NAN, 10, 12, 11])
    assert hover(rows, after=0) == pytest.approx(1.1)  # of 11, 50, 10, 12, 11
    assert hover(rows, after=3) == pytest.approx(1.1)  # of 10, 12, 11
    assert hover(rows, after=5) == pytest.approx(1.1)  # of 11
    assert hover(rows, after=4) == pytest.approx(1.15)  # of 12, 11


def test_hover_skips_the_burst():
    burst = [11, *[40] * 49]
    assert math.isnan(hover(table(burst)))
    assert hover(table([*burst, 20])) == 2  # step 50 is the first that counts


def test_hover_from_a_given_start():
    rows = table([9, 8, 7, 6, 5])
    assert hover(rows, start=3, after=0) == pytest.approx(0.55)
    assert hover(rows, start=0, after=0) == pytest.approx(0.7)


def test_hover_divides_row_by_row():
    rows = table([11, 10, 20], mss=[10, 10, 20])
    assert hover(rows, after=1) == 1


@pytest.mark.parametrize("sharpness, after", [([9, 9], 0), ([11, 9], 5), ([NAN, NAN], 0)])
def test_hover_without_rows(sharpness, after):
    assert math.isnan(hover(table(sharpness), after=after))


@pytest.mark.parametrize(
    "loss, limits, expected",
    [
        ([3, 2, 1], {}, (0, 2)),
        ([3, 2, 2.5, 2.6], {}, (2, 3)),
        ([1, 1, 1], {}, (0, 2)),  # standing still is no rise
        ([3, 4, 3, 4, 3], {"start": 1}, (1, 3)),
        ([3, 4, 3, 4, 3], {"end": 2}, (1, 2)),
        ([3, 4, 3, 4, 3], {"start": 1, "end": 3}, (1, 2)),
        ([3, 4, 3], {"start": 7}, (0, 0)),
        ([3, NAN], {}, (0, 1)),
        ([3], {}, (0, 0)),
    ],
)
def test_rises(loss, limits, expected):
    rows = pd.DataFrame({"step": range(len(loss)), "loss": loss})
    assert rises(rows, **limits) == expected


@pytest.mark.parametrize(
    "sharpness, intervals, ratio, share",
    [
        ([1, 2, 3, 4, 5], 4, 5, 1),
        ([1, 2, 3, 4, 5], 2, 5, 1),
        ([4, 3, 2], 2, 0.5, 0),
        ([1, 3, 2, 4, 5], 4, 5, 0.75),
        ([1, 9, 2, 9, 3], 2, 3, 1),  # coarse: what happens inside does not count
        ([2, NAN, NAN, 6, NAN], 1, 3, 1),
    ],
)
def test_sharpening(sharpness, intervals, ratio, share):
    assert sharpening(table(sharpness), intervals) == (ratio, share)


def curve(eta: float, count: int, scale: float = 1.0) -> pd.DataFrame:
    """Sharpness 1 + time, measured every second step."""
    time = eta * np.arange(count)
    sharpness = np.where(np.arange(count) % 2, NAN, scale * (1 + time))
    return table(sharpness, time=time)


def test_collapse_over_time():
    """Linear curves, so that the interpolation is exact up to rounding."""
    assert collapse(curve(0.1, 20), curve(0.05, 41), "time", 100) < 1e-12
    value = collapse(curve(0.1, 20, scale=1.2), curve(0.05, 41), "time", 100)
    assert value == pytest.approx(0.2)
    assert collapse(curve(0.1, 20, 0.9), curve(0.05, 41), "time", 100) == pytest.approx(0.1)


def test_collapse_over_steps():
    value = collapse(curve(0.1, 11), curve(0.05, 11), "step", 100)
    assert value == pytest.approx(2 / 1.5 - 1)  # at the last step


def test_collapse_until():
    rows = curve(0.1, 21)
    rows.loc[10:, "sharpness"] *= 3
    assert collapse(rows, curve(0.05, 41), "time", 10) < 1e-12
    assert collapse(rows, curve(0.05, 41), "time", 11) == pytest.approx(2)


def test_collapse_ends_with_the_reference():
    rows = curve(0.1, 21)
    rows.loc[20, "sharpness"] = 99.0  # at time 2, where the reference has ended
    assert collapse(rows, curve(0.05, 31), "time", 100) < 1e-12


def test_collapse_without_common_rows():
    late = curve(0.1, 10).assign(time=lambda t: t.time + 50)
    assert math.isnan(collapse(late, curve(0.1, 10), "time", 100))


# ------------------------------------------------------------ after the crossing

EDGE = pd.DataFrame(
    {
        "step": [0, 1, 2, 3, 4],
        "loss": [4.0, 5.0, 2.0, 3.0, 1.0],
        "sharpness": [1.0, 2.0, 11.0, 12.0, 9.0],
        "mss": 10.0,
    }
)
NEVER = EDGE.assign(mss=20.0)


def test_losses_around_the_crossing():
    assert rises_before(EDGE) == 1  # 4 -> 5
    assert rise_share(EDGE) == 0.5  # 2 -> 3 of two steps
    assert fall(EDGE) == 0.5  # 1 / 2
    other = EDGE.rename(columns={"sharpness": "S"})
    assert (rises_before(other, "S"), rise_share(other, "S"), fall(other, "S")) == (
        1,
        0.5,
        0.5,
    )


def test_losses_without_a_crossing():
    assert np.isnan(rise_share(NEVER))
    assert np.isnan(fall(NEVER))
    assert rises_before(NEVER) == 2  # every step is before the edge


def test_side_by_side_keeps_the_measured_steps():
    rows = {"step": [0, 0, 1, 1], "name": ["a", "b"] * 2, "S": [1.0, 2.0, np.nan, np.nan]}
    wide = side_by_side(pd.DataFrame(rows), "S")
    assert wide.index.tolist() == [0]
    assert (wide.a[0], wide.b[0]) == (1, 2)


def test_averaged():
    mean = averaged(pd.Series([0.0, 3.0, 6.0, 0.0]), window=3)
    assert mean[1:3].tolist() == [3, 3]
    assert mean.isna().tolist() == [True, False, False, True]


def test_late_is_the_median_over_the_second_half():
    table = pd.DataFrame({"step": range(5), "mss": 2.0})
    table["preconditioned_sharpness"] = [9.0, 9.0, 2.0, np.nan, 4.0]
    assert late(table) == 1.5
    seen = past(table, start=1)
    assert seen.step.tolist() == [1, 2, 4] and seen.ratio.tolist() == [4.5, 1, 2]


def test_flows_against_a_reference():
    steps = np.arange(101)
    real = pd.DataFrame({"step": steps, "name": "real", "loss": 2.0})
    real["loss"] += (-1.0) ** steps  # oscillates about 2: its mean is nearly that
    flow = pd.DataFrame({"step": steps, "name": "flow", "loss": 1.0})
    flow["predicted_loss"], flow["distance_to_real"] = 2.2, steps / 100
    real["predicted_loss"], real["distance_to_real"] = real.loss, 0.0
    table = pd.concat([real, flow])
    assert late_distance(table, "flow") == pytest.approx(0.95)  # steps 90 to 100
    # 51 steps: one more up than down, or the other way round: 1/51 of 1 about 2
    assert prediction_error(table, "flow") == pytest.approx(0.1, abs=0.011)
    assert prediction_error(table, "flow", "loss") == pytest.approx(0.5, abs=0.006)

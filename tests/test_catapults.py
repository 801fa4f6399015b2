"""common.catapults: every number on curves made by hand."""

import numpy as np
import pandas as pd
import pytest

from common.catapults import (
    drift,
    final_ratio,
    first_return,
    spikes,
    steepest_fall,
    up_crossings,
)


def curve(**columns) -> pd.DataFrame:
    length = max(np.size(c) for c in columns.values())
    return pd.DataFrame({"step": range(length)} | columns)


def loss_with(*tops: tuple[int, float], length: int = 600) -> pd.DataFrame:
    """1e-6 but for spikes of 40 steps, one decade every four, up to these heights."""
    t = np.arange(length)
    logs = [np.log10(height) - np.abs(t - at) / 4 for at, height in tops]
    return curve(loss=10 ** np.maximum.reduce([np.full(length, -6.0), *logs]))


def test_spikes_are_found_where_they_are_highest():
    assert spikes(loss_with((200, 1.0), (400, 1e-2))).tolist() == [200, 400]


def test_the_fall_from_the_initial_loss_is_no_spike():
    assert len(spikes(loss_with((0, 1e3)))) == 0


def test_prominence_and_floor_decide_what_counts():
    run = loss_with((200, 1.0), (400, 1e-4))
    assert [len(spikes(run, decades=d)) for d in (1, 3, 7)] == [2, 1, 0]
    assert len(spikes(run, floor=1e-3)) == 1  # the second one stays below the floor


def test_ringing_is_one_spike():
    run = loss_with((200, 1.0))
    ringing = run.assign(loss=run.loss * np.where(run.step % 10 < 5, 1, 1e-3))
    assert len(spikes(ringing)) == 1
    assert len(spikes(ringing, window=1)) > 1


def test_an_overflow_is_no_spike_and_no_error():
    run = loss_with((200, 1.0))
    run.loc[300:, "loss"] = np.inf
    assert spikes(run).tolist() == [200]


def test_drift_stops_at_the_crossing():
    run = curve(sharpness=[10, 9, 11.5, 40, 1], mss=20)
    assert drift(run) == pytest.approx(0.15)
    assert drift(run.assign(mss=50)) == pytest.approx(3)  # never crosses: the whole run
    assert np.isnan(drift(run.assign(mss=5)))  # above it from the start


def test_a_crossing_counts_again_only_after_a_calm():
    above = np.zeros(100)
    above[[20, 22, 25, 80]] = 1
    run = curve(sharpness=above, mss=0.5)
    assert [up_crossings(run, calm) for calm in (0, 2, 10, 60)] == [4, 3, 2, 1]
    assert up_crossings(run.assign(mss=2)) == 0


def test_a_run_that_starts_above_has_not_crossed_upwards():
    assert up_crossings(curve(sharpness=[3, 1, 3, 1], mss=2), calm=5) == 0


def test_first_return():
    run = curve(sharpness=[1, 1, 3, np.nan, 3, 1, 3], mss=2)
    assert first_return(run) == 5
    assert np.isnan(first_return(run.assign(mss=9)))


def test_steepest_fall_interpolates_between_measurements():
    run = curve(sharpness=[8, np.nan, 8, np.nan, 2, 2, 2], mss=9)
    assert steepest_fall(run, within=2) == 0.25
    assert steepest_fall(run, within=1) == 5 / 8  # to 5, halfway between 8 and 2
    rising = curve(sharpness=np.arange(1.0, 9), mss=9)
    assert steepest_fall(rising, within=1) == 8 / 7


def test_a_fall_within_more_steps_than_there_are_is_refused():
    with pytest.raises(ValueError, match="no fall within 200"):
        steepest_fall(curve(sharpness=[1, 1, 1], mss=2))


def test_final_ratio_is_the_median_of_the_end():
    run = curve(sharpness=[1.0] * 50 + [2, 4, 2], mss=4)
    assert final_ratio(run, last=2) == 0.5
    assert final_ratio(run, last=50) == 0.25
    other = run.assign(preconditioned_sharpness=8.0)
    assert final_ratio(other, column="preconditioned_sharpness") == 2

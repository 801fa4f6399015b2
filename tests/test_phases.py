"""The four phases: found in order on a made-up cycle, and missed one by one."""

import numpy as np
import pandas as pd
import pytest

from common.phases import PHASES, phases

S = [8, 7, 8, 9, 11, 13, 12, 9, 6, 5, 6, 8, 11, 15, 9, 1]
LOSS = [2, 1, 1, 1, 1, 4, 50, 20, 2, 1, 1, 1, 1, 9, 99, 1]
SPANS = [(10, 40), (40, 50), (50, 70), (70, 90)]


def table(**changes) -> pd.DataFrame:
    rows = {"step": np.arange(16) * 10, "sharpness": S, "loss": LOSS, "mss": 10}
    return pd.DataFrame(rows | changes)


def test_a_cycle():
    found = phases(table())
    assert tuple(found) == PHASES and [*found.values()] == SPANS


def test_only_the_first_catapult_counts():
    # the second one, from step 120 on, goes deeper
    assert phases(table())["return to stability"] == (70, 90)
    assert [*phases(table()[:12]).values()] == SPANS


def test_rows_without_a_sharpness_are_skipped():
    rows = table()
    gaps = pd.DataFrame({"step": rows.step + 5, "loss": 1e9, "mss": 1.0})
    mixed = pd.concat([rows, gaps]).sort_values("step", ignore_index=True)
    assert phases(mixed) == phases(table())


@pytest.mark.parametrize(
    "changes, count",
    [
        ({"mss": 20}, 0),  # no crossing
        ({"sharpness": [11, *S[1:]]}, 0),  # above from the start: nothing has risen
        ({"loss": 1}, 1),  # S crosses, the loss does not rise
        ({"loss": [*LOSS[:6], 3, 3, *LOSS[8:]]}, 1),  # it rises fourfold only
        ({"sharpness": [*S[:6], *[12] * 10]}, 2),  # S stays above
        ({"loss": [*LOSS[:8], *[20] * 8]}, 3),  # the loss does not decay
    ],
)
def test_up_to_the_first_missing_phase(changes, count):
    found = phases(table(**changes))
    assert [*found.values()] == SPANS[:count] and [*found] == [*PHASES[:count]]


def test_the_factor():
    assert len(phases(table(), factor=49)) == 4
    assert len(phases(table(), factor=51)) == 1

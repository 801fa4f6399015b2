"""The four phases of a catapult (paper 000, after the self-stabilization of paper 002).

They are the quarters of a cycle: the sharpness S rises below the maximum stable sharpness
(MSS), rises above it, falls above it and falls below it.
"""

import numpy as np
import pandas as pd

from common.catapults import first_return
from common.observables import crossing, measured

PHASES = (
    "progressive sharpening",
    "blow-up",
    "self-stabilisation",
    "return to stability",
)


def phases(table: pd.DataFrame, factor: float = 5.0) -> dict[str, tuple[int, int]]:
    """The phases of the first catapult, up to the first one that is missing.

    1. Progressive sharpening: S rises, from its lowest value before the crossing to the
       crossing S > MSS.
    2. Blow-up: from there to where S is highest. The loss rises, and keeps rising while S
       is above the MSS, to at least `factor` times the loss at the crossing.
    3. Self-stabilisation: S falls, until it is back below the MSS.
    4. Return to stability: S < MSS falls on, to where it is lowest before it crosses the
       MSS again. The loss decays to at most 1 / `factor` of its peak.

    Args:
        table: One run, with the columns `step`, `loss`, `sharpness` and `mss`.
        factor: By how much the loss has to rise and to decay.

    Returns:
        Name of the phase -> its first and last step, in order; empty without a crossing,
        or if S is above the MSS from the start.

    Example:
        >>> run = {"sharpness": [7, 8, 9, 11, 13, 12, 9, 6, 6.5], "mss": 10}
        >>> run |= {"step": range(9), "loss": [3, 2, 1, 1, 3, 9, 20, 1, 1]}
        >>> [*phases(pd.DataFrame(run)).values()]
        [(0, 3), (3, 4), (4, 6), (6, 7)]
    """
    rows = measured(table).set_index("step")
    up = crossing(table)
    if np.isnan(up) or up == rows.index[0]:
        return {}
    spans = [(rows.sharpness[rows.index < up].idxmin(), up)]
    back = first_return(table)
    above = rows.loc[up:back] if back > up else rows.loc[up:]
    peak, turn = above.loss.max(), above.sharpness.idxmax()
    if peak >= factor * rows.loss[up]:
        spans.append((up, turn))
        if back > up:
            spans.append((turn, back))
            below = rows.loc[back:]
            below = below[
                ~(below.sharpness > below.mss).cummax()
            ]  # until it is above again
            low = below.sharpness.idxmin()
            if below.loss[low] <= peak / factor:
                spans.append((back, low))
    return {name: (int(a), int(b)) for name, (a, b) in zip(PHASES, spans, strict=False)}

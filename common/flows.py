"""Gradient flow, and the Runge-Kutta steps that advance every flow.

A flow is an optimizer (see `common.optimizers`): one step advances it by the time eta that
one step of gradient descent stands for, so that step t of either can be laid beside step t
of the other. The central flow is in `common.central`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from numpy.polynomial import Chebyshev
from torch import Tensor

from common.curvature import Curvature
from common.objective import Point
from common.optimizers import check_eta

REACH = 20.0  # largest Runge-Kutta step * sharpness
CLASSICAL = 2.7  # RK4 is stable up to a step * sharpness of 2.785
MARGIN = 1.2  # the sharpness may have grown by this since it was measured
COARSE = 1e-4  # error of the eigenvalue that only sets the number of stages
PATIENCE = 5  # steps between measurements of the sharpness

Slope = Callable[[Tensor], Tensor]


class FlowState(NamedTuple):
    """State of gradient flow.

    Args:
        tracker: Follows the sharpness.
        age: Steps since the last measurement.
    """

    tracker: Curvature
    age: int = PATIENCE


@dataclass(frozen=True)
class GradientFlow:
    """Gradient flow dw/dt = -grad L(w), by Runge-Kutta steps.

    Args:
        eta: Time per step of the training loop.
        reach: Largest Runge-Kutta step * sharpness. Up to about 2.2 the steps are
            classical (fourth order: for distances to a reference), beyond they are
            stabilised (second order: cheap where the flow is stiff). Small where the
            gradient has kinks.

    Raises:
        ValueError: If eta <= 0 or reach <= 0.
    """

    eta: float
    reach: float = REACH

    def __post_init__(self):
        check_eta(self.eta)
        if not self.reach > 0:
            raise ValueError(f"reach must be positive, not {self.reach}")

    def init(self, w: Tensor) -> FlowState:
        """The state before the first step."""
        return FlowState(Curvature(k=1, tolerance=COARSE))

    def step(self, point: Point, state: FlowState) -> tuple[Tensor, FlowState]:
        """Advance by the time eta."""
        if state.age >= PATIENCE:
            state.tracker(point)
            state = state._replace(age=0)
        sharpness = abs(float(state.tracker.last.values[0]))

        def slope(w: Tensor) -> Tensor:
            return point.objective.at(w).gradient

        first = point.gradient
        w = advance(slope, point.w, self.eta, sharpness, first, self.reach)
        return w, state._replace(age=state.age + 1)

    def max_stable_sharpness(self, step: int) -> float:
        """Infinite: a flow has no edge."""
        return float("inf")


def advance(
    slope: Slope,
    y: Tensor,
    time: float,
    sharpness: float,
    first: Tensor,
    reach: float = REACH,
) -> Tensor:
    """Integrate dy/dt = -slope(y) over a time, by RK4 or, if stiff, by `chebyshev`.

    Args:
        slope: Minus the right-hand side.
        y: Where to start.
        time: How long.
        sharpness: Largest eigenvalue of the slope's Jacobian; inf: not known, not stiff.
        first: slope(y).
        reach: Largest Runge-Kutta step * sharpness.

    Returns:
        y at the end.
    """
    stiffness = time * sharpness if np.isfinite(sharpness) else 0.0
    count = max(1, int(np.ceil(stiffness / reach)))
    h, z = time / count, MARGIN * stiffness / count
    scheme = _classical if z <= CLASSICAL else partial(_stabilised, z=z)
    for index in range(count):
        y = scheme(slope, y, h, first if index == 0 else slope(y))
    return y


def _classical(slope: Slope, w: Tensor, h: float, first: Tensor) -> Tensor:
    """One step of the classical fourth-order Runge-Kutta scheme."""
    second = slope(w - h / 2 * first)
    third = slope(w - h / 2 * second)
    fourth = slope(w - h * third)
    return w - h / 6 * (first + 2 * second + 2 * third + fourth)


def _stabilised(slope: Slope, w: Tensor, h: float, first: Tensor, z: float) -> Tensor:
    """One step of the Runge-Kutta-Chebyshev scheme that is stable up to z."""
    scheme = chebyshev(int(np.ceil((z / 0.65 + 1) ** 0.5)))
    start = older = w
    w = w - scheme[0][2] * h * first
    for mu, nu, step, correction in scheme[1:]:
        newer = (1 - mu - nu) * start + mu * w + nu * older
        older, w = w, newer - h * (step * slope(w) + correction * first)
    return w


@lru_cache
def chebyshev(s: int) -> list[tuple[float, float, float, float]]:
    """Coefficients of the second-order Runge-Kutta-Chebyshev scheme of s stages.

    It is stable up to step * sharpness = 0.65 (s^2 - 1), where classical schemes reach
    about s / 1.4, and damps the stiff directions (Sommeijer, Shampine, Verwer, J. Comput.
    Appl. Math. 88, 1998, with their damping 2/13).

    Args:
        s: Number of stages, at least 2.

    Returns:
        For each stage (mu, nu, weight of the slope here, weight of the first slope).

    Example:
        >>> [round(float(c), 3) for c in chebyshev(2)[1]]
        [2.077, -1.0, 2.077, -1.577]
    """
    x = 1 + 2 / 13 / s**2
    T = [Chebyshev.basis(j) for j in range(s + 1)]
    value = np.array([p(x) for p in T])
    first = np.array([p.deriv()(x) for p in T])
    second = np.array([p.deriv(2)(x) for p in T])
    b = np.append([0.0, 0.0], second[2:] / first[2:] ** 2)
    b[:2] = b[2]
    a, scale = 1 - b * value, first[s] / second[s]
    rows = [(0.0, 0.0, b[1] * scale, 0.0)]
    for j in range(2, s + 1):
        step = 2 * scale * b[j] / b[j - 1]
        rows.append((2 * x * b[j] / b[j - 1], -b[j] / b[j - 2], step, -a[j - 1] * step))
    return rows

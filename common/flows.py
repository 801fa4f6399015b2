"""Continuous-time companions of gradient descent: gradient flow and the central flow.

Both are optimizers (see `common.optimizers`): one step advances the flow by the time eta
that one step of gradient descent stands for, so that step t of either can be laid beside
step t of the other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.polynomial import Chebyshev
from scipy.optimize import minimize
from torch import Tensor

from common.curvature import Curvature
from common.objective import Point
from common.optimizers import check_eta

REACH = 20.0  # largest Runge-Kutta step * sharpness
CLASSICAL = 2.7  # RK4 is stable up to a step * sharpness of 2.785
MARGIN = 1.2  # the sharpness may have grown by this since it was measured
COARSE = 1e-4  # error of the eigenvalue that only sets the number of stages
FAR = 0.75  # below this share of the threshold the eigenvalues are measured less often
PATIENCE = 5  # steps between measurements there

Slope = Callable[[Tensor], Tensor]


class FlowState(NamedTuple):
    """State of a flow.

    Args:
        tracker: Follows the top eigenpairs.
        age: Steps since the last measurement.
        covariance: X, oscillation along the critical directions [k, k] (central flow).
        force: 1/2 grad <Sigma, H> [P] (central flow).
        settled: Whether X changed little at the last update (central flow).
        excess: tr(H Sigma) / 2, the loss that the oscillation adds on average.
    """

    tracker: Curvature
    age: int = PATIENCE
    covariance: np.ndarray = np.zeros((0, 0))
    force: Tensor | float = 0.0
    settled: bool = True
    excess: float = 0.0


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
        w = _advance(point, self.eta, sharpness, reach=self.reach)
        return w, state._replace(age=state.age + 1)

    def max_stable_sharpness(self, step: int) -> float:
        """Infinite: a flow has no edge."""
        return float("inf")


@dataclass(frozen=True)
class CentralFlow:
    """The central flow of gradient descent ("EOS flow", paper 002).

    At the edge GD oscillates along the critical eigenvectors U (those with eigenvalue
    2/eta) with covariance Sigma = U X U^T. Averaged over the oscillation,

        dw/dt = -grad [ L(w) + 1/2 <Sigma, H(w)> ]   (Sigma held fixed),

    and X >= 0 is what just keeps the eigenvalues from exceeding 2/eta. With the curvature
    gradients D_ij = grad (u_i^T H u_j) and the slack 2/eta - U^T H U this is a semidefinite
    complementarity problem in k x k matrices, whatever the number of parameters:

        0 <= X,   Z = slack / dt + <D, grad L> + 1/2 <D, D>[X] >= 0,   <X, Z> = 0.

    The time-averaged loss of GD is predicted as L(w) + 1/2 tr(U^T H U X) ~ L + tr(X)/eta.
    The cost grows with the number of critical directions only: k tracked eigenpairs and
    k (k + 1) / 2 third derivatives.

    Args:
        eta: Step size of the gradient descent that is followed; time per step.
        critical: Eigenvalues above this share of 2/eta take part.
        stride: Steps between updates of U and X while X changes little (else one step);
            dt = stride * eta. w itself advances by Runge-Kutta at every step.

    Raises:
        ValueError: If eta <= 0 or stride < 1.
    """

    eta: float
    critical: float = 0.9
    stride: int = 3

    def __post_init__(self):
        check_eta(self.eta)
        if self.stride < 1:
            raise ValueError(f"stride must be at least 1, not {self.stride}")

    def init(self, w: Tensor) -> FlowState:
        """The state before the first step."""
        return FlowState(Curvature(k=1))

    def step(self, point: Point, state: FlowState) -> tuple[Tensor, FlowState]:
        """Advance by the time eta."""
        near = _top(state.tracker) > FAR * 2 / self.eta
        patience = (self.stride if state.settled else 1) if near else PATIENCE
        if state.age >= patience:
            state = self._update(point, state)
        w = _advance(point, self.eta, _top(state.tracker), state.force)
        return w, state._replace(age=state.age + 1)

    def _update(self, point: Point, state: FlowState) -> FlowState:
        """Measure the eigenvalues and solve for the oscillation that holds them."""
        edge, dt = 2 / self.eta, self.eta * self.stride
        _measure(state.tracker, point, self.critical * edge)
        pairs = state.tracker.last
        k = int((pairs.values > self.critical * edge).sum())
        if k == 0:
            return FlowState(state.tracker, age=0)  # nothing to hold yet
        fields = point.curvature_gradients(pairs.vectors[:, :k]).reshape(-1, k * k)
        drift = (fields.T @ point.gradient).double().cpu().numpy().reshape(k, k)
        gram = (fields.T @ fields).double().cpu().numpy()
        values = pairs.values[:k].cpu().numpy()
        X = complementarity(np.diag(edge - values) / dt + drift, gram / 2)
        force = fields @ torch.from_numpy(X.reshape(-1)).to(fields) / 2
        excess = float(values @ np.diag(X)) / 2
        old = state.covariance
        change = np.linalg.norm(X - old) if old.shape == X.shape else np.inf
        settled = bool(change < np.linalg.norm(X) / 4)
        return FlowState(state.tracker, 0, X, force, settled, excess)

    def max_stable_sharpness(self, step: int) -> float:
        """2 / eta: where the flow is held."""
        return 2 / self.eta


def complementarity(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Solve 0 <= X, A + B[X] >= 0, <X, A + B[X]> = 0 for a symmetric matrix X.

    It is the optimality condition of min over X >= 0 of <A, X> + 1/2 <X, B[X]>, which is
    convex; it is solved over a factor Y, X = Y Y^T, by L-BFGS (full-rank Y: every local
    minimum is global).

    Args:
        A: Symmetric [k, k].
        B: Positive semidefinite on symmetric matrices, as a matrix [k k, k k].

    Returns:
        X [k, k], positive semidefinite.

    Example:
        >>> complementarity(np.array([[-3.0]]), np.array([[2.0]]))
        array([[1.5]])
        >>> complementarity(np.array([[3.0]]), np.array([[2.0]]))
        array([[0.]])
    """
    k = len(A)
    if np.linalg.eigvalsh(A)[0] >= 0:
        return np.zeros((k, k))  # nothing has to be held
    if k == 1:
        return -A / np.maximum(B, np.finfo(float).tiny)
    scale, size = np.abs(A).max(), np.diag(B).max()
    a, b = A / scale, B / size

    def slope(X: np.ndarray) -> np.ndarray:
        bx = (b @ X.reshape(-1)).reshape(k, k)
        return a + (bx + bx.T) / 2

    def value(y: np.ndarray) -> tuple[float, np.ndarray]:
        Y = y.reshape(k, k)
        X = Y @ Y.T
        Z = slope(X)
        return (X * (a + Z)).sum() / 2, (2 * Z @ Y).reshape(-1)

    options = {"maxiter": 1000, "ftol": 1e-15, "gtol": 1e-8, "maxcor": 20}
    Y = np.eye(k)
    for _ in range(2 * k):
        Y = minimize(value, Y.reshape(-1), jac=True, method="L-BFGS-B", options=options).x
        Y = Y.reshape(k, k)
        low, directions = np.linalg.eigh(slope(Y @ Y.T))
        if low[0] > -1e-6:
            break
        u = directions[:, 0]  # a saddle: Y has lost u; the best X + t u u^T gives it back
        uu = np.outer(u, u).reshape(-1)
        t = -low[0] / max(uu @ b @ uu, 1e-9)
        Y = Y + t**0.5 * np.outer(u, np.linalg.svd(Y)[2][-1])
    return scale / size * (Y @ Y.T)


def _measure(tracker: Curvature, point: Point, critical: float) -> None:
    """Eigenpairs above the critical value: as many as the runner-up asks for."""
    if tracker.last is not None:
        tracker.k = max(1, int((tracker.last.values > critical).sum()))
    while tracker(point).runner_up > critical and tracker.k < len(point.w):
        tracker.k += 1


def _top(tracker: Curvature) -> float:
    return abs(float(tracker.last.values[0])) if tracker.last is not None else np.inf


def _advance(
    point: Point,
    time: float,
    sharpness: float,
    force: Tensor | float = 0.0,
    reach: float = REACH,
) -> Tensor:
    """dw/dt = -(grad L(w) + force) over a time, by RK4 or, if stiff, by `chebyshev`."""
    stiffness = time * sharpness if np.isfinite(sharpness) else 0.0
    count = max(1, int(np.ceil(stiffness / reach)))
    h, z = time / count, MARGIN * stiffness / count
    scheme = _classical if z <= CLASSICAL else partial(_stabilised, z=z)
    objective, w, first = point.objective, point.w, point.gradient + force

    def slope(w: Tensor) -> Tensor:
        return objective.at(w).gradient + force

    for index in range(count):
        w = scheme(slope, w, h, first if index == 0 else slope(w))
    return w


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

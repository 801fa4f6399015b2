"""The central flow: one flow for gradient descent, RMSProp and Adam.

It is an optimizer (see `common.optimizers`): one step advances it by the time eta of one
step of the rule that it follows, so that step t of both can be laid side by side.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from common.adaptive import Adam
from common.curvature import Curvature
from common.flows import CLASSICAL, COARSE, MARGIN, PATIENCE, REACH, advance
from common.objective import Point
from common.optimizers import GradientDescent

FAR = 0.75  # below this share of the threshold the eigenvalues are measured less often
TERMS = ("sharpness", "moment")


class CentralState(NamedTuple):
    """State of a central flow.

    Args:
        tracker: Follows the top eigenpairs of P^-1 H.
        rule: State of the rule; its moments are the flow's, nu(t) and m(t).
        P: Preconditioner that the step set off with [P] (1 without; None: no step yet).
        age: Steps since the last measurement.
        covariance: X, oscillation along the critical directions [k, k].
        force: 1/2 grad <Sigma, H> [P].
        source: What the oscillation adds to dnu/dt, diag(H Sigma H) [P].
        settled: Whether the excess changed little at the last update.
        excess: tr(H Sigma) / 2, the loss that the oscillation adds on average.
        excess_square: tr(H Sigma H), what it adds to the squared norm of the gradient.
        phi: Share of the sharpness term in holding the eigenvalues (nan if X = 0).
    """

    tracker: Curvature
    rule: Any
    P: Tensor | float | None = None
    age: int = PATIENCE
    covariance: np.ndarray = np.zeros((0, 0))
    force: Tensor | float = 0.0
    source: Tensor | float = 0.0
    settled: bool = True
    excess: float = 0.0
    excess_square: float = 0.0
    phi: float = np.nan


@dataclass(frozen=True)
class CentralFlow:
    """The central flow of gradient descent and of adaptive rules ("EOS flow", paper 002).

    Every rule is w_{t+1} = w_t - eta P^-1 g_t with a preconditioner P: 1 for gradient
    descent, sqrt(nu) + eps for RMSProp. At the edge it oscillates along the critical
    directions U of P^-1 H, those with H U = S* P U, U^T P U = 1, at the threshold S*
    (2/eta), with covariance Sigma = U X U^T. Averaged over the oscillation, with Sigma held
    fixed and r2 = (1 - beta2) / (beta2 eta),

        dw/dt  = -P^-1 grad [ L(w) + 1/2 <Sigma, H(w)> ],
        dnu/dt = r2 [ (grad L)^2 + diag(H Sigma H) - nu ],    H Sigma H = S*^2 P Sigma P,

    and X >= 0 is what just keeps the eigenvalues from exceeding S*: through the sharpness
    (first line) and by moving the preconditioner (second). With the curvature gradients
    D_ij = grad (u_i^T H u_j), the products V_ij = u_i u_j (elementwise) and the diagonal
    Q = r2 S* dP/dnu, both are linear in X:

        Z = (S* - U^T H U) / dt - d/dt U^T (H - S* P) U
          = (S* - U^T H U) / dt + <D, P^-1 grad L> + <V, Q [(grad L)^2 - nu]>
            + 1/2 <D, P^-1 D>[X] + S*^2 <V, Q P^2 V>[X],

        0 <= X,   Z >= 0,   <X, Z> = 0:

    a semidefinite complementarity problem in k x k matrices, whatever the number of
    parameters; both operators on X are symmetric and positive semidefinite, because Q and P
    are diagonal and positive. (The eigenvectors' own motion does not count: (H - S* P) U =
    0.) Predicted on the way: the time-averaged loss of the rule, L + 1/2 tr(U^T H U X), and
    its average squared gradient, (grad L)^2 + S*^2 diag(P Sigma P); phi is the share of the
    sharpness term in <X, B[X]>, B the operator.

    nu(t) is the second moment that the step from w(t) uses, nu_{t+1}: hence beta2 in r2.
    Momentum (Adam) changes the threshold, not the relation of X to E[g^2]; m lags behind
    the flow's gradient, dm/dt = (1 - beta1) / (beta1 eta) (grad L - m), and takes its place
    in dw/dt and in the eigenvalues' drift; the force of the oscillation acts at once.

    The cost grows with the number of critical directions only: k tracked eigenpairs and
    k (k + 1) / 2 third derivatives.

    Args:
        rule: The rule that is followed, with a constant step size.
        critical: Eigenvalues above this share of the threshold take part.
        stride: Steps between updates of U and X while X changes little (else one step);
            dt = stride * eta. w and nu themselves advance at every step.
        terms: What the oscillation acts through: "sharpness" (force on w), "moment" (source
            of nu). X is solved for without a term that is left out; with none, X = 0: the
            stable flow, which passes the edge.

    Raises:
        ValueError: If the rule is none of the above or has a schedule, bias correction or
            beta2 = 0, if stride < 1 or a term is unknown or has no effect on the rule.
    """

    rule: GradientDescent | Adam
    critical: float = 0.9
    stride: int = 3
    terms: Collection[str] = TERMS

    def __post_init__(self):
        if not isinstance(self.rule, GradientDescent | Adam):
            raise ValueError(f"no central flow is known for {self.rule}")
        if callable(self.rule.eta):
            raise ValueError("the central flow follows a constant step size, no schedule")
        if self._adaptive and self.rule.bias_correction:
            raise ValueError("the central flow follows rules without bias correction")
        if self._adaptive and not self.rule.beta2 > 0:
            raise ValueError("beta2 must be positive: nu would not be a slow variable")
        if self.stride < 1:
            raise ValueError(f"stride must be at least 1, not {self.stride}")
        for term in self.terms:
            if term not in TERMS:
                raise ValueError(f"unknown term {term!r}; choose from {TERMS}")
        if not self._adaptive and set(self.terms) == {"moment"}:
            raise ValueError("gradient descent has no second moment: 'moment' alone")

    @property
    def eta(self) -> float:
        """Step size of the rule; time per step."""
        return self.rule.eta

    @property
    def preconditioner(self) -> Callable[[CentralState], Tensor]:
        """P [P] that the step which led to a state set off with; as the rule, or none."""
        if not self._adaptive:
            raise AttributeError(f"{self.rule} has no preconditioner")
        return lambda state: state.P

    @property
    def _adaptive(self) -> bool:
        return isinstance(self.rule, Adam)

    @property
    def _lags(self) -> bool:
        return self._adaptive and self.rule.beta1 > 0

    def _rate(self, beta: float) -> float:
        """Rate at which an average with memory beta follows, per training time."""
        return (1 - beta) / (beta * self.eta)

    def init(self, w: Tensor) -> CentralState:
        """The state before the first step."""
        return self.follow(self.rule.init(w))

    def follow(self, state: Any) -> CentralState:
        """The state with which to set off from a state of the rule."""
        tracker = Curvature(k=1) if self.terms else Curvature(k=1, tolerance=COARSE)
        return CentralState(tracker, state)

    def step(self, point: Point, state: CentralState) -> tuple[Tensor, CentralState]:
        """Advance by the time eta."""
        if self._adaptive and state.P is None:  # nu(t) is nu_{t+1}
            state = state._replace(rule=self.rule.step(point, state.rule)[1])
        P = self.rule.preconditioner(state.rule) if self._adaptive else 1.0
        state = state._replace(P=P)
        near = self.terms and _top(state.tracker) > FAR * self.max_stable_sharpness(0)
        patience = (self.stride if state.settled else 1) if near else PATIENCE
        if state.age >= patience:
            state = self._update(point, state)
        w, rule = self._advance(point, state)
        return w, state._replace(rule=rule, age=state.age + 1)

    def _update(self, point: Point, state: CentralState) -> CentralState:
        """Measure the eigenvalues and solve for the oscillation that holds them."""
        tracker, P, edge = state.tracker, state.P, self.max_stable_sharpness(0)
        root = P.rsqrt() if self._adaptive else None
        blank = CentralState(tracker, state.rule, P, age=0)
        if not self.terms:
            tracker(point, root)
            return blank
        _measure(tracker, point, self.critical * edge, root)
        pairs = tracker.last
        k = int((pairs.values > self.critical * edge).sum())
        if k == 0:
            return blank  # nothing to hold yet
        U = pairs.vectors[:, :k]
        U = U if root is None else root[:, None] * U
        D = point.curvature_gradients(U).reshape(-1, k * k)
        V = (U[:, :, None] * U[:, None, :]).reshape(-1, k * k)
        scaled = (D.T / P).T
        drift = _numbers(scaled.T @ (state.rule.m if self._lags else point.gradient))
        held = _numbers(D.T @ scaled) / 2 * ("sharpness" in self.terms)
        squares = (V.T * (edge * P) ** 2).T  # diag(H Sigma H), per entry of X
        moved = np.zeros_like(held)
        if self._adaptive:
            nu = state.rule.nu
            Q = self._rate(self.rule.beta2) * edge * torch.where(nu > 0, nu.rsqrt() / 2, 0)
            drift = drift + _numbers(V.T @ (Q * (point.gradient.square() - nu)))
            moved = _numbers((V.T * Q) @ squares) * ("moment" in self.terms)
        values = pairs.values[:k].cpu().numpy()
        slack = np.diag(edge - values) / (self.eta * self.stride)
        X = complementarity(slack + drift.reshape(k, k), held + moved)
        x = X.reshape(-1)
        source = squares @ torch.from_numpy(x).to(D)
        excess = float(values @ np.diag(X)) / 2
        total = x @ (held + moved) @ x
        change = abs(excess - state.excess)  # not that of X: the eigenvectors may turn
        return blank._replace(
            covariance=X,
            force=D @ torch.from_numpy(x).to(D) / 2 if "sharpness" in self.terms else 0.0,
            source=source if "moment" in self.terms else 0.0,
            settled=bool(change < excess / 4),
            excess=excess,
            excess_square=float(source.sum()),
            phi=float(x @ held @ x / total) if total > 0 else np.nan,
        )

    def _advance(self, point: Point, state: CentralState) -> tuple[Tensor, Any]:
        """The next w [P] and state of the rule, its moments."""
        rule, top, reach = state.rule, _top(state.tracker), REACH

        def slope(y: Tensor, g: Tensor | None = None) -> Tensor:
            """Minus the rates of w and, where the rule has them, of nu and m."""
            g = point.objective.at(y[0]).gradient if g is None else g
            if not self._adaptive:
                return (g + state.force)[None]
            m = y[2] if self._lags else g
            nu = y[1].clamp_min(0)  # inner stages may undershoot
            P = self.rule.preconditioner(rule._replace(nu=nu))
            rates = [(m + state.force) / P]
            rates.append(self._rate(self.rule.beta2) * (nu - g.square() - state.source))
            if self._lags:
                rates.append(self._rate(self.rule.beta1) * (m - g))
            return torch.stack(rates)

        y = [point.w]
        if self._adaptive:
            y += [rule.nu, rule.m] if self._lags else [rule.nu]
        if self._lags:  # decay at a rate becomes ringing at a frequency: not for Chebyshev
            lag = self._rate(self.rule.beta1)
            top, reach = max(lag, (lag * top) ** 0.5), CLASSICAL / MARGIN
        first = slope(y, point.gradient)
        y = advance(slope, torch.stack(y), self.eta, top, first, reach)
        if not self._adaptive:
            return y[0], rule
        return y[0], rule._replace(nu=y[1].clamp_min(0), m=y[2] if self._lags else rule.m)

    def max_stable_sharpness(self, step: int) -> float:
        """The rule's threshold: where the flow is held."""
        return self.rule.max_stable_sharpness(step)


def _numbers(tensor: Tensor) -> np.ndarray:
    return tensor.double().cpu().numpy()


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


def _measure(
    tracker: Curvature, point: Point, critical: float, root: Tensor | None
) -> None:
    """Eigenpairs above the critical value: as many as the runner-up asks for."""
    if tracker.last is not None:
        tracker.k = max(1, int((tracker.last.values > critical).sum()))
    while tracker(point, root).runner_up > critical and tracker.k < len(point.w):
        tracker.k += 1


def _top(tracker: Curvature) -> float:
    return abs(float(tracker.last.values[0])) if tracker.last is not None else np.inf

"""Normalised gradient descent: its two phases, and the flow that the second one follows.

Gamma is the set of the minimisers of L = 1/(2n) |F(w) - y|^2, where F(w) = y; J is the
Jacobian of the outputs F. On Gamma the Hessian is J^T J / n, so that the sharpness is
lambda_1(J J^T) / n and the tangent space the kernel of J.

Phase I of normalised gradient descent, arc / eta steps, follows gradient flow to Gamma
(arc: its length). Phase II oscillates about Gamma along the top eigenvector, with period
two, and drifts along Gamma by the limiting flow (Arora, Li and Panigrahi 2022, theorems 4.4
and 4.6; paper 001 "Normalized GD: two phases", fig 3)

    dX / dtau = -1/4 P grad log lambda_1(X),  tau = eta^2 t,

P the projection on the tangent space. Gradient descent on sqrt(L) does so, too, by
-1/8 P grad lambda_1(X).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from time import process_time

import numpy as np
import pandas as pd
import torch
from scipy.special import lambertw
from torch import Tensor

from common.curvature import Curvature
from common.flows import GradientFlow, advance
from common.kernels import jacobian
from common.objective import Objective, Point, Problem
from common.optimizers import (
    GradientDescent,
    NormalizedGradientDescent,
    Optimizer,
    check_eta,
)
from common.training import Step, train, trajectory

ON_GAMMA = 1e-20  # loss at which a point counts as a minimiser
NEAR_GAMMA = 1e-5  # loss at which gradient flow is replaced by Newton steps
FLOW_STEP = 2.0  # time per step of that gradient flow
LIMIT = 10_000  # steps within which it, and gradient descent before it, must arrive
NEWTON = 50  # Gauss-Newton steps within which Gamma must be reached


# ---------------------------------------------------------------- two toys


@dataclass(frozen=True)
class Bowl:
    """L(w) = 1/2 sum_i lambda_i w_i^2 for w [..., P].

    Args:
        eigenvalues: lambda_1 > lambda_2 >= ... > 0.

    Raises:
        ValueError: If they are not positive or not descending.

    Example:
        >>> float(Bowl((4.0, 1.0)).loss(torch.tensor([1.0, 2.0])))
        4.0
    """

    eigenvalues: tuple[float, ...]

    def __post_init__(self):
        if [*self.eigenvalues] != sorted(self.eigenvalues, reverse=True) or not (
            self.eigenvalues and self.eigenvalues[-1] > 0
        ):
            raise ValueError(f"eigenvalues must descend and be positive: {self}")

    def loss(self, w: Tensor) -> Tensor:
        """The losses [...] at w [..., P]."""
        return (torch.tensor(self.eigenvalues).to(w) * w.square()).sum(-1) / 2

    def start(self, seed: int) -> Tensor:
        """A point [P] on the unit sphere."""
        generator = torch.Generator().manual_seed(seed)
        w = torch.randn(len(self.eigenvalues), generator=generator, dtype=torch.float64)
        return w / w.norm()

    def arc(self, w: Tensor) -> float:
        """Length of the path of gradient flow, w_i exp(-lambda_i s), from w [P] to 0."""
        rates = np.array(self.eigenvalues)
        s = np.concatenate([[0], np.geomspace(1e-4, 40 / rates[-1], 4000)])
        speed = np.linalg.norm(rates * w.numpy() * np.exp(-rates * s[:, None]), axis=1)
        return float(np.trapezoid(speed, s))


@dataclass(frozen=True)
class Ravine:
    """L(x, y) = 1/2 (1 + x^2) y^2 for w = (x, y) [..., 2]: Gamma is the line y = 0.

    There the sharpness is 1 + x^2. Gradient flow keeps G(x) - y^2 / 2, with
    G(x) = log x + x^2 / 2, and on the limiting flow G falls at the rate 1/2, so that both
    have closed forms; x > 0.

    Example:
        >>> round(float(Ravine().limit(2.0, 1.0)), 4)
        1.7938
    """

    def loss(self, w: Tensor) -> Tensor:
        """The losses [...] at w [..., 2]."""
        x, y = w.unbind(-1)
        return (1 + x.square()) * y.square() / 2

    def start(self, seed: int) -> Tensor:
        """A point (x, y) in [1.5, 2.5] x [.7, 1.3]."""
        generator = torch.Generator().manual_seed(seed)
        share = torch.rand(2, generator=generator, dtype=torch.float64)
        return torch.tensor([1.5, 0.7]) + torch.tensor([1.0, 0.6]) * share

    def limit(self, x: float, y: float) -> float:
        """Phi: x where gradient flow from (x, y) ends; for arrays, too."""
        return _inverse(_G(x) - np.square(y) / 2)

    def flow(self, x: float, tau: np.ndarray) -> np.ndarray:
        """The limiting flow of normalised gradient descent from (x, 0)."""
        return _inverse(_G(x) - np.asarray(tau) / 2)

    def root_flow(self, x: float, tau: np.ndarray) -> np.ndarray:
        """The limiting flow of gradient descent on sqrt(L), dx / dtau = -x / 4."""
        return x * np.exp(-np.asarray(tau) / 4)


def _G(x):
    return np.log(x) + np.square(x) / 2


def _inverse(G):
    """The x with G(x) = G: x^2 exp(x^2) = exp(2 G)."""
    return np.sqrt(lambertw(np.exp(2 * np.asarray(G))).real)[()]


def descend(
    toy: Bowl | Ravine, rule: Optimizer, seeds: Sequence[int], steps: int, root=False
) -> pd.DataFrame:
    """Run a rule on a toy from the starts of all seeds, side by side.

    Args:
        toy: The loss.
        rule: An update rule that is elementwise but for norms over the last axis.
        seeds: Of the starts.
        steps: Number of steps.
        root: Descend on sqrt(L) instead of L.

    Returns:
        One row per seed and step: `seed`, `step`, `loss` (L) and `w0`, `w1`, ...; the last
        row holds `cpu_seconds`.

    Raises:
        ValueError: If there are no seeds or steps.
    """
    if not seeds or steps < 1:
        raise ValueError(f"nothing to run: seeds {seeds}, {steps} steps")
    began = process_time()

    def loss(w: Tensor) -> Tensor:
        return (toy.loss(w).sqrt() if root else toy.loss(w)).sum()

    start = torch.stack([toy.start(seed) for seed in seeds])
    walk = trajectory(Objective(loss), rule, start)
    path = torch.stack([step.point.w for step in islice(walk, steps + 1)], 1)  # [R, T, P]
    index = pd.MultiIndex.from_product([seeds, range(steps + 1)], names=["seed", "step"])
    flat = path.flatten(0, 1)
    columns = {"loss": toy.loss(flat)} | {f"w{i}": w for i, w in enumerate(flat.T)}
    table = pd.DataFrame({k: v.numpy() for k, v in columns.items()}, index).reset_index()
    table.loc[len(table) - 1, "cpu_seconds"] = process_time() - began
    return table


def first_rise(loss: Sequence[float]) -> float:
    """Number of steps of phase I: those before the first one that raises the loss.

    Example:
        >>> first_rise([3.0, 2.0, 1.0, 1.5]), first_rise([2.0, 1.0])
        (2.0, inf)
    """
    up = np.flatnonzero(np.diff(loss) > 0)
    return float(up[0]) if len(up) else np.inf


def pair_sums(table: pd.DataFrame, sharpness: float, last: int = 100) -> np.ndarray:
    """sqrt(2 L_t / lambda_1) + sqrt(2 L_{t+1} / lambda_1) over the last steps.

    Along the top eigenvector it is the way from one side to the other: eta, wherever
    between the two sides the minimiser lies.
    """
    size = np.sqrt(2 * table.loss.to_numpy()[-last - 1 :] / sharpness)
    return size[:-1] + size[1:]


def on_ravine(run: pd.DataFrame, eta: float, tau: Sequence[float]) -> pd.DataFrame:
    """A run of normalised gradient descent in the ravine beside its limiting flow.

    The flow starts at tau = 0 where gradient flow from the run's start ends.

    Args:
        run: One seed of `descend`.
        eta: The step length that tau = eta^2 t refers to.
        tau: Where to compare.

    Returns:
        By tau: `x`, midway between iterates, `flow`, `error` (their distance) and
        `sharpness`, 1 + x^2; and, the same in all rows, what is worst from ten steps after
        phase I on: `alignment`, abs cos of the gradient and the y axis, and `way_error`,
        abs((abs(y_t) + abs(y_{t+1})) / eta - 1).
    """
    x, y = run.w0.to_numpy(), run.w1.to_numpy()
    middle = eta**2 * (np.arange(len(x) - 1) + 0.5)
    there = np.interp(tau, middle, (x[1:] + x[:-1]) / 2)
    flow = Ravine().flow(Ravine().limit(x[0], y[0]), tau)
    columns = {"tau": tau, "x": there, "flow": flow, "error": np.abs(there - flow)}
    late = int(min(first_rise(run.loss), len(x) // 2)) + 10
    x, y = x[late:], y[late:]
    return pd.DataFrame(columns).assign(
        sharpness=1 + there**2,
        alignment=(1 / np.hypot(1, x * y / (1 + x**2))).min(),
        way_error=np.abs((np.abs(y[1:]) + np.abs(y[:-1])) / eta - 1).max(),
    )


def spread(table: pd.DataFrame, power: float, settled: float = 0.0) -> float:
    """Largest relative difference of sharpnesses at equal eta^power t, to the least eta's.

    Args:
        table: Rows with `eta`, `tau` = eta^2 t and `sharpness`; one run for each eta.
        power: 2 for phase II, 1 for phase I.
        settled: Rows from this tau on count.

    Example:
        >>> tau = np.linspace(0, 1, 9)
        >>> runs = {e: pd.DataFrame({"tau": tau, "sharpness": 1 + tau}) for e in (1.0, 2.0)}
        >>> table = pd.concat(runs, names=["eta"]).reset_index()
        >>> spread(table, power=2), round(spread(table, power=1), 3)
        (0.0, 0.333)
    """
    rows = table[table.tau >= settled].sort_values(["eta", "tau"])
    rows = rows.assign(at=rows.tau * rows.eta ** (power - 2))
    least = rows[rows.eta == rows.eta.min()]
    others = rows[
        (rows.eta > rows.eta.min()) & rows["at"].between(*least["at"].agg(["min", "max"]))
    ]
    expected = np.interp(others["at"], least["at"], least.sharpness)
    return float((others.sharpness / expected - 1).abs().max())


def order(etas: Sequence[float], errors: Sequence[float]) -> float:
    """Exponent p of error ~ eta^p, by least squares of the logarithms."""
    return float(np.polyfit(np.log(etas), np.log(errors), 1)[0])


# ---------------------------------------------------------------- the limiting flow


def nearest_minimiser(objective: Objective, w: Tensor) -> Tensor:
    """The point of Gamma that Gauss-Newton steps w - J^T (J J^T)^-1 (F - y) lead to.

    Up to second order in the distance it is where gradient flow ends, too.

    Raises:
        ValueError: If it is not reached, or the objective is not a squared error.
    """
    if objective.targets is None:
        raise ValueError("Gamma is known for squared errors only")
    for _ in range(NEWTON):
        with torch.no_grad():
            residual = (objective.outputs(w) - objective.targets).flatten()
        if residual.square().sum() / (2 * len(objective.inputs)) < ON_GAMMA:
            return w
        J = jacobian(objective, w, objective.inputs)
        w = w - J.T @ torch.linalg.solve(J @ J.T, residual)
    raise ValueError("no minimiser found: start closer to one")


def flow_limit(objective: Objective, w: Tensor) -> Tensor:
    """Phi(w): the point of Gamma where gradient flow from w ends, from its vicinity on.

    Raises:
        ValueError: If gradient flow does not come near.
    """
    for step in islice(trajectory(objective, GradientFlow(FLOW_STEP), w), LIMIT):
        if step.point.loss < NEAR_GAMMA:
            return nearest_minimiser(objective, step.point.w)
    raise ValueError(f"gradient flow did not reach Gamma: loss {step.point.loss:g}")


@dataclass(frozen=True)
class Spectrum:
    """What the Jacobian says at a point of Gamma.

    Args:
        values: Nonzero eigenvalues of the Hessian, J J^T / n, descending [n C].
        drift: P grad log lambda_1 [P].
    """

    values: Tensor
    drift: Tensor

    @property
    def condition(self) -> float:
        """Largest / smallest eigenvalue, kappa."""
        return float(self.values[0] / self.values[-1])


def spectrum(objective: Objective, w: Tensor) -> Spectrum:
    """Sharpness and its logarithm's gradient along Gamma, from the Jacobian.

    With v the top unit eigenvector of J J^T, lambda_1 = |J^T v|^2 / n, and for its gradient
    v may be held fixed.

    Args:
        objective: A squared error.
        w: A point on Gamma (or near) [P].
    """
    n = len(objective.inputs)
    J = jacobian(objective, w, objective.inputs)
    K = J @ J.T
    values, vectors = torch.linalg.eigh(K)
    w = w.clone().requires_grad_()
    projected = (objective.outputs(w).flatten() * vectors[:, -1]).sum()
    (row,) = torch.autograd.grad(projected, w, create_graph=True)
    (gradient,) = torch.autograd.grad(row.square().sum().log(), w)
    tangent = gradient - J.T @ torch.linalg.solve(K, J @ gradient)
    return Spectrum(values.flip(0) / n, tangent)


@dataclass(frozen=True)
class LimitingFlow:
    """dX / dtau = -1/4 P grad log lambda_1(X) on Gamma, or -1/8 P grad lambda_1(X).

    An optimizer whose steps are fourth-order Runge-Kutta steps, each brought back to Gamma.

    Args:
        eta: Time tau of a step.
        root: The second flow, that of gradient descent on sqrt(L).

    Raises:
        ValueError: If eta <= 0.
    """

    eta: float
    root: bool = False

    def __post_init__(self):
        check_eta(self.eta)

    def init(self, w: Tensor) -> None:
        """No state."""

    def step(self, point: Point, state: None) -> tuple[Tensor, None]:
        """Advance by the time eta."""

        def slope(w: Tensor) -> Tensor:
            at = spectrum(point.objective, w)
            return at.drift * (at.values[0] / 8 if self.root else 1 / 4)

        w = advance(slope, point.w, self.eta, 0.0, slope(point.w))
        return nearest_minimiser(point.objective, w), None

    def max_stable_sharpness(self, step: int) -> float:
        """Infinite: a flow has no edge."""
        return float("inf")


# ---------------------------------------------------------------- a network


class AlongGamma:
    """Probe: where a run is along Gamma, and how it oscillates about it.

    Column at every step: `flip`, whether the gradient has turned by more than 90 degrees
    since the last one. Where measured, at the midpoint m = (w_t + w_{t+1}) / 2:
    `sharpness_midpoint`; `alignment`, abs cos of the gradient at w_t and the top
    eigenvector at m; and, at the minimiser nearest to m: `sharpness`; `moved`, its distance
    from the flow's start; `distance`, from where the flow is; `gap`, from m.

    Args:
        measure_every: Steps between measurements.
        path: Where the flow is at each of them [M, P].
    """

    every = 1

    def __init__(self, measure_every: int, path: Tensor):
        self.measure_every, self.path = measure_every, path
        self.tracker, self._before = Curvature(tolerance=1e-5), None

    def __call__(self, step: Step) -> dict[str, float]:
        """Measure."""
        gradient, before = step.point.gradient, self._before
        self._before = gradient
        row = {} if before is None else {"flip": float(before @ gradient < 0)}
        if step.index % self.measure_every:
            return row
        objective, middle = step.point.objective, (step.point.w + step.after) / 2
        pairs = self.tracker(objective.at(middle, curvature=True))
        nearest = nearest_minimiser(objective, middle)
        return row | {
            "sharpness_midpoint": float(pairs.values[0]),
            "alignment": float((pairs.vectors[:, 0] @ gradient).abs() / gradient.norm()),
            "sharpness": float(spectrum(objective, nearest).values[0]),
            "moved": float((nearest - self.path[0]).norm()),
            "distance": float(
                (nearest - self.path[step.index // self.measure_every]).norm()
            ),
            "gap": float((nearest - middle).norm()),
        }


def run_along_gamma(
    problem: Problem,
    etas: Sequence[float],
    seed: int,
    tau: float,
    pieces: int,
    eta_near: float = 0.05,
    loss_near: float = 2e-3,
) -> pd.DataFrame:
    """Normalised gradient descent of a network near Gamma, beside its limiting flow.

    Gradient descent trains it to a small loss, the start w_0 of all runs; the limiting flow
    starts at Phi(w_0), where gradient flow from w_0 ends. The control is gradient descent
    from w_0.

    Args:
        problem: Data, model and squared error; the net must be able to reach loss 0.
        etas: Step lengths of normalised gradient descent.
        seed: Seed of the initialisation.
        tau: Time eta^2 t that all runs take.
        pieces: Measurements in that time.
        eta_near: Step size of gradient descent, before and as the control.
        loss_near: Loss at w_0.

    Returns:
        One row per rule and step: `rule` ("flow", "normalised", "descent"), `eta`, `step`,
        `tau`, `loss`, the columns of `AlongGamma`; the flow's rows have `sharpness`,
        `moved` and `condition`, the kappa of `Spectrum`. The control takes the steps of the
        first eta. The last row holds `cpu_seconds`.

    Raises:
        ValueError: If a piece is not a whole number of steps, or loss_near is not reached.
    """
    each = {eta: tau / pieces / eta**2 for eta in etas}
    if any(abs(count - round(count)) > 1e-6 or count < 0.5 for count in each.values()):
        raise ValueError(f"tau / pieces / eta^2 must be whole numbers of steps: {each}")
    began = process_time()
    objective, w = problem.build(seed)
    near, w = train(
        objective,
        GradientDescent(eta_near),
        w,
        LIMIT,
        until=lambda row: row["loss"] < loss_near,
    )
    if not near.loss.iloc[-1] < loss_near:
        raise ValueError(f"loss {near.loss.iloc[-1]:g} after {len(near)} steps: {problem}")
    flow = trajectory(objective, LimitingFlow(tau / pieces), flow_limit(objective, w))
    path = torch.stack([step.point.w for step in islice(flow, pieces + 1)])
    seen = [spectrum(objective, X) for X in path]
    found = {
        "tau": np.linspace(0, tau, pieces + 1),
        "sharpness": [float(at.values[0]) for at in seen],
        "condition": [at.condition for at in seen],
        "moved": (path - path[0]).norm(dim=1).numpy(),
    }
    tables = [pd.DataFrame(found).assign(rule="flow")]
    rules = [("normalised", eta, NormalizedGradientDescent(eta)) for eta in etas]
    for name, eta, rule in [*rules, ("descent", etas[0], GradientDescent(eta_near))]:
        count = round(each[eta])
        probe = AlongGamma(count, path)
        table, _ = train(objective, rule, w, count * pieces, [probe])
        tables.append(table.assign(rule=name, eta=eta, tau=eta**2 * table.step))
    table = pd.concat(tables, ignore_index=True).drop(columns=["time", "mss"])
    table.loc[len(table) - 1, "cpu_seconds"] = process_time() - began
    return table

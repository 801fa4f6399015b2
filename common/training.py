"""The one training loop: any optimizer or flow, with probes, into a tidy table.

A run is a pure function of its configuration and seed. Its result is a table with one row
per step; what is measured only now and then is NaN in between. Divergence is a column, not
an exception.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from time import process_time
from typing import Any, Protocol

import numpy as np
import pandas as pd
from torch import Tensor

from common.curvature import TOLERANCE, Curvature
from common.objective import Objective, Point, Problem
from common.optimizers import Optimizer

BLOW_UP = 1e4  # a loss this many times the first one counts as divergence


@dataclass(frozen=True)
class Step:
    """What a probe sees of step t.

    Args:
        index: t.
        before: w_{t-1} (w_0 at the first step) [P].
        point: The objective at w_t.
        after: w_{t+1} [P].
        state: The optimizer's state after the step.
        optimizer: The optimizer.
    """

    index: int
    before: Tensor
    point: Point
    after: Tensor
    state: Any
    optimizer: Optimizer

    @property
    def preconditioner(self) -> Tensor | None:
        """P [P] that the step from w_t divides by; None for a rule without one."""
        if not hasattr(self.optimizer, "preconditioner"):
            return None
        return self.optimizer.preconditioner(self.state)


class Probe(Protocol):
    """Measures something every `every` steps."""

    every: int

    def __call__(self, step: Step) -> dict[str, float]:
        """Named numbers for the row of this step."""


class Sharpness:
    """The k largest Hessian eigenvalues at w_t, at a midpoint or at a local average.

    Columns `sharpness` (lambda_1) and, for k > 1, `lambda_2` ... `lambda_k`; a suffix says
    where they were measured: none for the iterate, `_midpoint` for (w_t + w_{t+1}) / 2,
    `_average` for (w_{t-1} + 2 w_t + w_{t+1}) / 4, which removes a period-two oscillation.
    Preconditioned, they are the eigenvalues of P^-1 H, P that of the step from w_t, and the
    columns are `preconditioned_sharpness`, `preconditioned_lambda_2`, ... (paper 002).

    Args:
        every: Steps between measurements.
        k: Number of eigenvalues.
        at: "iterate", "midpoint" or "average".
        tolerance: Of the eigen-solver.
        preconditioned: Measure P^-1 H instead of H.

    Raises:
        ValueError: If `at` is unknown, or the optimizer has no preconditioner.
    """

    WEIGHTS = {"iterate": (0, 1, 0), "midpoint": (0, 2, 2), "average": (1, 2, 1)}

    def __init__(
        self,
        every: int = 10,
        k: int = 1,
        at: str = "iterate",
        tolerance: float = TOLERANCE,
        preconditioned: bool = False,
    ):
        if at not in self.WEIGHTS:
            raise ValueError(f"unknown place {at!r}; choose one of {[*self.WEIGHTS]}")
        self.every, self.k, self.at = every, k, at
        self.preconditioned = preconditioned
        self.tracker = Curvature(k, tolerance)

    def __call__(self, step: Step) -> dict[str, float]:
        """Measure."""
        inverse_root = None
        if self.preconditioned:
            P = step.preconditioner
            if P is None:
                raise ValueError(f"{step.optimizer} has no preconditioner")
            inverse_root = P.rsqrt()
        values = self.tracker(self._place(step), inverse_root).values.tolist()
        prefix = "preconditioned_" if self.preconditioned else ""
        suffix = "" if self.at == "iterate" else f"_{self.at}"
        names = ["sharpness", *(f"lambda_{i}" for i in range(2, self.k + 1))]
        return {f"{prefix}{n}{suffix}": v for n, v in zip(names, values, strict=False)}

    def _place(self, step: Step) -> Point:
        if self.at == "iterate":
            return step.point
        parts = (step.before, step.point.w, step.after)
        weights = self.WEIGHTS[self.at]
        w = sum(a * part for a, part in zip(weights, parts, strict=True)) / sum(weights)
        return step.point.objective.at(w, curvature=True)


class Accuracy:
    """Training accuracy (column `accuracy`)."""

    def __init__(self, every: int = 10):
        self.every = every

    def __call__(self, step: Step) -> dict[str, float]:
        """Measure."""
        return {"accuracy": step.point.objective.accuracy(step.point.w)}


def trajectory(
    objective: Objective, optimizer: Optimizer, w: Tensor, state: Any = None
) -> Iterator[Step]:
    """The endless sequence of steps of an optimizer from w [P] and a state (None: new)."""
    state, before = optimizer.init(w) if state is None else state, w
    for index in count():
        point = objective.at(w)
        after, state = optimizer.step(point, state)
        yield Step(index, before, point, after, state, optimizer)
        before, w = w, after


def train(
    objective: Objective,
    optimizer: Optimizer,
    w: Tensor,
    steps: int,
    probes: Sequence[Probe] = (),
    until: Callable[[dict], bool] | None = None,
) -> tuple[pd.DataFrame, Tensor]:
    """Take `steps` steps and measure on the way.

    Args:
        objective: The loss.
        optimizer: An update rule or a flow.
        w: Initial parameters [P].
        steps: Number of steps; the table has one row more.
        probes: What to measure besides the loss.
        until: Stop after the first row for which this holds.

    Returns:
        A table with the columns `step`, `time` (sum of step sizes), `loss`, `mss` (maximum
        stable sharpness), `diverged`, and those of the probes; and the last w [P].

    Raises:
        ValueError: If steps < 1.
    """
    if steps < 1:
        raise ValueError(f"the number of steps must be at least 1, not {steps}")
    time, rows = 0.0, []
    for step in islice(trajectory(objective, optimizer, w), steps + 1):
        loss, mss = step.point.loss, optimizer.max_stable_sharpness(step.index)
        row = {"step": step.index, "time": time, "loss": loss, "mss": mss}
        row["diverged"] = not loss <= BLOW_UP * (rows or [row])[0]["loss"]
        if not row["diverged"]:
            for probe in probes:
                if step.index % probe.every == 0:
                    row |= probe(step)
        rows.append(row)
        if row["diverged"] or (until is not None and until(row)):
            break
        time += time_of_step(optimizer, step.index)
    return pd.DataFrame(rows), step.point.w


def time_of_step(optimizer: Optimizer, index: int) -> float:
    """The training time that a step takes: its step size (nan without one)."""
    eta = getattr(optimizer, "eta", np.nan)
    return eta(index) if callable(eta) else eta


def run(
    problem: Problem,
    optimizer: Optimizer,
    seed: int,
    steps: int,
    every: int = 10,
    k: int = 1,
    places: Sequence[str] = ("iterate",),
    raw: bool = True,
    stop_at_accuracy: float | None = None,
) -> pd.DataFrame:
    """Train a problem from scratch and follow its sharpness: the workhorse of the sweeps.

    Args:
        problem: Data, model and loss.
        optimizer: An update rule or a flow.
        seed: Seed of the initialisation.
        steps: Number of steps, at most.
        every: Steps between measurements of the sharpness (and accuracy).
        k: Number of eigenvalues.
        places: Where to measure them (see `Sharpness`). For a rule with a preconditioner
            the preconditioned ones are measured too.
        raw: Measure those of H; False leaves only the preconditioned ones.
        stop_at_accuracy: Stop when the training accuracy reaches this value.

    Returns:
        The table of `train`, with `accuracy` where there are classes, and `cpu_seconds`
        so far in the last row.
    """
    start = process_time()
    objective, w = problem.build(seed)
    metrics = [False] * raw + [True] * hasattr(optimizer, "preconditioner")
    probes = [Sharpness(every, k, at, preconditioned=p) for at in places for p in metrics]
    if objective.labels is not None:
        probes.append(Accuracy(every))
    until = None
    if stop_at_accuracy is not None:
        until = _reaches(stop_at_accuracy)
    table, _ = train(objective, optimizer, w, steps, probes, until)
    table.loc[len(table) - 1, "cpu_seconds"] = process_time() - start
    return table


def _reaches(accuracy: float) -> Callable[[dict], bool]:
    return lambda row: row.get("accuracy", 0) >= accuracy


def passes(level: float) -> Callable[[dict], bool]:
    """For `train`: stop where the measured sharpness is above a level."""
    return lambda row: row.get("sharpness", 0) > level


def run_together(
    problem: Problem,
    optimizers: dict[str, Optimizer],
    references: Sequence[str],
    seed: int,
    steps: int,
    every: int = 10,
    approach: float = 0.0,
    warm_steps: int = 0,
) -> pd.DataFrame:
    """Run several optimizers or flows side by side from the same parameters.

    Args:
        problem: Data, model and loss.
        optimizers: The rules by name; step t of each stands for the same training time.
        references: Names to which the distance of all others is measured.
        seed: Seed of the initialisation.
        steps: Number of steps from the initialisation.
        every: Steps between measurements of sharpness and distances.
        approach: All set off from where the first optimizer's sharpness, measured every
            `every` steps, first passes this share of its threshold (0: from the start).
            Past the initial transient distances do not carry its discretisation error.
        warm_steps: All set off from where the first optimizer is after so many steps, its
            state included: that of rules of the same kind and of flows that follow one.

    Returns:
        One row per step and name: `step`, `name`, `loss`, `predicted_loss` (the loss plus
        what the oscillation adds on average, for a central flow), and every `every` steps
        `sharpness`, `displacement` (distance from where all set off) and
        `distance_to_<reference>`, all Euclidean in weight space. For rules with a
        preconditioner `preconditioned_sharpness` in place of `sharpness`, and at every
        step `square` (squared norm of the gradient), `predicted_square` (with what the
        oscillation adds) and `phi` (see `common.central`). Steps count from the
        initialisation. The last row holds `cpu_seconds`.

    Raises:
        ValueError: If a reference is not among the optimizers, or if both ways to set off
            late are asked for, or warm_steps is negative, leaves no step or meets a flow.
    """
    for name in references:
        if name not in optimizers:
            raise ValueError(f"unknown reference {name!r}; choose from {[*optimizers]}")
    if approach > 0 and warm_steps != 0:
        raise ValueError("set off after an approach or after warm_steps, not after both")
    if not 0 <= warm_steps <= steps:
        raise ValueError(f"warm_steps must lie in 0 ... {steps}, not {warm_steps}")
    first = next(iter(optimizers.values()))
    if warm_steps > 0 and hasattr(first, "follow"):
        raise ValueError(f"warm_steps need a rule as the first optimizer, not {first}")
    began, rows = process_time(), []
    objective, w = problem.build(seed)
    start, states = warm_steps, {}
    if warm_steps > 0:
        *_, last = islice(trajectory(objective, first, w), warm_steps)
        w = last.after
        for name, rule in optimizers.items():
            if hasattr(rule, "follow"):
                states[name] = rule.follow(last.state)
            elif type(rule) is type(first):
                states[name] = last.state
    if approach > 0:
        near = passes(approach * first.max_stable_sharpness(0))
        path, w = train(objective, first, w, steps, [Sharpness(every)], near)
        start = len(path) - 1
    probes = {
        name: Sharpness(every, preconditioned=hasattr(rule, "preconditioner"))
        for name, rule in optimizers.items()
    }
    paths = [
        trajectory(objective, rule, w, states.get(name))
        for name, rule in optimizers.items()
    ]
    for index, moment in enumerate(
        islice(zip(*paths, strict=True), steps + 1 - start), start
    ):
        at = dict(zip(optimizers, moment, strict=True))
        for name, step in at.items():
            loss = step.point.loss
            excess = getattr(step.state, "excess", 0.0)
            row = {"step": index, "name": name, "loss": loss}
            row["predicted_loss"] = loss + excess
            if step.preconditioner is not None:
                row["square"] = float(step.point.gradient.square().sum())
                more = getattr(step.state, "excess_square", 0.0)
                row["predicted_square"] = row["square"] + more
                row["phi"] = getattr(step.state, "phi", np.nan)
            if index % every == 0:
                row |= probes[name](step)
                row["displacement"] = float((step.point.w - w).norm())
                for other in references:
                    gap = step.point.w - at[other].point.w
                    row[f"distance_to_{other}"] = float(gap.norm())
            rows.append(row)
    table = pd.DataFrame(rows)
    table.loc[len(table) - 1, "cpu_seconds"] = process_time() - began
    return table

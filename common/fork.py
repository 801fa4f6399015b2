"""What a moving preconditioner is good for: the same run, once with it held fixed.

An adaptive rule can stay stable in two ways, by moving to where H is flatter or by
enlarging its preconditioner P. The second way is closed to a branch that goes on with the
P_0 of the fork (paper 002, "understanding the adaptive EOS"); the largest eigenvalue of
P_0^-1 H, taken on both branches, tells how much curvature each of them tolerates.
"""

from dataclasses import dataclass
from itertools import islice
from time import process_time
from typing import Any

import pandas as pd
from torch import Tensor

from common.adaptive import Adam, Preconditioned
from common.curvature import Curvature
from common.objective import Point, Problem
from common.training import Sharpness, Step, train, trajectory


@dataclass(frozen=True)
class Resumed:
    """A rule with a preconditioner that goes on from a state instead of starting anew.

    Args:
        rule: The rule.
        state: Its state after some steps; `state[0]` counts them.
    """

    rule: Adam | Preconditioned
    state: Any

    def init(self, w: Tensor) -> Any:
        """The state to go on from."""
        return self.state

    def step(self, point: Point, state: Any) -> tuple[Tensor, Any]:
        """One update of the rule."""
        return self.rule.step(point, state)

    def preconditioner(self, state: Any) -> Tensor:
        """That of the rule."""
        return self.rule.preconditioner(state)

    def max_stable_sharpness(self, step: int) -> float:
        """That of the rule, whose steps count on."""
        return self.rule.max_stable_sharpness(self.state[0] + step)


class FixedMetric:
    """Probe: the largest eigenvalue of P_0^-1 H at w_t for one P_0 (`fixed_sharpness`).

    Args:
        P: The diagonal P_0 [P].
        every: Steps between measurements.
    """

    def __init__(self, P: Tensor, every: int):
        self.every, self.inverse_root = every, P.rsqrt()
        self.tracker = Curvature()

    def __call__(self, step: Step) -> dict[str, float]:
        """Measure."""
        pairs = self.tracker(step.point, self.inverse_root)
        return {"fixed_sharpness": float(pairs.values[0])}


def run_fork(
    problem: Problem, rule: Adam, seed: int, at: int, steps: int, every: int = 20
) -> pd.DataFrame:
    """Train `at` steps, then go on twice: as before, and with the preconditioner fixed.

    The fixed one is the P_0 that the last step before the fork divided by; the average
    gradient goes on in both branches.

    Args:
        problem: Data, model and loss.
        rule: The adaptive rule.
        seed: Seed of the initialisation.
        at: Steps before the fork.
        steps: Steps of each branch.
        every: Steps between measurements.

    Returns:
        The tables of `train` of both branches, with the columns `branch` ("adaptive" or
        "frozen"), `sharpness`, `preconditioned_sharpness` (by the branch's own P) and
        `fixed_sharpness` (by P_0; where P is frozen the two are one number). Steps count
        from the initialisation. The last row holds `cpu_seconds`.

    Raises:
        ValueError: If at < 1 (there is no preconditioner yet), or steps < 1.
    """
    if at < 1:
        raise ValueError(f"the fork must come after at least 1 step, not at {at}")
    if steps < 1:
        raise ValueError(f"the number of steps must be at least 1, not {steps}")
    began = process_time()
    objective, w = problem.build(seed)
    last = next(islice(trajectory(objective, rule, w), at - 1, None))
    P, (count, m, _) = last.preconditioner, last.state
    own = [Sharpness(every), Sharpness(every, preconditioned=True)]
    adaptive, _ = train(
        objective,
        Resumed(rule, last.state),
        last.after,
        steps,
        [*own, FixedMetric(P, every)],
    )
    own = [Sharpness(every), Sharpness(every, preconditioned=True)]
    fixed = Resumed(Preconditioned(rule.eta, P, rule.beta1), (count, m))
    frozen, _ = train(objective, fixed, last.after, steps, own)
    frozen["fixed_sharpness"] = frozen.preconditioned_sharpness
    table = pd.concat([adaptive.assign(branch="adaptive"), frozen.assign(branch="frozen")])
    table = table.assign(step=table.step + at).reset_index(drop=True)
    table.loc[len(table) - 1, "cpu_seconds"] = process_time() - began
    return table

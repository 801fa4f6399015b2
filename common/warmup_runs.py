"""Heavy ball and gradient descent on a network under one schedule: hold, then warm up.

The size of a catapult depends on how far eta_f lies beyond the threshold of the sharpness
on the plateau, and that plateau belongs to the run: a pilot at another step size has
another one. So heavy ball is held at a small step size, its sharpness is read there, and
eta_f follows from it. Gradient descent gets the same step sizes.
"""

from itertools import islice
from time import process_time

import pandas as pd
from torch import Tensor

from common.curvature import TOLERANCE
from common.objective import Problem
from common.optimizers import GradientDescent, HeavyBall, Warmup
from common.stochastic import MiniBatch, Noisy
from common.training import BLOW_UP, Sharpness, trajectory


def run_catapult(
    problem: Problem,
    seed: int,
    beta: float,
    r: float,
    eta_i: float,
    hold: int,
    warmup: int,
    tail: int,
    every: int = 10,
    tolerance: float = TOLERANCE,
    noise: float = 0.0,
    batch: int | None = None,
    held_out: Problem | None = None,
    control: bool = True,
) -> pd.DataFrame:
    """Run heavy ball and gradient descent from the same parameters with the same eta_t.

    Heavy ball is held at eta_i for `hold` steps; with the sharpness S_1 that it has then,
    eta_t goes linearly to eta_f = 2 (1 + beta) r / S_1 within `warmup` steps and stays
    there for `tail` steps: S_1 would be r times heavy ball's threshold.

    Args:
        problem: Data, model and loss.
        seed: Of the initialisation, the noise and the order of the samples.
        beta: Momentum of heavy ball.
        r: S_1 in units of heavy ball's final threshold; it crosses if r > 1.
        eta_i: Step size before the warmup.
        hold: Steps before it, a multiple of `every`.
        warmup: Steps of it.
        tail: Steps after it.
        every: Steps between measurements of the sharpness.
        tolerance: Of the eigen-solver.
        noise: Standard deviation of the noise floor, per parameter and step.
        batch: Samples of a mini-batch, for both; None: all. S_1 is that of the full batch.
        held_out: The same with other data, for the last row of each.
        control: Whether gradient descent runs, too.

    Returns:
        One row per `name` ("heavy ball", "gradient descent") and step: `step`, `eta`,
        `loss`, `mss`, `diverged` (after such a row the run ends, and the columns of later
        ones are missing), every `every` steps `sharpness` and, at the end of each,
        `held_out_loss` and, where there are classes, `held_out_accuracy`. The last row
        holds `cpu_seconds`.

    Raises:
        ValueError: If hold is no multiple of `every`, or a length is not positive.
    """
    if hold < every or hold % every or tail < 1:
        raise ValueError(
            f"hold must be a multiple of {every} and tail positive, not {hold} and {tail}"
        )
    began, rows = process_time(), []
    objective, w = problem.build(seed)
    plan = Warmup(eta_i, eta_i, warmup, hold)  # until S_1 is known

    def eta(step: int) -> float:
        return plan(step)

    rules = {"heavy ball": HeavyBall(eta, beta)}
    if control:
        rules["gradient descent"] = GradientDescent(eta)
    for name, rule in rules.items():
        if batch is not None:
            rule = MiniBatch(rule, batch, len(objective.outputs(w)), seed)
        probe, first = Sharpness(every, tolerance=tolerance), None
        path = trajectory(objective, Noisy(rule, noise, seed), w)
        for step in islice(path, hold + warmup + tail + 1):
            loss = step.point.loss
            first = loss if first is None else first
            row = {"name": name, "step": step.index, "eta": eta(step.index), "loss": loss}
            row["mss"] = rule.max_stable_sharpness(step.index)
            row["diverged"] = not loss <= BLOW_UP * first
            rows.append(row)
            if row["diverged"]:
                break
            if step.index % every == 0:
                row |= probe(step)
            if name == "heavy ball" and step.index == hold:
                eta_f = 2 * (1 + beta) * r / row["sharpness"]
                plan = Warmup(eta_i, eta_f, warmup, hold)
        if held_out is not None:
            row |= _judged(held_out, seed, step.point.w)
        if step.index < hold:
            break  # no S_1, no schedule
    table = pd.DataFrame(rows)
    table.loc[len(table) - 1, "cpu_seconds"] = process_time() - began
    return table


def _judged(problem: Problem, seed: int, w: Tensor) -> dict[str, float]:
    """Loss and accuracy of parameters w on other data."""
    objective, _ = problem.build(seed)
    row = {"held_out_loss": objective.at(w).loss}
    if objective.labels is not None:
        row["held_out_accuracy"] = objective.accuracy(w)
    return row

"""The first crossing of the edge in close-up: oscillation, burst, self-stabilisation.

Everything is measured at step midpoints (w_t + w_{t+1}) / 2, where the top eigenvector is
continuous although the iterates oscillate, and with gradients averaged over the step; at
the iterates themselves the cosine below has the wrong sign (paper 002, "self-stabilization").
"""

from time import process_time

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common.curvature import Curvature, top_eigenpairs, warm_start
from common.objective import Point, Problem
from common.optimizers import Optimizer
from common.training import Sharpness, Step, train

BULK = 8  # which eigenvector stands for the stable bulk


class CloseUp:
    """Probe: the top eigendirection and the gradient of the sharpness, at midpoints.

    Columns: `sharpness_midpoint`; `projection`, u . grad L(w_t) with u the top eigenvector
    at the midpoint, its sign continuous; `cosine` between the averaged gradient and the
    gradient of the sharpness, both orthogonal to u; `cosine_random`, the same with a random
    direction; `bulk_projection`, of grad L(w_t) on a fixed eigenvector of the stable bulk,
    whose eigenvalue is `bulk_sharpness`.

    Args:
        every: Steps between measurements.
        seed: Of the random direction.
    """

    def __init__(self, every: int = 1, seed: int = 0):
        self.every = every
        self.tracker = Curvature(k=1, tolerance=1e-3)
        self._last: Tensor | None = None
        self._bulk: tuple[Tensor, float] | None = None
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, step: Step) -> dict[str, float]:
        """Measure."""
        objective, w = step.point.objective, step.point.w
        point = objective.at((w + step.after) / 2, curvature=True)
        pairs = self.tracker(point)
        u = pairs.vectors[:, 0]
        if self._last is not None and u @ self._last < 0:
            u = -u
        self._last = u
        if self._bulk is None:
            self._bulk = _bulk_direction(point)
        gradient = step.point.gradient
        mean = (gradient + objective.at(step.after).gradient) / 2
        field = point.curvature_gradients(u[:, None])[:, 0, 0]
        noise = torch.randn(len(w), generator=self._generator, dtype=torch.float64)
        return {
            "sharpness_midpoint": float(pairs.values[0]),
            "projection": float(u @ gradient),
            "cosine": _cosine(_without(mean, u), _without(field, u)),
            "cosine_random": _cosine(_without(mean, u), _without(noise.to(u), u)),
            "bulk_projection": float(self._bulk[0] @ gradient),
            "bulk_sharpness": self._bulk[1],
        }


def run_crossing(
    problem: Problem,
    optimizer: Optimizer,
    seed: int,
    steps: int,
    window: int,
    every: int = 1,
    look_every: int = 5,
    approach: float = 0.85,
) -> pd.DataFrame:
    """Train to the first crossing of the edge, then watch `window` steps in close-up.

    Args:
        problem: Data, model and loss.
        optimizer: An update rule with constant hyperparameters.
        seed: Seed of the initialisation.
        steps: Steps within which the edge must be crossed.
        window: Steps of the close-up, from the crossing on.
        every: Steps between measurements in the close-up.
        look_every: Steps between measurements of the sharpness before.
        approach: A look is also taken where the sharpness first passes this share of the
            threshold: the control, before the edge.

    Returns:
        One row per step with the columns of `CloseUp`, `loss`, `mss`, `step`, and `phase`:
        "before" (a single row) or "crossing". Empty but for the first row if the edge was
        not reached.
    """
    start = process_time()
    objective, w = problem.build(seed)
    edge = optimizer.max_stable_sharpness(0)
    count, parts = 0, []
    for phase, level, length in (("before", approach, 1), ("crossing", 1.0, window)):
        until = _passes(level * edge)
        if steps - count < 1:
            break
        path, w = train(
            objective, optimizer, w, steps - count, [Sharpness(look_every)], until
        )
        count += len(path) - 1
        if not until(path.iloc[-1]):
            break
        probe = CloseUp(every if phase == "crossing" else 1, seed)
        part, last = train(objective, optimizer, w, length, [probe])
        parts.append(part.assign(step=part.step + count, phase=phase).iloc[:length])
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return table.assign(cpu_seconds=process_time() - start)


def burst(table: pd.DataFrame) -> dict[str, float]:
    """Numbers of the first burst, from a table of `run_crossing`.

    With p_t = u . grad L(w_t): the growth of abs(p) from 0.3 % to 30 % of its peak against
    the linear prediction sum log abs(1 - eta S_t), S_t at the midpoints (paper 001 fig 4).

    Args:
        table: One run.

    Returns:
        `crossing`, `peak` (steps), `growth`, `predicted_growth` (logs), `flips` (share of
        sign changes while it grows), `fall` (steps from the peak until S < 2/eta, inf if
        not seen), `cosine_crossing`, `cosine_peak` (largest within 6 steps of the peak),
        `cosine_before`, `cosine_random` (largest in size), `bulk_growth` and
        `bulk_predicted` (the same for the bulk direction), `loss_rise` (largest loss over
        the loss at the crossing). NaN where there was no burst.
    """
    seen = table[table.phase == "crossing"].dropna(subset="projection")
    seen = seen.reset_index(drop=True)
    size = seen.projection.abs().to_numpy()
    eta, top = 2 / seen.mss[0], int(size.argmax())
    start = _last_below(size, 0.003 * size[top], top)
    end = _last_below(size, 0.3 * size[top], top)
    inside = slice(start, end)
    stride = int(np.diff(seen.step[:2])[0])
    factor = np.log(np.abs(1 - eta * seen.sharpness_midpoint.to_numpy()[inside]))
    signs = np.sign(seen.projection.to_numpy()[start : end + 1])
    bulk = seen.bulk_projection.abs().to_numpy()
    fallen = np.flatnonzero((seen.sharpness_midpoint < seen.mss).to_numpy()[top:])
    near = (seen.step - seen.step[top]).abs() <= 6
    before = table[table.phase == "before"].cosine
    return {
        "crossing": seen.step[0],
        "peak": seen.step[top],
        "growth": np.log(size[end] / size[start]),
        "predicted_growth": factor.sum() * stride,
        "flips": np.mean(signs[1:] != signs[:-1] * (-1) ** (stride - 1)),
        "fall": seen.step[top + fallen[0]] - seen.step[top] if len(fallen) else np.inf,
        "cosine_crossing": seen.cosine[0],
        "cosine_peak": seen.cosine[near].max(),
        "cosine_before": before.iloc[0] if len(before) else np.nan,
        "cosine_random": seen.cosine_random.abs().max(),
        "bulk_growth": np.log(bulk[end] / bulk[start]),
        "bulk_predicted": (end - start)
        * stride
        * np.log(abs(1 - eta * seen.bulk_sharpness[0])),
        "loss_rise": seen.loss.max() / seen.loss[0],
    }


def _passes(level: float):
    return lambda row: row.get("sharpness", 0) > level


def _last_below(size: np.ndarray, level: float, top: int) -> int:
    below = np.flatnonzero(size[:top] < level)
    return int(below[-1]) + 1 if len(below) else 0


def _bulk_direction(point: Point) -> tuple[Tensor, float]:
    start = warm_start(len(point.w), BULK, like=point.w)
    pairs = top_eigenpairs(point.hessian_product, start, BULK, tolerance=1e-2)
    return pairs.vectors[:, -1], float(pairs.values[-1])


def _without(v: Tensor, u: Tensor) -> Tensor:
    return v - (u @ v) * u


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))

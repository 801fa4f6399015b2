"""The first crossing of the edge in close-up: oscillation, burst, self-stabilisation.

Everything is measured at step midpoints (w_t + w_{t+1}) / 2, where the top eigenvector is
continuous although the iterates oscillate, and with gradients averaged over the step; at
the iterates the cosine below has the wrong sign (paper 002, "self-stabilization").
"""

from time import process_time

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common.curvature import Curvature, top_eigenpairs, warm_start
from common.objective import Point, Problem
from common.optimizers import Optimizer
from common.training import Sharpness, Step, passes, train

BULK = 8  # which eigenvector stands for the stable bulk


class CloseUp:
    """Probe: the top eigendirection and the gradient of the sharpness, at midpoints.

    Columns at every step: `projection`, u . grad L(w_t) with u the top eigenvector at the
    last measured midpoint, its sign continuous; `bulk_projection`, the same on a fixed
    eigenvector of the stable bulk. Where measured: `sharpness_midpoint`; `cosine` between
    the averaged gradient and the gradient of the sharpness, both orthogonal to u;
    `cosine_random`, the same with a random direction; `bulk_sharpness`, the eigenvalue of
    the bulk direction.

    Args:
        measure_every: Steps between measurements of u.
        seed: Of the random direction.
    """

    every = 1

    def __init__(self, measure_every: int = 1, seed: int = 0):
        self.measure_every = measure_every
        self.tracker = Curvature(k=1, tolerance=1e-6)
        self._u: Tensor | None = None
        self._bulk: tuple[Tensor, float] | None = None
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, step: Step) -> dict[str, float]:
        """Measure."""
        due = step.index % self.measure_every == 0
        row = self._measure(step) if due else {}
        row["projection"] = float(self._u @ step.point.gradient)
        row["bulk_projection"] = float(self._bulk[0] @ step.point.gradient)
        return row

    def _measure(self, step: Step) -> dict[str, float]:
        objective, w = step.point.objective, step.point.w
        point = objective.at((w + step.after) / 2, curvature=True)
        pairs = self.tracker(point)
        u = pairs.vectors[:, 0]
        if self._u is not None and u @ self._u < 0:
            u = -u
        self._u = u
        if self._bulk is None:
            self._bulk = _bulk_direction(point)
        mean = (step.point.gradient + objective.at(step.after).gradient) / 2
        field = point.curvature_gradients(u[:, None])[:, 0, 0]
        noise = torch.randn(len(w), generator=self._generator, dtype=torch.float64)
        return {
            "sharpness_midpoint": float(pairs.values[0]),
            "cosine": _cosine(_without(mean, u), _without(field, u)),
            "cosine_random": _cosine(_without(mean, u), _without(noise.to(u), u)),
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
        every: Steps between measurements of the eigenvector in the close-up.
        look_every: Steps between measurements of the sharpness before.
        approach: A look is also taken where the sharpness first passes this share of the
            threshold: the control, before the edge.

    Returns:
        One row per step with the columns of `CloseUp`, `loss`, `mss`, `step`, and `phase`:
        "before" (a single row) or "crossing". Without "crossing" rows if the edge was not
        reached.
    """
    start = process_time()
    objective, w = problem.build(seed)
    edge = optimizer.max_stable_sharpness(0)
    count, parts = 0, []
    for phase, level, length in (("before", approach, 1), ("crossing", 1.0, window)):
        until = passes(level * edge)
        if steps - count < 1:
            break
        path, w = train(
            objective, optimizer, w, steps - count, [Sharpness(look_every)], until
        )
        count += len(path) - 1
        if not until(path.iloc[-1]):
            break
        probe = CloseUp(every, seed)
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
        `bulk_predicted` (the same for the bulk direction), `loss_rise` (largest loss
        until 25 steps after the peak, over the lowest loss since the crossing before it).

    Raises:
        ValueError: If the table holds no close-up: the edge was not reached.
    """
    if "projection" not in table or not (table.phase == "crossing").any():
        raise ValueError("the edge was not reached: more steps or a larger step size")
    seen = table[table.phase == "crossing"].reset_index(drop=True)
    sharpness = seen.sharpness_midpoint.interpolate().to_numpy()
    eta = 2 / seen.mss[0]
    start, end, top = climb(seen.projection)
    signs = np.sign(seen.projection[start : end + 1].to_numpy())
    bulk = np.log(seen.bulk_projection.abs())
    fallen = np.flatnonzero(sharpness[top:] < seen.mss[0])
    before = table[table.phase == "before"].cosine
    log_size = np.log(seen.projection.abs())
    loss = seen.loss[: top + 26]
    return {
        "crossing": seen.step[0],
        "peak": seen.step[top],
        "growth": log_size[end] - log_size[start],
        "predicted_growth": np.log(np.abs(1 - eta * sharpness[start:end])).sum(),
        "flips": np.mean(signs[1:] != signs[:-1]),
        "fall": fallen[0] if len(fallen) else np.inf,
        "cosine_crossing": seen.cosine[0],
        "cosine_peak": seen.cosine[max(0, top - 6) : top + 7].max(),
        "cosine_before": before.iloc[0] if len(before) else np.nan,
        "cosine_random": seen.cosine_random.abs().max(),
        "bulk_growth": bulk[end] - bulk[start],
        "bulk_predicted": (end - start) * np.log(abs(1 - eta * seen.bulk_sharpness[0])),
        "loss_rise": (loss / loss.cummin()).max(),
    }


def climb(projection: pd.Series) -> tuple[int, int, int]:
    """Where an oscillation grows from 0.3 % to 30 % of its peak, and where it peaks.

    Example:
        >>> climb(pd.Series([1e-4, -1e-3, 1e-2, -1e-1, 1.0, -0.5]))
        (2, 4, 4)
    """
    size = projection.abs().to_numpy()
    top = int(np.nanargmax(size))
    starts = [np.flatnonzero(size[:top] < share * size[top]) for share in (0.003, 0.3)]
    return *(int(s[-1]) + 1 if len(s) else 0 for s in starts), top


def _bulk_direction(point: Point) -> tuple[Tensor, float]:
    start = warm_start(len(point.w), BULK, like=point.w)
    pairs = top_eigenpairs(point.hessian_product, start, BULK, tolerance=1e-4)
    return pairs.vectors[:, -1], float(pairs.values[-1])


def _without(v: Tensor, u: Tensor) -> Tensor:
    return v - (u @ v) * u


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))

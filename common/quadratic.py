"""Where an update rule starts to diverge on a quadratic, found by trying it out.

The thresholds `max_stable_sharpness` are formulas; here is the experiment they are held
against. One run serves many quadratics 1/2 w^T (s H) w at once, one for each scale s.
"""

from itertools import islice

import torch
from torch import Tensor

from common.objective import Objective
from common.optimizers import Optimizer
from common.training import trajectory


def distances(rule: Optimizer, H: Tensor, scales: Tensor, w: Tensor, steps: int) -> Tensor:
    """Distance from the minimum at each step, on the quadratics 1/2 w^T (s H) w.

    Args:
        rule: An update rule whose step is elementwise; what it holds per parameter is [P].
        H: Hessian [P, P].
        scales: s [S].
        w: Where all set off [P].
        steps: Number of steps.

    Returns:
        Euclidean norms of w_0 ... w_steps [steps + 1, S]; inf or nan after an overflow.
    """
    many = Objective(lambda w: (scales[:, None] * w * (w @ H)).sum() / 2)
    path = trajectory(many, rule, w.expand(len(scales), -1))
    return torch.stack([step.point.w.norm(dim=1) for step in islice(path, steps + 1)])


def divergence_scale(
    rule: Optimizer,
    H: Tensor,
    w: Tensor,
    low: float,
    high: float,
    steps: int = 200,
    rounds: int = 2,
) -> float:
    """The scale s above which a rule diverges on 1/2 w^T (s H) w, by multisection.

    A run diverges if its largest distance in the last quarter is not below that in the
    second one. Each round tries 64 scales at equal ratios, and the next one looks between
    the last that converged and the first that diverged.

    Args:
        rule: As in `distances`.
        H: Hessian [P, P].
        w: Where to set off [P].
        low: A scale that converges.
        high: A scale that diverges.
        steps: Steps of a run.
        rounds: Each narrows the ratio high / low to its 63rd root.

    Returns:
        The geometric mean of the two scales that are left.

    Raises:
        ValueError: If `low` diverges or `high` converges.

    Example:
        >>> from common.optimizers import GradientDescent
        >>> H = torch.diag(torch.tensor([1.0, 0.5], dtype=torch.float64))
        >>> w = torch.ones(2, dtype=torch.float64)
        >>> round(divergence_scale(GradientDescent(0.1), H, w, low=1, high=100), 1)
        20.0
    """
    for _ in range(rounds):
        scales = torch.logspace(*torch.tensor([low, high]).log10().tolist(), 64).to(H)
        path = distances(rule, H, scales, w, steps)
        early, late = path[steps // 4 : steps // 2], path[-steps // 4 :]
        settles = late.amax(0) < early.amax(0)  # False also for nan
        if settles.all() or not settles[0]:
            verb = "converges" if settles.all() else "diverges"
            raise ValueError(f"{rule} {verb} at every scale from {low} to {high}")
        first = int(settles.int().argmin())
        low, high = scales[first - 1].item(), scales[first].item()
    return (low * high) ** 0.5

"""What makes a trajectory random: mini-batches and a noise floor, as wrappers of a rule.

Both are optimizers themselves. What they draw depends on their seed alone: for a batch of
runs (w of shape [R, ..., P]) there is one seed for each row, so that a run is the same
whatever other runs are beside it. Runs in one row draw the same (common random numbers).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.objective import Point
from common.optimizers import Optimizer


class Drawn(NamedTuple):
    """State of a wrapper.

    Args:
        inner: The state of the rule.
        generators: One for each row of runs.
        order: Samples in the order of this epoch [R, n], or [n]; None without batches.
        used: How many of them were used.
    """

    inner: Any
    generators: tuple[torch.Generator, ...]
    order: Tensor | None = None
    used: int = 0


class _Wrapper:
    """What both have in common: the rule shows through."""

    def __getattr__(self, name: str) -> Any:
        if name != "preconditioner":  # only where the rule has one
            raise AttributeError(name)
        inner = self.rule.preconditioner
        return lambda state: inner(state.inner)

    @property
    def eta(self):
        """The rule's step size."""
        return self.rule.eta

    def max_stable_sharpness(self, step: int) -> float:
        """That of the rule."""
        return self.rule.max_stable_sharpness(step)

    def _generators(self, w: Tensor) -> tuple[torch.Generator, ...]:
        seeds = (self.seed,) if isinstance(self.seed, int) else tuple(self.seed)
        rows = len(w) if w.dim() > 1 else 1
        if len(seeds) != rows:
            raise ValueError(f"{len(seeds)} seeds for {rows} runs: give one for each run")
        return tuple(torch.Generator().manual_seed(seed) for seed in seeds)


@dataclass(frozen=True)
class Noisy(_Wrapper):
    """A rule with a noise floor: Gaussian noise is added to every parameter at every step.

    In exact arithmetic a direction that has decayed never comes back; in floating point
    rounding decides how small it can get, and so how late a catapult starts. A seeded noise
    far above the rounding errors makes that a parameter instead of an accident.

    Args:
        rule: The rule.
        scale: Standard deviation sigma of the noise, per parameter and step; a tensor
            [..., 1] for a batch of runs.
        seed: Of the noise; one for each row of a batch of runs.

    Raises:
        ValueError: If the scale is negative; from `init` if there are not as many seeds as
            runs.
    """

    rule: Optimizer
    scale: float | Tensor
    seed: int | Sequence[int] = 0

    def __post_init__(self):
        if not torch.as_tensor(self.scale).ge(0).all():
            raise ValueError(f"the noise scale must not be negative, not {self.scale}")

    def init(self, w: Tensor) -> Drawn:
        """The state: that of the rule, and where the noise comes from."""
        return Drawn(self.rule.init(w), self._generators(w))

    def step(self, point: Point, state: Drawn) -> tuple[Tensor, Drawn]:
        """One update of the rule, and noise."""
        after, inner = self.rule.step(point, state.inner)
        size, dtype = after.shape[-1], after.dtype
        noise = [torch.randn(size, generator=g, dtype=dtype) for g in state.generators]
        shape = (-1, *[1] * (after.dim() - 2), size) if after.dim() > 1 else (size,)
        after = after + self.scale * torch.stack(noise).view(shape).to(after.device)
        return after, state._replace(inner=inner)


@dataclass(frozen=True)
class MiniBatch(_Wrapper):
    """A rule that sees the gradient of `size` samples at a time, each once in an epoch.

    Every epoch has a new random order; an incomplete last batch is left out. The rule's
    threshold stays that of the full batch.

    Args:
        rule: The rule.
        size: Samples of a batch.
        n: Samples of the training set.
        seed: Of the order; one for each row of a batch of runs.

    Raises:
        ValueError: If size does not lie in 1 ... n; from `init` if there are not as many
            seeds as runs.
    """

    rule: Optimizer
    size: int
    n: int
    seed: int | Sequence[int] = 0

    def __post_init__(self):
        if not 1 <= self.size <= self.n:
            raise ValueError(f"the batch size must lie in 1 ... {self.n}, not {self.size}")

    def init(self, w: Tensor) -> Drawn:
        """The state: that of the rule, and no epoch begun."""
        return Drawn(self.rule.init(w), self._generators(w), None, self.n)

    def step(self, point: Point, state: Drawn) -> tuple[Tensor, Drawn]:
        """One update on the next batch; `point` is that of the full one."""
        order, used = state.order, state.used
        if used + self.size > self.n:
            drawn = [torch.randperm(self.n, generator=g) for g in state.generators]
            order, used = torch.stack(drawn) if point.w.dim() > 1 else drawn[0], 0
        rows = order[..., used : used + self.size].to(point.w.device)
        seen = point.objective.batch(rows).at(point.w)
        after, inner = self.rule.step(seen, state.inner)
        return after, Drawn(inner, state.generators, order, used + self.size)

    def rows(self, state: Drawn) -> Tensor:
        """Samples [..., size] of the step that led to a state."""
        return state.order[..., state.used - self.size : state.used]

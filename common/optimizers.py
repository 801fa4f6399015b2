"""Update rules in the papers' notation, as frozen dataclasses of their hyperparameters.

Everything that moves w is an `Optimizer`: `init` makes the state, `step` maps a `Point` and
the state to the next w. The flows of `common.flows` are optimizers too (one step = a time
eta), so that one training loop serves them all. `max_stable_sharpness` is the threshold
above which the rule diverges on a quadratic; it is drawn as the dashed line of the figures.
The rules of `common.adaptive` have one method more, `preconditioner`, and theirs is a
threshold of the preconditioned sharpness.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from common.objective import Point


class Optimizer(Protocol):
    """What the training loop needs of a rule; write your own with these three methods."""

    def init(self, w: Tensor) -> Any:
        """The state before the first step."""

    def step(self, point: Point, state: Any) -> tuple[Tensor, Any]:
        """The next parameters [P] and state."""

    def max_stable_sharpness(self, step: int) -> float:
        """Largest (preconditioned) sharpness at which the rule is stable on a quadratic."""


@dataclass(frozen=True)
class StepDrop:
    """A step size that changes once: `first` before step `at`, `then` from it on.

    Example:
        >>> schedule = StepDrop(0.3, 0.2, at=100)
        >>> schedule(99), schedule(100)
        (0.3, 0.2)
    """

    first: float
    then: float
    at: int

    def __post_init__(self):
        check_eta(self.first)
        check_eta(self.then)

    def __call__(self, step: int) -> float:
        """The step size at a step."""
        return self.first if step < self.at else self.then


@dataclass(frozen=True)
class Warmup:
    """Linear warmup (paper 000): eta_t = eta_i + (eta_f - eta_i) (t - hold) / steps.

    Constant at eta_i for the first `hold` steps, at eta_f from step `hold + steps` on; the
    maximum stable sharpness, proportional to 1 / eta_t, is then a decaying curve. For a
    batch of runs, w [..., P], eta_i and eta_f may be tensors [..., 1].

    Args:
        eta_i: Initial step size.
        eta_f: Final step size.
        steps: Length T of the warmup.
        hold: Steps before it.

    Raises:
        ValueError: If a step size is not positive, steps < 1 or hold < 0.

    Example:
        >>> schedule = Warmup(0.1, 0.5, steps=4, hold=2)
        >>> [round(schedule(t), 1) for t in range(8)]
        [0.1, 0.1, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5]
    """

    eta_i: float | Tensor
    eta_f: float | Tensor
    steps: int
    hold: int = 0

    def __post_init__(self):
        check_eta(self.eta_i)
        check_eta(self.eta_f)
        if not (self.steps >= 1 and self.hold >= 0):
            raise ValueError(
                f"a warmup needs steps >= 1 and hold >= 0, not {self.steps}, {self.hold}"
            )

    def __call__(self, step: int) -> float | Tensor:
        """The step size at a step."""
        share = min(max(step - self.hold, 0), self.steps) / self.steps
        return self.eta_i + (self.eta_f - self.eta_i) * share


def check_eta(eta) -> None:
    """Raise ValueError unless the step size (each one, of a column) is positive."""
    if not callable(eta) and not torch.as_tensor(eta).gt(0).all():
        raise ValueError(f"the step size eta must be positive, not {eta}")


def check_share(name: str, value) -> None:
    """Raise ValueError unless a momentum or averaging constant (each one) is in [0, 1)."""
    many = torch.as_tensor(value)
    if not (many.ge(0) & many.lt(1)).all():
        raise ValueError(f"{name} must lie in [0, 1), not {value}")


def eta_at(eta, step: int) -> float:
    """The step size at a step, for a number or a schedule (any function of the step)."""
    return eta(step) if callable(eta) else eta


@dataclass(frozen=True)
class GradientDescent:
    """Gradient descent: w_{t+1} = w_t - eta_t grad L(w_t); stable below 2/eta (paper 001).

    Args:
        eta: Step size, a number or a schedule.

    Raises:
        ValueError: If eta <= 0.

    Example:
        >>> GradientDescent(eta=0.1).max_stable_sharpness(step=0)
        20.0
    """

    eta: float | StepDrop | Warmup

    def __post_init__(self):
        check_eta(self.eta)

    def init(self, w: Tensor) -> int:
        """The state: the number of steps taken."""
        return 0

    def step(self, point: Point, state: int) -> tuple[Tensor, int]:
        """One update."""
        return point.w - eta_at(self.eta, state) * point.gradient, state + 1

    def max_stable_sharpness(self, step: int) -> float:
        """2 / eta."""
        return 2 / eta_at(self.eta, step)


@dataclass(frozen=True)
class NormalizedGradientDescent:
    """Normalised gradient descent: w_{t+1} = w_t - eta_t grad L(w_t) / |grad L(w_t)|.

    Every step has the length eta, so that it does not converge even on a quadratic
    (Arora, Li and Panigrahi 2022; paper 001 "Normalized GD"). Where the gradient is zero it
    stays. For a batch of runs, w [..., P], each has its own norm.

    Args:
        eta: Length of a step, a number or a schedule.

    Raises:
        ValueError: If eta <= 0.

    Example:
        >>> from common.objective import Objective
        >>> bowl = Objective(lambda w: w.square().sum() / 2)
        >>> point = bowl.at(torch.tensor([3.0, 4.0]))
        >>> NormalizedGradientDescent(eta=0.5).step(point, 0)[0]
        tensor([2.7000, 3.6000])
    """

    eta: float | StepDrop | Warmup

    def __post_init__(self):
        check_eta(self.eta)

    def init(self, w: Tensor) -> int:
        """The state: the number of steps taken."""
        return 0

    def step(self, point: Point, state: int) -> tuple[Tensor, int]:
        """One update."""
        norm = point.gradient.norm(dim=-1, keepdim=True)
        direction = point.gradient / norm.where(norm > 0, 1.0)
        return point.w - eta_at(self.eta, state) * direction, state + 1

    def max_stable_sharpness(self, step: int) -> float:
        """0: near a minimum every positive curvature is too sharp."""
        return 0.0


@dataclass(frozen=True)
class HeavyBall:
    """Polyak's momentum: w_{t+1} = w_t - eta_t grad L(w_t) + beta (w_t - w_{t-1}).

    Stable below 2 (1 + beta) / eta (paper 000). At constant eta it is
    `torch.optim.SGD(momentum=beta)`; under a schedule it is not.

    Args:
        eta: Step size, a number or a schedule.
        beta: Momentum in [0, 1); a tensor [..., 1] for a batch of runs.

    Raises:
        ValueError: If eta <= 0 or beta lies outside [0, 1).

    Example:
        >>> HeavyBall(eta=0.1, beta=0.5).max_stable_sharpness(step=0)
        30.0
    """

    eta: float | StepDrop | Warmup
    beta: float | Tensor

    def __post_init__(self):
        check_eta(self.eta)
        check_share("the momentum beta", self.beta)

    def init(self, w: Tensor) -> tuple[int, Tensor]:
        """The state: the number of steps taken and the previous parameters [P]."""
        return 0, w

    def step(self, point: Point, state: tuple[int, Tensor]):
        """One update."""
        count, before = state
        move = self.beta * (point.w - before)
        after = point.w - eta_at(self.eta, count) * point.gradient + move
        return after, (count + 1, point.w)

    def max_stable_sharpness(self, step: int) -> float:
        """2 (1 + beta) / eta."""
        return 2 * (1 + self.beta) / eta_at(self.eta, step)


@dataclass(frozen=True)
class Repeated:
    """Several steps of a rule count as one: gradient descent at eta / 10, ten at a time.

    Args:
        rule: The rule that is repeated.
        times: How often.

    Raises:
        ValueError: If times < 1.
    """

    rule: Optimizer
    times: int

    def __post_init__(self):
        if self.times < 1:
            raise ValueError(f"times must be at least 1, not {self.times}")

    def init(self, w: Tensor) -> Any:
        """The state of the rule."""
        return self.rule.init(w)

    def step(self, point: Point, state: Any) -> tuple[Tensor, Any]:
        """`times` updates."""
        for _ in range(self.times):
            w, state = self.rule.step(point, state)
            point = point.objective.at(w)
        return w, state

    def max_stable_sharpness(self, step: int) -> float:
        """That of the rule."""
        return self.rule.max_stable_sharpness(step * self.times)

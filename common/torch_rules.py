"""Any optimizer of `torch.optim` as a rule of this repository."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.objective import Point


class TorchState(NamedTuple):
    """State of a `TorchRule`: its optimizer, which changes in place.

    Args:
        optimizer: The optimizer.
        w: Its one parameter [P].
        count: Number of steps taken.
    """

    optimizer: torch.optim.Optimizer
    w: Tensor
    count: int


@dataclass(frozen=True)
class TorchRule:
    """An update rule of `torch.optim`, on the flat parameter vector.

    Its state changes in place, so that a run cannot be continued twice from one state (that
    is an error). No threshold of the sharpness is known to this adapter.

    Args:
        name: Class in `torch.optim`: "Adagrad".
        eta: Step size, `lr`.
        options: Its other arguments.

    Raises:
        ValueError: If there is no such class, or eta <= 0; from `step`, if the state has
            been used before.

    Example:
        >>> from common.objective import Objective
        >>> point = Objective(lambda w: (w**2).sum() / 2).at(torch.tensor([1.0, -2.0]))
        >>> rule = TorchRule("SGD", eta=0.25)
        >>> rule.step(point, rule.init(point.w))[0]
        tensor([ 0.7500, -1.5000])
    """

    name: str
    eta: float
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        kind = getattr(torch.optim, self.name, None)
        if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
            raise ValueError(f"torch.optim has no optimizer {self.name!r}")
        if not self.eta > 0:
            raise ValueError(f"the step size eta must be positive, not {self.eta}")

    def init(self, w: Tensor) -> TorchState:
        """A new optimizer."""
        w = w.detach().clone()
        kind = getattr(torch.optim, self.name)
        return TorchState(kind([w], lr=self.eta, **self.options), w, 0)

    def step(self, point: Point, state: TorchState) -> tuple[Tensor, TorchState]:
        """One update."""
        optimizer, w, count = state
        if optimizer.__dict__.setdefault("steps_taken", 0) != count:
            raise ValueError(f"this state of {self.name} has been used before")
        w.copy_(point.w)
        w.grad = point.gradient
        optimizer.step()
        optimizer.steps_taken = count + 1
        return w.clone(), state._replace(count=count + 1)

    def max_stable_sharpness(self, step: int) -> float:
        """Not known."""
        return float("nan")

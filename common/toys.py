"""A loss of two variables that catapults: x is unstable, y changes the sharpness.

L(x, y) = 1/2 e^-y x^2 + c e^y is a valley along y, the floor of which falls towards -y
while its walls get steeper. The paper's toy (000) is known by what its two directions do,
not by a formula; this one is ours. On the floor x = 0 the sharpness is S = e^-y, and

- the second term pulls towards -y: S rises at a constant rate (progressive sharpening);
- the first one pushes towards +y, along -grad S, as soon as x is not small: its force,
  1/2 e^-y x^2, is the cubic term of self-stabilization (paper 002).

The loss is positive and S cannot change its sign, however large a catapult.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import islice
from time import process_time

import pandas as pd
import torch
from torch import Tensor

from common.objective import Objective
from common.optimizers import HeavyBall
from common.stochastic import Noisy
from common.training import trajectory


@dataclass(frozen=True)
class Valley:
    """L(x, y) = 1/2 e^-y x^2 + c e^y for w = (x, y) [..., 2].

    Args:
        c: How steeply the floor falls; one number for each run [...], or one for all.

    Example:
        >>> valley, w = Valley(c=0.5), torch.tensor([0.0, 0.0], dtype=torch.float64)
        >>> float(valley.loss(w)), float(valley.sharpness(w))
        (0.5, 1.0)
    """

    c: float | Tensor = 0.0

    def loss(self, w: Tensor) -> Tensor:
        """The losses [...] at w [..., 2]."""
        x, y = w.unbind(-1)
        return x.square() / (2 * y.exp()) + self.c * y.exp()

    def sharpness(self, w: Tensor) -> Tensor:
        """The largest eigenvalues [...] of the Hessians at w [..., 2], in closed form.

        H = [[e^-y, -x e^-y], [-x e^-y, 1/2 x^2 e^-y + c e^y]].
        """
        x, y = w.unbind(-1)
        steep = (-y).exp()
        other = x.square() * steep / 2 + self.c * y.exp()
        return (steep + other) / 2 + torch.hypot((steep - other) / 2, x * steep)

    @property
    def objective(self) -> Objective:
        """The sum of the losses: its gradient holds every run's own."""
        return Objective(lambda w: self.loss(w).sum())


@dataclass(frozen=True)
class ToySetting:
    """Heavy ball in the valley, with a momentum for each direction; 0, 0 is descent.

    Args:
        S0: Sharpness e^-y at the start, before x is added.
        x0: x at the start, or a range that every seed draws from, log-uniformly.
        beta_x: Momentum of x.
        beta_y: Momentum of y.
        rise: What S rises by in a step on the floor. It sets c = rise (1 - beta_y) / eta:
            the same rise whatever the momentum.
        noise: Standard deviation of the noise floor, per coordinate and step.
        eta: Step size.

    Raises:
        ValueError: If S0, x0 or eta is not positive, or rise is negative.
    """

    S0: float
    x0: float | tuple[float, float]
    beta_x: float = 0.0
    beta_y: float = 0.0
    rise: float = 0.0
    noise: float = 0.0
    eta: float = 1.0

    def __post_init__(self):
        low, high = self.range
        if not (self.S0 > 0 and 0 < low <= high and self.rise >= 0 and self.eta > 0):
            raise ValueError(
                f"S0, x0 and eta must be positive, rise not negative, a range of x0 "
                f"rising: {self}"
            )

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest x0."""
        return self.x0 if isinstance(self.x0, tuple) else (self.x0, self.x0)

    @property
    def c(self) -> float:
        """How steeply the floor falls, see `rise`."""
        return self.rise * (1 - self.beta_y) / self.eta


def run_toy(
    settings: dict[Hashable, ToySetting], seeds: Sequence[int], steps: int
) -> pd.DataFrame:
    """Run every setting from every seed's start, with its noise, all side by side.

    Args:
        settings: By name.
        seeds: Of the noise and of the start.
        steps: Number of steps.

    Returns:
        One row per setting, seed and step: `setting`, `seed`, `step`, `x`, `y`, `loss`,
        `sharpness` (largest eigenvalue of the Hessian) and `mss` (that of x, the direction
        that gets unstable). The last row holds `cpu_seconds`.

    Raises:
        ValueError: If there are no settings, no seeds or no steps, or a momentum lies
            outside [0, 1).
    """
    if not settings or not seeds or steps < 1:
        raise ValueError(
            f"nothing to run: {len(settings)} settings, {seeds}, {steps} steps"
        )
    start = process_time()

    def column(*names: str) -> Tensor:
        """[K, number of names]."""
        rows = [[getattr(s, name) for name in names] for s in settings.values()]
        return torch.tensor(rows, dtype=torch.float64)

    eta = column("eta")
    rule = HeavyBall(eta, column("beta_x", "beta_y"))
    noisy = Noisy(rule, column("noise"), seeds)
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    share = torch.stack([torch.rand(1, generator=g, dtype=torch.float64) for g in draws])
    low, high = column("range").squeeze(1).log().unbind(-1)
    x = (low + share.view(-1, 1) * (high - low)).exp()  # [R, K]
    w = torch.stack([x, -column("S0")[:, 0].log().expand_as(x)], -1)

    valley = Valley(column("c")[:, 0])
    walk = trajectory(valley.objective, noisy, w)
    path = torch.stack([step.point.w for step in islice(walk, steps + 1)])  # [T, R, K, 2]
    values = {
        "x": path[..., 0],
        "y": path[..., 1],
        "loss": valley.loss(path),
        "sharpness": valley.sharpness(path),
        "mss": rule.max_stable_sharpness(0)[:, 0].expand(path.shape[:-1]),
    }
    axes = [list(settings), list(seeds), range(steps + 1)]
    index = pd.MultiIndex.from_product(axes, names=["setting", "seed", "step"])
    columns = {k: v.permute(2, 1, 0).reshape(-1).numpy() for k, v in values.items()}
    table = pd.DataFrame(columns, index).reset_index()
    table.loc[len(table) - 1, "cpu_seconds"] = process_time() - start
    return table

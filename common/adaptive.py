"""Adaptive update rules: RMSProp and Adam, and their preconditioner held fixed.

They divide by a preconditioner P, a diagonal. What has to stay below the threshold
`max_stable_sharpness` is then the preconditioned sharpness, the largest eigenvalue of
P^-1 H (paper 002); `preconditioner` gives the P [P] of the step that led to a state.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from common.objective import Point
from common.optimizers import check_eta, check_share, eta_at

Eta = float | Callable[[int], float]


class Moments(NamedTuple):
    """State of an adaptive rule.

    Args:
        count: Steps taken.
        m: Average gradient [P].
        nu: Average squared gradient [P].
    """

    count: int
    m: Tensor
    nu: Tensor


@dataclass(frozen=True)
class Adam:
    """Adam; RMSProp for beta1 = 0 (paper 002, "adaptive gradient methods").

        nu_{t+1} = beta2 nu_t + (1 - beta2) g_t^2      (elementwise; nu_0 = 0)
        m_{t+1} = beta1 m_t + (1 - beta1) g_t          (m_0 = 0)
        w_{t+1} = w_t - eta_t P_{t+1}^-1 m_{t+1},      P = sqrt(nu) + eps

    With bias correction m and nu are divided by 1 - beta1^t and 1 - beta2^t, which is
    folded into P. Stable while the preconditioned sharpness is below
    2 (1 + beta1) / ((1 - beta1) eta): 38 / eta at beta1 = 0.9.

    Args:
        eta: Step size, a number or a schedule.
        beta1: Momentum, as an average, in [0, 1).
        beta2: Memory of the second moment in [0, 1).
        eps: Added to the root.
        bias_correction: As in `torch.optim.Adam`; the papers go without.

    Raises:
        ValueError: If eta <= 0, beta1 or beta2 lies outside [0, 1), or eps < 0.

    Example:
        >>> round(Adam(eta=0.1, beta1=0.9).max_stable_sharpness(step=0))
        380
    """

    eta: Eta
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    bias_correction: bool = False

    def __post_init__(self):
        check_eta(self.eta)
        check_share("beta1", self.beta1)
        check_share("beta2", self.beta2)
        if not self.eps >= 0:
            raise ValueError(f"eps must not be negative, not {self.eps}")

    def init(self, w: Tensor) -> Moments:
        """The state: no steps, no moments."""
        return Moments(0, torch.zeros_like(w), torch.zeros_like(w))

    def step(self, point: Point, state: Moments) -> tuple[Tensor, Moments]:
        """One update."""
        g, (count, m, nu) = point.gradient, state
        m = self.beta1 * m + (1 - self.beta1) * g
        nu = self.beta2 * nu + (1 - self.beta2) * g.square()
        new = Moments(count + 1, m, nu)
        return point.w - eta_at(self.eta, count) * m / self.preconditioner(new), new

    def preconditioner(self, state: Moments) -> Tensor:
        """P [P] of the step that led to this state."""
        if not self.bias_correction:
            return state.nu.sqrt() + self.eps
        first, second = 1 - self.beta1**state.count, 1 - self.beta2**state.count
        return first * ((state.nu / second).sqrt() + self.eps)

    def max_stable_sharpness(self, step: int) -> float:
        """2 (1 + beta1) / ((1 - beta1) eta), for the preconditioned sharpness."""
        return 2 * (1 + self.beta1) / (1 - self.beta1) / eta_at(self.eta, step)


def RMSProp(eta: Eta, beta2: float = 0.99, eps: float = 1e-8) -> Adam:
    """RMSProp: w_{t+1} = w_t - eta g_t / (sqrt(nu_{t+1}) + eps), nu_0 = 0 (paper 002).

    Adam without momentum; stable while the preconditioned sharpness is below 2 / eta. The
    same as `torch.optim.RMSprop(alpha=beta2)`.

    Args:
        eta: Step size, a number or a schedule.
        beta2: Memory of the second moment in [0, 1).
        eps: Added to the root.

    Returns:
        The rule.
    """
    return Adam(eta, beta1=0.0, beta2=beta2, eps=eps)


@dataclass(frozen=True)
class Preconditioned:
    """Gradient descent with a fixed preconditioner and averaged momentum.

    m_{t+1} = beta1 m_t + (1 - beta1) g_t, w_{t+1} = w_t - eta P^-1 m_{t+1}: Adam with its
    second moment frozen. Same threshold.

    Args:
        eta: Step size, a number or a schedule.
        P: The diagonal [P], positive.
        beta1: Momentum in [0, 1).

    Raises:
        ValueError: If eta <= 0, beta1 lies outside [0, 1) or P is not positive.
    """

    eta: Eta
    P: Tensor
    beta1: float = 0.0

    def __post_init__(self):
        check_eta(self.eta)
        check_share("beta1", self.beta1)
        if not (self.P > 0).all():
            raise ValueError("every entry of the preconditioner P must be positive")

    def init(self, w: Tensor) -> tuple[int, Tensor]:
        """The state: steps taken and the average gradient."""
        return 0, torch.zeros_like(w)

    def step(self, point: Point, state: tuple[int, Tensor]):
        """One update."""
        count, m = state
        m = self.beta1 * m + (1 - self.beta1) * point.gradient
        return point.w - eta_at(self.eta, count) * m / self.P, (count + 1, m)

    def preconditioner(self, state: tuple[int, Tensor]) -> Tensor:
        """P, whatever the state."""
        return self.P

    def max_stable_sharpness(self, step: int) -> float:
        """2 (1 + beta1) / ((1 - beta1) eta), for the preconditioned sharpness."""
        return 2 * (1 + self.beta1) / (1 - self.beta1) / eta_at(self.eta, step)

"""Adam and RMSProp with warmup on linear diagonal networks, many settings side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from torch import Tensor

from common.adaptive import Adam
from common.diagonal import SparseRegression
from common.diagonal_runs import record
from common.optimizers import Warmup
from common.stochastic import Noisy


@dataclass(frozen=True)
class AdaptiveSetting:
    """Adam with warmup on a linear diagonal network; beta1 = 0 is RMSProp.

    Args:
        eta: Final step size eta_f.
        beta1: Momentum, as an average.
        beta2: Memory of the second moment.
        share: eta_i / eta_f.
        alpha: Initialisation.
        noise: Standard deviation of the noise floor, per parameter and step.
    """

    eta: float
    beta1: float = 0.95
    beta2: float = 0.999
    share: float = 0.1
    alpha: float = 0.3
    noise: float = 1e-9


def run_adaptive(
    settings: dict[str, AdaptiveSetting],
    seeds: Sequence[int],
    warmup: int = 2000,
    steps: int = 3500,
    every: int = 1,
    bias_correction: bool = True,
    regression: SparseRegression = SparseRegression(),  # noqa: B008 (it is frozen)
) -> pd.DataFrame:
    """Train every setting on every seed's data, side by side.

    Args:
        settings: By name.
        seeds: Of the data and the noise.
        warmup: Length T of the warmup.
        steps: Number of steps.
        every: Steps between rows of the table.
        bias_correction: As in `torch.optim.Adam`.
        regression: Where the data come from.

    Returns:
        The table of `common.diagonal_runs.record`; `mss` is the threshold of its
        `preconditioned_sharpness`.
    """
    net, chosen = regression.build(seeds), settings.values()

    def per_setting(name: str) -> Tensor:
        return net.X.new_tensor([getattr(s, name) for s in chosen])[:, None]

    eta, eps = per_setting("eta"), 1e-8
    schedule = Warmup(per_setting("share") * eta, eta, warmup)
    betas = per_setting("beta1"), per_setting("beta2")
    rule = Adam(schedule, *betas, eps, bias_correction)
    rule = Noisy(rule, per_setting("noise"), seeds)
    w = net.start([s.alpha for s in chosen])
    return record(net, rule, w, list(settings), seeds, steps, every)

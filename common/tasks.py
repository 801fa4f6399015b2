"""Synthetic tasks: functions of Gaussian inputs, as `Images` with targets.

Each function returns a task as `common.objective.Problem` takes it for `data`, with
`functools.partial` for its arguments: a pure function, the same at every call.
"""

import torch

from common.data import Images


def rank_two(
    n: int = 100, d: int = 20, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Images:
    """The target y = x_1 x_2 of x ~ N(0, I_d): two of d directions decide (paper 000).

    Args:
        n: Number of samples.
        d: Dimension of x, at least 2.
        seed: Of the draw. Held-out samples: another seed.
        dtype: Floating type; drawn in float64, so that it only rounds.

    Returns:
        Inputs [n, d, 1, 1] (images of one pixel) and targets [n, 1], without classes.

    Raises:
        ValueError: If n < 1 or d < 2.

    Example:
        >>> task = rank_two(n=3, d=5)
        >>> torch.allclose(task.targets[:, 0], task.x[:, 0, 0, 0] * task.x[:, 1, 0, 0])
        True
    """
    if n < 1 or d < 2:
        raise ValueError(f"the task needs n >= 1 and d >= 2, not {n} and {d}")
    x = _gaussian(n, d, seed)
    return _task(x, x[:, 0] * x[:, 1], dtype)


def _gaussian(n: int, d: int, seed: int) -> torch.Tensor:
    """Draw n times from N(0, I_d) [n, d]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def _task(x: torch.Tensor, y: torch.Tensor, dtype: torch.dtype) -> Images:
    """Inputs [n, d] and targets [n] as images of one pixel with one target."""
    none = torch.zeros(len(x), dtype=torch.int64)
    return Images(x[:, :, None, None].to(dtype), none, (), y[:, None].to(dtype))

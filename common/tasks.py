"""Synthetic tasks: polynomials of Gaussian inputs, as `Images` with targets.

Each function returns a task as `common.objective.Problem` takes it for `data`, with
`functools.partial` for its arguments: a pure function, the same at every call.
"""

import torch

from common.agop import RANK_2, RANK_4, Polynomial
from common.data import Images


def polynomial(
    target: Polynomial,
    n: int = 100,
    d: int = 20,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Images:
    """The target y = f*(x) of x ~ N(0, I_d).

    Args:
        target: f*.
        n: Number of samples.
        d: Dimension of x, at least the number of variables of f*.
        seed: Of the draw. Held-out samples: another seed.
        dtype: Floating type; drawn in float64, so that it only rounds.

    Returns:
        Inputs [n, d, 1, 1] (images of one pixel) and targets [n, 1], without classes.

    Raises:
        ValueError: If n < 1 or d is too small.
    """
    least = max((i + 1 for term in target.terms for i in term), default=1)
    if n < 1 or d < least:
        raise ValueError(f"the task needs n >= 1 and d >= {least}, not {n} and {d}")
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    none = torch.zeros(n, dtype=torch.int64)
    return Images(x[:, :, None, None].to(dtype), none, (), target(x)[:, None].to(dtype))


def rank_two(
    n: int = 100, d: int = 20, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Images:
    """The target y = x_1 x_2: two of d directions decide (papers 000, 003).

    Example:
        >>> task = rank_two(n=3, d=5)
        >>> torch.allclose(task.targets[:, 0], task.x[:, 0, 0, 0] * task.x[:, 1, 0, 0])
        True
    """
    return polynomial(RANK_2, n, d, seed, dtype)


def rank_four(
    n: int = 100, d: int = 20, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Images:
    """The target y = x_1 + x_1 x_2 + x_1 x_2 x_3 + x_1 x_2 x_3 x_4 (paper 003).

    Example:
        >>> rank_four(n=3, d=5).targets.shape
        torch.Size([3, 1])
    """
    return polynomial(RANK_4, n, d, seed, dtype)

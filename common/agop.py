"""The average gradient outer product (AGOP): which directions of the input matter.

G = 1/n sum_i grad_x f(x_i) grad_x f(x_i)^T [d, d] (paper 003, "AGOP: a feature learning
measurement"), for several outputs summed over them: 1/n sum_i J_i^T J_i. How well a network
has found the features of a target f* is the cosine of its AGOP with that of f*.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from common.training import Step

CHUNK = 1024  # inputs of one pass


def agop(f: Callable[[Tensor], Tensor], x: Tensor, chunk: int = CHUNK) -> Tensor:
    """The AGOP of a function at inputs.

    One forward pass for all inputs, and one backward pass for each output: the outputs of
    one input must not depend on the others. For a network at w,
    `agop(lambda x: objective.function(w, x), objective.inputs)`.

    Args:
        f: Maps inputs [m, ...] to outputs [m] or [m, C].
        x: Inputs [n, ...], of d numbers each.
        chunk: How many to take at a time.

    Returns:
        G [d, d], symmetric, in the dtype of x.

    Raises:
        ValueError: If there are no inputs, or chunk < 1.

    Example:
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
        >>> agop(lambda x: x[:, 0] * x[:, 1], x)  # gradients (2, 1) and (0, 3)
        tensor([[2., 1.],
                [1., 5.]])
    """
    if not len(x) or chunk < 1:
        raise ValueError(f"nothing to average: {len(x)} inputs, {chunk} at a time")
    d = x[0].numel()
    G = x.new_zeros(d, d)
    for part in x.detach().split(chunk):
        part = part.clone().requires_grad_()
        with torch.enable_grad():
            totals = f(part).reshape(len(part), -1).sum(0)
        for total in totals:
            (g,) = torch.autograd.grad(total, part, retain_graph=True, allow_unused=True)
            if g is not None:
                g = g.reshape(-1, d)
                G += g.T @ g
    return G / len(x)


def alignment(G: Tensor, G_true: Tensor) -> float:
    """cos(G, G*) = <G, G*> / (|G| |G*|), Frobenius; NaN if either is zero or not finite.

    Args:
        G: An AGOP [d, d].
        G_true: The one of the target [d, d].

    Example:
        >>> round(alignment(torch.eye(2), torch.diag(torch.tensor([1.0, 0.0]))), 4)
        0.7071
    """
    G, G_true = G.double(), G_true.double().to(G.device)
    return float((G * G_true).sum() / (G.norm() * G_true.norm()))


class Alignment:
    """For `common.training.train`: column `alignment`, of the network's AGOP with G*.

    Args:
        G_true: G* [d, d].
        x: Where to take the network's AGOP [n, ...] (None: the training inputs).
        every: Steps between measurements.
    """

    def __init__(self, G_true: Tensor, x: Tensor | None = None, every: int = 10):
        self.G_true, self.x, self.every = G_true, x, every

    def __call__(self, step: Step) -> dict[str, float]:
        """Measure."""
        objective, w = step.point.objective, step.point.w
        x = objective.inputs if self.x is None else self.x
        G = agop(lambda x: objective.function(w, x), x)
        return {"alignment": alignment(G, self.G_true)}


Monomial = tuple[int, ...]  # the variables that are multiplied: (0, 0, 3) is x_1^2 x_4


@dataclass(frozen=True)
class Polynomial:
    """A polynomial of the inputs, with its AGOP under x ~ N(0, I) in closed form.

    Args:
        terms: Coefficient of each monomial, a tuple of the variables (from 0) that are
            multiplied, each as often as its power.

    Example:
        >>> RANK_2(torch.tensor([[2.0, 3.0, 7.0]]))
        tensor([6.])
        >>> RANK_4.agop(5).diagonal()
        tensor([4., 3., 2., 1., 0.], dtype=torch.float64)
    """

    terms: Mapping[Monomial, float]

    def __call__(self, x: Tensor) -> Tensor:
        """Values [n] at inputs [n, ...]."""
        x = x.flatten(1)
        return sum(c * x[:, list(term)].prod(1) for term, c in self.terms.items())

    def agop(self, d: int) -> Tensor:
        """E[grad f grad f^T] [d, d], float64, for x ~ N(0, I_d).

        grad f is a polynomial, so every entry is a sum over pairs of its monomials, and
        E[x^k] = (k - 1)!! for even k, 0 for odd.

        Raises:
            ValueError: If the polynomial has more than d variables.
        """
        used = {i for term in self.terms for i in term}
        if used and max(used) >= d:
            raise ValueError(
                f"a polynomial of x_{max(used) + 1} needs more than {d} inputs"
            )
        G = torch.zeros(d, d, dtype=torch.float64)
        gradient = {i: self._derivative(i) for i in used}
        for i in used:
            for j in used:
                G[i, j] = sum(
                    a * b * _expectation(left + right)
                    for left, a in gradient[i]
                    for right, b in gradient[j]
                )
        return G

    def _derivative(self, i: int) -> list[tuple[Monomial, float]]:
        """Terms of the derivative by x_i."""
        result = []
        for term, c in self.terms.items():
            if i in term:
                place = term.index(i)
                result.append((term[:place] + term[place + 1 :], c * term.count(i)))
        return result


def _expectation(term: Monomial) -> float:
    """E of a monomial of independent standard normal variables."""
    powers = Counter(term).values()
    return 0.0 if any(k % 2 for k in powers) else prod(prod(range(1, k, 2)) for k in powers)


RANK_2 = Polynomial({(0, 1): 1.0})
"""x_1 x_2 (paper 003): AGOP diag(1, 1, 0, ...)."""

RANK_4 = Polynomial({(0,): 1.0, (0, 1): 1.0, (0, 1, 2): 1.0, (0, 1, 2, 3): 1.0})
"""x_1 + x_1 x_2 + x_1 x_2 x_3 + x_1 x_2 x_3 x_4 (paper 003): AGOP diag(4, 3, 2, 1, 0, ...).

The derivative by x_k is x_1 ... x_(k-1) (1 + x_(k+1) + ... + x_(k+1) ... x_4), whose square
has the mean 5 - k; the factor x_j, j < k, that only one of two derivatives has makes the
mean of their product vanish.
"""

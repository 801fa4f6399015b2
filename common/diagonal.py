"""Linear diagonal networks, many at once: closed forms on two leading axes.

f(x; u, v) = <u * u - v * v, x> (paper 000) is linear in x, but gradient descent on u and v
prefers sparse solutions theta = u * u - v * v, the more so the smaller its initialisation
u_0 = v_0 = alpha. The loss is 1/(2n) sum (f - y)^2. A `Diagonal` holds R regressions, one
for each seed; its parameters w = (u, v) have the shape [R, K, 2d]: K runs with different
hyperparameters on each of them, so that a matrix is read once for K products. It is an
objective that `common.training.trajectory` and every elementwise rule take as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from common.objective import Objective


@dataclass(frozen=True)
class SparseRegression:
    """Inputs x ~ N(mean, variance I) that are not centred, y = <w*, x> with a sparse w*.

    The first `support` entries of w* are support^-1/2, the others 0.

    Args:
        n: Samples.
        d: Dimensions.
        mean: Of each coordinate of x.
        variance: Of each coordinate of x.
        support: Entries of w* that are not zero.

    Raises:
        ValueError: If a number is not positive, or the support larger than d.
    """

    n: int = 50
    d: int = 100
    mean: float = 5.0
    variance: float = 5.0
    support: int = 5

    def __post_init__(self):
        if min(self.n, self.d, self.variance, self.support) <= 0:
            raise ValueError(f"n, d, variance and support must be positive: {self}")
        if self.support > self.d:
            raise ValueError(f"support {self.support} is larger than d = {self.d}")

    def build(self, seeds: Sequence[int]) -> "Diagonal":
        """The networks for these seeds of X: one run each."""
        draw = [torch.Generator().manual_seed(seed) for seed in seeds]
        shape = {"size": (self.n, self.d), "dtype": torch.float64}
        noise = torch.stack([torch.randn(generator=g, **shape) for g in draw])
        truth = torch.zeros(self.d, dtype=torch.float64)
        truth[: self.support] = self.support**-0.5
        X = self.mean + self.variance**0.5 * noise
        return Diagonal(X, X @ truth, truth, self)


@dataclass(frozen=True)
class Diagonal:
    """R linear diagonal networks, each on its own data.

    Args:
        X: Inputs [R, n, d].
        y: Targets [R, n].
        truth: w* [d].
        source: Where the inputs come from: for the population loss.
    """

    X: Tensor
    y: Tensor
    truth: Tensor
    source: SparseRegression

    @cached_property
    def transposed(self) -> Tensor:
        """X^T [R, d, n], its rows contiguous."""
        return self.X.mT.contiguous()

    def at(self, w: Tensor, curvature: bool = False) -> "DiagonalPoint":
        """The networks at w [R, K, 2d]."""
        return DiagonalPoint(self, w)

    def start(self, alphas: Sequence[float]) -> Tensor:
        """u_0 = v_0 = alpha, one alpha for each of K runs: w_0 [R, K, 2d].

        Raises:
            ValueError: If an alpha is not positive: 0 is a saddle, nothing moves.
        """
        if not all(alpha > 0 for alpha in alphas):
            raise ValueError(f"the initialisation alpha must be positive, not {alphas}")
        column = self.X.new_tensor(list(alphas))[None, :, None]
        return column.repeat(len(self.X), 1, 2 * self.X.shape[2])

    def batch(self, rows: Tensor) -> "Diagonal":
        """The networks on some samples only, [R, size] indices."""
        X = self.X.gather(1, rows[..., None].expand(-1, -1, self.X.shape[2]))
        return Diagonal(X, self.y.gather(1, rows), self.truth, self.source)

    def single(self, run: int) -> Objective:
        """One of the networks as an `Objective` of w [2d], by automatic differentiation."""
        X, y = self.X[run], self.y[run]

        def loss(w: Tensor) -> Tensor:
            u, v = w.chunk(2)
            return (X @ (u * u - v * v) - y).square().sum() / (2 * len(y))

        return Objective(loss)

    def theta(self, w: Tensor) -> Tensor:
        """The linear predictor u * u - v * v [R, K, d]."""
        u, v = w.chunk(2, dim=-1)
        return u * u - v * v

    def test_loss(self, w: Tensor) -> Tensor:
        """Population loss [R, K]: half the mean squared error over x ~ N(mean, variance I).

        (mean^2 (sum e)^2 + variance |e|^2) / 2 with e = theta - w*: no test set is needed.
        """
        e = self.theta(w) - self.truth
        shift = self.source.mean**2 * e.sum(-1).square()
        return (shift + self.source.variance * e.square().sum(-1)) / 2

    def sparse_sharpness(self) -> Tensor:
        """Sharpness of the sparsest way to represent w* [R].

        With u = sqrt(w*), v = 0 the Hessian is 4 diag(u) X^T X diag(u) / n. No step size
        whose threshold lies below it can converge to w*.
        """
        scaled = self.X * self.truth.sqrt()
        return 4 * torch.linalg.matrix_norm(scaled, 2).square() / self.X.shape[1]

    def initial_sharpness(self, alphas: Sequence[float]) -> Tensor:
        """S_0 = lambda_max of the Hessian at `start(alphas)` [R, K], exactly.

        H = 4 alpha^2 [[G, -G], [-G, G]] + 2 diag(g, -g), G = X^T X / n, g = -X^T y / n.
        """
        n = self.X.shape[1]
        G = self.transposed @ self.X / n
        g = -(self.y[:, None] @ self.X)[:, 0] / n
        fixed = torch.diag_embed(torch.cat([2 * g, -2 * g], -1))
        J = torch.cat([torch.cat([G, -G], -1), torch.cat([-G, G], -1)], -2)
        tops = [torch.linalg.eigvalsh(4 * a**2 * J + fixed)[:, -1] for a in alphas]
        return torch.stack(tops, 1)


class DiagonalPoint:
    """The networks at w [R, K, 2d]: loss, gradient, Hessian products, in closed form.

    With r = X theta - y and g = X^T r / n the gradient is (2 u g, -2 v g) and the Hessian
    H = J^T J / n + 2 diag(g, -g) with J = 2 [X diag(u), -X diag(v)].
    """

    def __init__(self, objective: Diagonal, w: Tensor):
        self.objective, self.w = objective, w

    @cached_property
    def _signed(self) -> Tensor:
        """Derivative of theta by w: (2u, -2v) [R, K, 2, d]."""
        u, v = self.w.chunk(2, dim=-1)
        return torch.stack([2 * u, -2 * v], -2)

    @cached_property
    def _residual(self) -> Tensor:
        """Residuals r [R, K, n]."""
        theta = self.objective.theta(self.w)
        return theta @ self.objective.transposed - self.objective.y[:, None]

    @cached_property
    def _g(self) -> Tensor:
        """Gradient g with respect to theta [R, K, 1, d]."""
        return self._pull(self._residual)

    @cached_property
    def _curved(self) -> Tensor:
        """Diagonal of the Hessian's second part: 2 (g, -g) [R, K, 2, d]."""
        return torch.cat([2 * self._g, -2 * self._g], -2)

    def _pull(self, a: Tensor) -> Tensor:
        """X^T a / n [R, K, 1, d] of a [R, K, n]."""
        return (a @ self.objective.X / a.shape[-1])[..., None, :]

    def _gram(self, theta: Tensor) -> Tensor:
        """X^T X theta / n [R, K, 1, d] of theta [R, K, d]."""
        return self._pull(theta @ self.objective.transposed)

    @cached_property
    def loss(self) -> Tensor:
        """Training losses [R, K]."""
        return self._residual.square().sum(-1) / (2 * self._residual.shape[-1])

    @cached_property
    def gradient(self) -> Tensor:
        """Gradients [R, K, 2d]."""
        return (self._signed * self._g).view_as(self.w)

    def hessian_product(self, v: Tensor) -> Tensor:
        """H v [R, K, 2d]."""
        v = v.view_as(self._signed)
        pulled = self._gram((self._signed * v).sum(-2))
        return (self._signed * pulled + self._curved * v).view_as(self.w)

    def curvature_gradient(self, v: Tensor) -> Tensor:
        """Gradient of v^T H(w) v, v held fixed [R, K, 2d]; of S, for the top v."""
        a, b = v.chunk(2, dim=-1)
        pulled = self._gram((self._signed * v.view_as(self._signed)).sum(-2))
        first = 4 * torch.stack([a, -b], -2) * pulled
        second = 2 * self._signed * self._gram(a.square() - b.square())
        return (first + second).view_as(self.w)


def power_iteration(product, start: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Largest eigenvalue of many symmetric matrices at once, from a warm start.

    Good for spectra with one dominant positive eigenvalue, such as a linear diagonal
    network's on inputs that are not centred; `common.curvature` is for all others.

    Args:
        product: Maps v [..., P] to H v [..., P].
        start: Where to set off [..., P]; the last eigenvectors.
        iterations: Products.

    Returns:
        Rayleigh quotients [...] and the vectors they belong to [..., P], normalised.
    """
    q = start / start.norm(dim=-1, keepdim=True)
    for _ in range(iterations - 1):
        q = product(q)
        q = q / q.norm(dim=-1, keepdim=True)
    return (q * product(q)).sum(-1), q

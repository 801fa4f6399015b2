"""Top eigenpairs of the Hessian by warm-started Krylov iteration on Hessian products.

One solver serves the sharpness, the preconditioned sharpness and any other symmetric
operator that is given as a product. It is block Lanczos written as Rayleigh-Ritz: the basis
grows by the residuals of the pairs that have not converged, so that k = 1 is Lanczos with
full orthogonalisation and k > 1 also finds eigenvalues that (nearly) coincide, which is
the normal state of affairs at the edge of stability.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.objective import Point

NOISE = 0.05  # share of noise in a warm start: finds directions that were not there before
GUARD = 0.1  # share of the third runner-up in a warm start; two have their own columns
ROOM = 16  # rows of storage for the basis; doubled when full
PIECE = 4096  # numbers that are summed in the precision of the parameters


@dataclass(frozen=True)
class Eigenpairs:
    """Largest eigenvalues (descending) with their vectors and relative residuals.

    Args:
        values: lambda_1 >= ... >= lambda_k [k], float64.
        vectors: Unit eigenvectors as columns [P, k].
        residuals: norm(H u - lambda u) / max abs eigenvalue seen [k]; an error bound.
        products: Number of products that were used.
        runners_up: The next Ritz vectors, unconverged, for the next warm start [P, <= 3].
        runner_up: The next Ritz value, a lower bound of lambda_{k+1}; -inf without one.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    products: int
    runners_up: Tensor
    runner_up: float


def top_eigenpairs(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    k: int = 1,
    tolerance: float = 1e-3,
    limit: int = 200,
) -> Eigenpairs:
    """The k largest (most positive) eigenpairs of a symmetric operator.

    Args:
        product: Maps a vector [P] to the operator times that vector [P].
        start: Starting vectors as columns [P, >= 1]; see `warm_start`.
        k: Number of eigenpairs.
        tolerance: Stop when every residual is below this share of the operator's scale.
            The eigenvalue's error is at most the residual, and of the order of its square
            divided by the gap to the other eigenvalues.
        limit: Largest number of products.

    Returns:
        The eigenpairs. NaN where the operator is not finite (a diverged run).

    Example:
        >>> H = torch.diag(torch.arange(-50.0, 50.0))
        >>> pairs = top_eigenpairs(lambda v: H @ v, warm_start(100, k=2), k=2)
        >>> [round(float(value), 3) for value in pairs.values]
        [49.0, 48.0]
    """
    size = len(start)
    k = min(k, size)
    basis = images = start.new_empty(0, size)  # vectors and their images as rows
    small = np.zeros((0, 0))  # basis times images
    used, fresh = 0, start.T
    while True:
        fresh = fresh[: size - used]
        if used + len(fresh) > len(basis):
            more = start.new_empty(max(ROOM, used, len(fresh)), size)
            basis, images = torch.cat([basis, more]), torch.cat([images, more])
        before, used = used, used + len(fresh)
        for index, row in enumerate(fresh, before):
            basis[index] = _orthonormal(row, basis[:index])
            images[index] = product(basis[index])
        small = _bordered(small, _dots(basis[:used], images[before:used]).cpu().numpy())
        if not np.abs(small).max() <= torch.finfo(basis.dtype).max:
            return _nothing(start, k, used)
        ritz, rotation = map(torch.from_numpy, np.linalg.eigh(small))
        ritz, rotation = ritz.flip(0), rotation.T.flip(0)[: k + 3].to(basis)
        count = min(k, used)
        vectors = rotation[:count] @ basis[:used]
        errors = rotation[:count] @ images[:used] - ritz[:count, None].to(basis) * vectors
        scale = ritz.abs().max().clamp_min(torch.finfo(basis.dtype).tiny)
        residuals = _norms(errors).cpu() / scale
        open_ = residuals > tolerance
        if used == size or used >= limit or (count == k and not open_.any()):
            return Eigenpairs(
                ritz[:count],
                vectors.T,
                residuals,
                used,
                (rotation[count:] @ basis[:used]).T,
                float(ritz[count]) if used > count else -torch.inf,
            )
        fresh = errors[open_] if open_.any() else _random(start.T[:1], seed=used)


def warm_start(
    size: int,
    k: int = 1,
    last: Eigenpairs | None = None,
    like: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Starting vectors for `top_eigenpairs`: the last solution, not quite.

    The last eigenvectors alone would be a trap: when another eigenvalue overtakes, they
    are still exact eigenvectors, and the residual sees nothing. So two runners-up get
    columns of their own (which also saves products where the top eigenvalues lie close
    together), and all columns hold a little of the third and of noise.

    Args:
        size: P.
        k: Number of columns.
        last: The previous solution (None: a cold, random start).
        like: A tensor whose dtype and device to use.
        generator: Source of the noise; a fixed seed if None.

    Returns:
        Columns [P, k], or up to [P, k + 2] after a solution, not normalised.
    """
    generator = generator or torch.Generator().manual_seed(0)
    like = torch.empty(0) if like is None else like
    if last is None or not last.values.isfinite().all():
        known = like.new_empty(0, size)
    else:
        known = torch.cat([last.vectors[:, :k].T, last.runners_up[:, :2].T])
        rest = last.runners_up[:, 2:].sum(1)
    rows = max(k, len(known))
    noise = torch.randn(size, generator=generator, dtype=torch.float64) / size**0.5
    # the same numbers elsewhere for each row: a draw costs half a gradient at P = 1e6
    result = torch.stack(
        [noise.to(like).roll(i * max(1, size // rows)) for i in range(rows)]
    )
    if len(known):
        result[: len(known)] *= NOISE
        result[: len(known)] += known + GUARD * rest
    return result.T


class Curvature:
    """Follows the top k eigenpairs of the Hessian along a trajectory, warm-started.

    Args:
        k: Number of eigenpairs.
        tolerance: See `top_eigenpairs`.

    Attributes:
        products: Hessian products used so far.
        measurements: Calls so far.
        last: The last solution.
    """

    def __init__(self, k: int = 1, tolerance: float = 1.5e-3):
        self.k, self.tolerance = k, tolerance
        self.products = self.measurements = 0
        self.last: Eigenpairs | None = None
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, point: Point, inverse_root: Tensor | None = None) -> Eigenpairs:
        """The eigenpairs at a point.

        Args:
            point: Where to measure.
            inverse_root: Diagonal of P^-1/2 [P] for a preconditioner P: the eigenvalues are
                then those of P^-1 H, found as those of P^-1/2 H P^-1/2. None: P = 1.

        Returns:
            The eigenpairs (vectors in the scaled space if there is a preconditioner).
        """

        def scaled(v: Tensor) -> Tensor:
            return inverse_root * point.hessian_product(inverse_root * v)

        product = point.hessian_product if inverse_root is None else scaled
        start = warm_start(len(point.w), self.k, self.last, point.w, self._generator)
        self.last = top_eigenpairs(product, start, self.k, self.tolerance)
        self.products += self.last.products
        self.measurements += 1
        return self.last


def _norms(rows: Tensor) -> Tensor:
    """Row norms, summed as in `_dots`: float32 sums are off by 1e-5 at P = 1e6."""
    if rows.shape[1] <= PIECE:
        return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    peaks = rows.abs().amax(1, keepdim=True)  # so that no square overflows
    scaled = rows / peaks.clamp_min(torch.finfo(rows.dtype).tiny)
    squares = torch.cat([_dots(row[None], row[None])[0] for row in scaled])
    return squares.sqrt() * peaks[:, 0].double()


def _dots(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of the rows of a and of b, float64.

    In float32, matrix products sum along P with an error of 1e-4 at P = 1e6, which is what
    the eigenvalues would then be off by. So they sum over pieces, float64 over the rest.
    """
    if a.shape[1] <= PIECE:
        return a.double() @ b.double().T
    whole = a.shape[1] // PIECE * PIECE
    pieces = [x[:, :whole].unflatten(1, (-1, PIECE)).transpose(0, 1) for x in (a, b)]
    sums = torch.bmm(pieces[0], pieces[1].mT).sum(0, dtype=torch.float64)
    return sums + a[:, whole:].double() @ b[:, whole:].double().T


def _bordered(small: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Extend a symmetric matrix by columns that reach down to the new diagonal block."""
    before, after = len(small), len(columns)
    result = np.zeros((after, after))
    result[:before, :before] = small
    result[:, before:] = columns
    result[before:, :before] = columns[:before].T
    corner = result[before:, before:]
    result[before:, before:] = (corner + corner.T) / 2
    return result


def _orthonormal(row: Tensor, basis: Tensor) -> Tensor:
    """A vector [P] made orthonormal to a basis (rows); a random one if nothing is left."""
    for attempt in range(5):
        norm = float(_norms(row[None]))
        if norm < torch.finfo(row.dtype).tiny:
            row = _random(row[None], seed=len(basis))[0]
            norm = float(_norms(row[None]))
        row = row / norm
        if attempt and norm > 0.5:  # the last projection removed little: orthogonal
            break
        row = row - _dots(basis, row[None])[:, 0].to(row.dtype) @ basis
    return row


def _random(like: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


def _nothing(start: Tensor, k: int, used: int) -> Eigenpairs:
    """The answer for an operator that is not finite."""
    nan = torch.full((k,), torch.nan, dtype=torch.float64)
    return Eigenpairs(
        nan, start.new_full((len(start), k), torch.nan), nan, used, start, -torch.inf
    )

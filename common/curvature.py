"""Top eigenpairs of the Hessian by warm-started iteration on Hessian products.

One solver serves the sharpness, the preconditioned sharpness and any other symmetric
operator that is given as a product. It is Rayleigh-Ritz in a basis that grows by the
residuals of the pairs that have not converged: for a cold start block Lanczos with full
orthogonalisation, which also finds eigenvalues that (nearly) coincide, the normal state of
affairs at the edge of stability. Along a trajectory the last solution helps three times: as
the start, as a model of the operator by which residuals become corrections (Davidson's
method), and in the estimate of the error that is left, at which the iteration stops.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg.lapack import dsygv
from torch import Tensor

from common.objective import Point

TOLERANCE = 3e-6  # estimated relative error of an eigenvalue
SAFETY = 10  # largest residual in units of the root of the tolerance
NOISE = 0.05  # share of noise in a warm start: finds directions that were not there before
SPARE = 2  # runners-up with columns of their own in a warm start
GUARD = 0.1  # share of the next runner-up in a warm start
MODEL = 6  # runners-up that are kept
GAP = 0.25  # smallest distance of eigenvalues that a correction divides by, to the largest
PARALLEL = 1e-3  # a direction of which no larger share is new is not worth a product
FORGET = 0.7  # memory of the average overlap with the last two solutions
ROUNDED = 0.1  # a direction whose length is this far from 1 is made of rounding errors
ROOM = 16  # rows of storage for the basis; doubled when full
PIECE = 4096  # numbers that are summed in the precision of the parameters


@dataclass(frozen=True)
class Eigenpairs:
    """Largest eigenvalues (descending), their vectors, and what is known of their errors.

    Args:
        values: lambda_1 >= ... >= lambda_k [k], float64.
        residuals: norm(H u - lambda u) / max abs eigenvalue seen [k]; bounds the error.
        errors: Estimated errors of the values, to the same scale [k].
        next_values: The next Ritz values, lower bounds of lambda_{k+1}, ... [<= 6].
        vectors: Unit eigenvectors as columns [P, k].
        runners_up: The next Ritz vectors, unconverged [P, <= 6].
        products: Number of products that were used.
    """

    values: Tensor
    residuals: Tensor
    errors: Tensor
    next_values: Tensor
    vectors: Tensor
    runners_up: Tensor
    products: int

    @property
    def runner_up(self) -> float:
        """The next Ritz value, a lower bound of lambda_{k+1}; -inf without one."""
        return float(self.next_values[0]) if len(self.next_values) else -torch.inf


def top_eigenpairs(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    k: int = 1,
    tolerance: float = TOLERANCE,
    limit: int = 200,
    model: Eigenpairs | None = None,
) -> Eigenpairs:
    """The k largest (most positive) eigenpairs of a symmetric operator.

    With a model, eigenpairs (theta_j, y_j) of an operator nearby, the residual r of a pair
    (lambda, u) becomes the correction (lambda - H')^-1 r for the H' that has those pairs
    and is zero elsewhere, and r^T (lambda - H')^-1 r is the error that is left. Without
    one, the correction is r and the error its square over the gap to the next Ritz value.

    Args:
        product: Maps a vector [P] to the operator times that vector [P].
        start: Starting vectors as columns [P, >= 1]; see `warm_start`.
        k: Number of eigenpairs.
        tolerance: Stop when the estimated errors of all k eigenvalues are below this share
            of the operator's scale (and the residuals below ten times its root).
        limit: Largest number of products.
        model: A solution for an operator nearby.

    Returns:
        The eigenpairs. NaN where the operator is not finite (a diverged run).

    Example:
        >>> H = torch.diag(torch.arange(-50.0, 50.0))
        >>> pairs = top_eigenpairs(lambda v: H @ v, warm_start(100, k=2), k=2)
        >>> [round(float(value), 3) for value in pairs.values]
        [49.0, 48.0]
    """
    k, dtype = min(k, len(start)), start.dtype
    space = _Space(start.T[:0] if model is None else model.runners_up.T)
    fresh = torch.linalg.qr(start.to(space.rows))[0].T
    while True:
        fresh = fresh[: len(start) - space.used]
        space.append(fresh, [product(row) for row in fresh.to(dtype)])
        small = space.gram[space.v, space.w]
        if not np.abs(small).max() <= torch.finfo(dtype).max:
            return _nothing(start, k, space.used)
        ritz, rotation, _ = dsygv((small + small.T) / 2, space.gram[space.v, space.v])
        ritz, rotation = ritz[::-1], rotation.T[::-1]
        count, scale = min(k + 1, space.used), np.abs(ritz).max() or 1.0
        values = ritz[:count, None]
        rests = np.zeros((count, len(space.gram)))  # H u - lambda u, as combinations
        rests[:, space.w] = rotation[:count] / scale
        rests[:, space.v] = -values / scale * rotation[:count]
        lengths = space.norms(rests)
        if model is None:
            gaps = (values[:, 0] - ritz[min(k, space.used - 1)]) / scale
            errors = lengths**2 / np.maximum(gaps, lengths)
            steps = rests
        else:
            known = model.next_values.numpy() / scale
            errors, steps = _corrections(space, rests, lengths, values / scale, known)
        open_ = (errors > tolerance) | (lengths > SAFETY * tolerance**0.5)
        if count > k:  # the runner-up is of interest only where it may be ahead
            open_[k] = values[k] / scale + errors[k] > values[k - 1] / scale
        fresh = space.directions(steps[open_])
        full = space.used >= min(limit, len(start))
        if full or (space.used >= k and not len(fresh)):
            vectors = space.vectors(rotation[: k + MODEL]).to(dtype).T
            return Eigenpairs(
                *map(_tensor, (ritz[:k], lengths[:k], errors[:k], ritz[k : k + MODEL])),
                vectors[:, :k],
                vectors[:, k:],
                space.used,
            )
        if not len(fresh):
            fresh = _elsewhere(space.basis())


class _Space:
    """A basis v_1, v_2, ..., its images H v_1, ..., and all their inner products.

    All are rows of one array, after some known vectors: y_1 ... y_m, v_1, H v_1, v_2, ...,
    so that anything in their span is a short row of coefficients, which `gram` (summed in
    float64) multiplies and measures: each product with H costs two passes over the rows,
    and the basis has to be only nearly orthonormal.

    Args:
        known: Vectors as rows [m, P].

    Attributes:
        gram: Inner products of the rows.
        v, w: Where the basis and its images are among the rows.
        used: Size of the basis.
        noise: Relative error of the inner products.
    """

    def __init__(self, known: Tensor):
        precise = known.shape[1] <= PIECE
        self.rows = known.double() if precise else known
        self.known = self.length = len(known)
        self.v, self.w = slice(len(known), None, 2), slice(len(known) + 1, None, 2)
        self.used, self.noise = 0, 4 * torch.finfo(self.rows.dtype).eps
        self.gram = np.zeros((0, 0))

    def append(self, basis: Tensor, images: list[Tensor]) -> None:
        """More vectors of the basis [b, P], and their images."""
        first, known = len(self.gram), self.length  # first: 0 at first
        self.length, self.used = known + 2 * len(basis), self.used + len(basis)
        if self.length > len(self.rows):
            more = self.rows.new_empty(max(ROOM, self.length), self.rows.shape[1])
            self.rows = torch.cat([self.rows[:known], more])
        for index, (row, image) in enumerate(zip(basis, images, strict=True)):
            self.rows[known + 2 * index], self.rows[known + 2 * index + 1] = row, image
        rows = self.rows[: self.length]
        new = _dots(rows, rows[first:])
        self.gram, old = np.empty((self.length, self.length)), self.gram
        self.gram[:first, :first] = old
        self.gram[:, first:] = new
        self.gram[first:] = new.T

    def basis(self) -> Tensor:
        """The basis [used, P]."""
        return self.rows[: self.length][self.v]

    def norms(self, coefficients: np.ndarray) -> np.ndarray:
        """Norms [k] of combinations of the rows [k, rows], as far as they can be told."""
        squares = (coefficients @ self.gram * coefficients).sum(1)
        return np.maximum(squares, self.noise) ** 0.5

    def vectors(self, rotation: np.ndarray) -> Tensor:
        """Combinations [k, P] of the basis alone [k, used]."""
        coefficients = np.zeros((len(rotation), self.length))
        coefficients[:, self.v] = rotation
        return self._combined(coefficients)

    def directions(self, combinations: np.ndarray) -> Tensor:
        """Combinations of the rows made orthonormal to the basis and to each other.

        Args:
            combinations: Coefficients [k, rows].

        Returns:
            Rows [<= k, P]; those of which (almost) nothing is left are missing.
        """
        kept = np.zeros((0, self.length))
        for c in combinations:
            rounding = self.noise * (c**2 @ self.gram.diagonal())
            before = c @ self.gram @ c
            c[self.v] -= self.gram[self.v] @ c
            if len(kept):
                c -= (kept @ self.gram @ c) @ kept
            square = c @ self.gram @ c
            if square > max(rounding, PARALLEL**2 * before):
                kept = np.vstack([kept, c / square**0.5])
        rows = self._combined(kept)
        return rows[(rows.norm(dim=1) - 1).abs() < ROUNDED]

    def _combined(self, coefficients: np.ndarray) -> Tensor:
        return torch.from_numpy(coefficients).to(self.rows) @ self.rows[: self.length]


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
    together), and all columns hold a little of the next one and of noise.

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
    if last is None or not _finite(last):
        known = like.new_empty(0, size)
    else:
        known = torch.cat([last.vectors[:, :k].T, last.runners_up[:, :SPARE].T])
        rest = last.runners_up[:, SPARE : SPARE + 1].sum(1)
    rows = max(k, len(known))
    result = torch.randn(rows, size, generator=generator).to(like) / size**0.5
    if len(known):
        result[: len(known)] *= NOISE
        result[: len(known)] += known + GUARD * rest
    return result.T


class Curvature:
    """Follows the top k eigenpairs of the Hessian along a trajectory, warm-started.

    At the edge of stability the iterates jump from one side of the valley to the other, so
    that the last solution but one may be the closer one: whichever of the two has lately
    overlapped more with what was found is the start and the model.

    Args:
        k: Number of eigenpairs.
        tolerance: See `top_eigenpairs`.

    Attributes:
        products: Hessian products used so far.
        measurements: Calls so far.
        last: The last solution.
    """

    def __init__(self, k: int = 1, tolerance: float = TOLERANCE):
        self.k, self.tolerance = k, tolerance
        self.products = self.measurements = 0
        self.last: Eigenpairs | None = None
        self._before: Eigenpairs | None = None
        self._lead = 0.0  # of the last but one over the last, in overlap
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
        model = self._before if self._lead > 0 else self.last
        model = model if model is not None and _finite(model) else None
        start = warm_start(len(point.w), self.k, model, point.w, self._generator)
        pairs = top_eigenpairs(product, start, self.k, self.tolerance, model=model)
        self._remember(pairs)
        self.products += pairs.products
        self.measurements += 1
        return pairs

    def _remember(self, pairs: Eigenpairs) -> None:
        if self.last is None or not _finite(self.last) or not _finite(pairs):
            self.last, self._before, self._lead = pairs, None, 0.0
            return
        if self._before is not None:
            k = min(len(x.values) for x in (pairs, self.last, self._before))
            last, before = (
                float((old.vectors[:, :k].T @ pairs.vectors[:, :k]).square().sum())
                for old in (self.last, self._before)
            )
            self._lead = FORGET * self._lead + (1 - FORGET) * (before - last)
        self.last, self._before = pairs, self.last


def _corrections(
    space: _Space,
    rests: np.ndarray,
    lengths: np.ndarray,
    values: np.ndarray,
    known: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Estimated errors [k] and corrections [k, rows] of pairs; see `top_eigenpairs`.

    Args:
        space: The rows; its known ones are the model's runners-up.
        rests: H u - lambda u in units of the scale, as coefficients [k, rows].
        lengths: Their norms [k].
        values: lambda in units of the scale [k, 1].
        known: Eigenvalues of the known vectors, in units of the scale [m].
    """
    parts = rests @ space.gram[:, : space.known]  # along the known vectors
    gaps = values - known
    gaps = np.copysign(np.maximum(np.abs(gaps), GAP), gaps)
    elsewhere = np.maximum(values, GAP)  # the distance to zero
    errors = (parts**2 / np.abs(gaps)).sum(1)
    errors += np.maximum(lengths**2 - (parts**2).sum(1), 0) / elsewhere[:, 0]
    steps = rests / elsewhere
    steps[:, : space.known] += parts * (1 / gaps - 1 / elsewhere)
    return errors, steps


def _finite(pairs: Eigenpairs) -> bool:
    return bool(pairs.values.isfinite().all())


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(values))


def _dots(a: Tensor, b: Tensor) -> np.ndarray:
    """Inner products of the rows of a and of b, float64.

    In float32, matrix products sum along P with an error of 1e-4 at P = 1e6, which is what
    the eigenvalues would then be off by. So they sum over pieces, float64 over the rest.
    """
    if a.shape[1] <= PIECE:
        return (a.double() @ b.double().T).numpy(force=True)
    whole = a.shape[1] // PIECE * PIECE
    pieces = [x[:, :whole].unflatten(1, (-1, PIECE)).transpose(0, 1) for x in (a, b)]
    sums = torch.bmm(pieces[0], pieces[1].mT).sum(0, dtype=torch.float64)
    return (sums + a[:, whole:].double() @ b[:, whole:].double().T).cpu().numpy()


def _elsewhere(basis: Tensor) -> Tensor:
    """A random unit vector [1, P] that is orthogonal to a basis (rows)."""
    generator = torch.Generator().manual_seed(len(basis))
    row = torch.randn(1, basis.shape[1], generator=generator).to(basis)
    for _ in range(2):
        row = row - row @ basis.T @ basis
        row = row / row.norm()
    return row


def _nothing(start: Tensor, k: int, used: int) -> Eigenpairs:
    """The answer for an operator that is not finite."""
    nan = torch.full((k,), torch.nan, dtype=torch.float64)
    vectors = start.new_full((len(start), k), torch.nan)
    return Eigenpairs(nan, nan, nan, nan[:0], vectors, vectors[:, :0], used)

"""common.curvature: against dense float64 eigenvalues, on matrices, nets and a real run."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch.autograd.functional import hessian

from common.curvature import Curvature, top_eigenpairs, warm_start
from common.objective import LOSSES, Objective, Problem
from common.optimizers import GradientDescent

F64 = torch.float64


def matrix(values, seed: int = 0) -> torch.Tensor:
    """A symmetric matrix with these eigenvalues and random eigenvectors."""
    values = torch.as_tensor(values, dtype=F64)
    generator = torch.Generator().manual_seed(seed)
    n = len(values)
    Q = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=F64))[0]
    H = Q @ torch.diag(values) @ Q.T
    return (H + H.T) / 2


def bowl(H: torch.Tensor) -> Objective:
    return Objective(lambda w: w @ H @ w / 2)


def solve(H: torch.Tensor, k: int, tolerance: float = 1e-5, **options):
    start = warm_start(len(H), k, like=H)
    return top_eigenpairs(lambda v: H @ v, start, k, tolerance, **options)


def true_residuals(H: torch.Tensor, pairs) -> torch.Tensor:
    """norm(H u - lambda u) in float64."""
    U = pairs.vectors.double()
    return (H.double() @ U - U * pairs.values).norm(dim=0)


BULK = np.linspace(-0.4, 0.6, 140)
SPECTRA = {
    "positive definite": np.geomspace(1e-3, 5, 150),
    "negative definite": -np.geomspace(1e-3, 5, 150),
    "mixed signs": np.linspace(-3, 2, 150),
    "mostly negative": np.append(np.linspace(-9, -8, 147), [0.5, 1, 2]),
    "clustered": np.append(BULK, 1 - 1e-6 * np.arange(5)),
    "repeated": np.append(BULK, [1, 1, 1, 1, 0.9]),
    "identity": np.ones(30),
    "negative identity": -np.ones(30),
    "rank one": np.append(np.zeros(50), 4),
    "zero": np.zeros(30),
    "one parameter": np.array([-3.0]),
    "two parameters": np.array([-1.0, 2.0]),
    "tiny scale": 1e-12 * np.linspace(-3, 2, 60),
    "large scale": 1e12 * np.linspace(-3, 2, 60),
}


# from a cold start the estimate of an error rests on the next Ritz value, which says little
# where the wanted eigenvalues end within a narrow band
NARROW = ("clustered", "negative definite", "mostly negative")


# ---------------------------------------------------------------- against dense truth


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("tolerance", [1e-5, 1e-10])
@pytest.mark.parametrize("name", SPECTRA)
def test_eigenpairs_of_a_matrix(name, tolerance, k):
    H = matrix(SPECTRA[name])
    truth, _ = torch.linalg.eigh(H)
    norm = truth.abs().max()
    pairs = solve(H, k, tolerance)

    count = min(k, len(H))
    assert pairs.values.shape == pairs.residuals.shape == (count,)
    assert pairs.vectors.shape == (len(H), count)
    error = (pairs.values - truth.flip(0)[:count]).abs()
    bound = 1e-4 if name in NARROW else tolerance + 1e-13
    assert (error <= bound * norm).all()
    assert (pairs.values.diff() <= 0).all()
    # orthonormal, repeated eigenvalues or not
    gram = pairs.vectors.T @ pairs.vectors
    torch.testing.assert_close(gram, torch.eye(count, dtype=F64), rtol=0, atol=1e-11)
    # the residuals are true (their squares to rounding) and relative to at most the norm
    assert (pairs.errors <= tolerance + 1e-7 * (tolerance < 1e-7)).all()
    assert (true_residuals(H, pairs) <= (pairs.residuals + 1e-7) * norm).all()


@pytest.mark.parametrize("name", ["positive definite", "clustered", "repeated"])
def test_residuals_are_relative_to_the_largest_eigenvalue(name):
    # no eigenvalue is larger in size than the top one, so the scale is known exactly
    H = matrix(SPECTRA[name])
    pairs = solve(H, 2)
    expected = true_residuals(H, pairs) / pairs.values[0]
    assert (expected > 1e-4).any()  # not converged so far that rounding decides
    torch.testing.assert_close(pairs.residuals, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype, rounding", [(F64, 1e-12), (torch.float32, 1e-5)])
def test_precision_of_the_parameters(dtype, rounding):
    H = matrix(SPECTRA["mixed signs"]).to(dtype)
    truth = torch.linalg.eigvalsh(H.double())
    pairs = solve(H, 3, 1e-6)
    assert pairs.vectors.dtype == dtype and pairs.values.dtype == F64
    gram = (pairs.vectors.T @ pairs.vectors).to(F64)
    torch.testing.assert_close(gram, torch.eye(3, dtype=F64), rtol=0, atol=rounding)
    assert ((pairs.values - truth.flip(0)[:3]).abs() <= (1e-6 + rounding) * 3).all()


def test_precision_with_a_million_parameters():
    # sums of a million float32 numbers, one after the other, are off by 1e-4
    generator = torch.Generator().manual_seed(0)
    U = torch.randn(1_000_000, 2, generator=generator, dtype=F64)
    U = torch.linalg.qr(U)[0]
    values = torch.tensor([1.0, 0.7], dtype=F64)

    def product(v):
        return (U @ (values * (U.T @ v.double()))).float()

    start = U[:, :1].float() + 0.5 * warm_start(len(U), 1)
    pairs = top_eigenpairs(product, start, 1, 1e-6)
    assert abs(float(pairs.values[0]) - 1) <= 1e-6


def test_more_pairs_than_parameters():
    for n in (1, 2, 5):
        H = matrix(np.arange(1.0, n + 1))
        pairs = solve(H, k=7)
        expected = torch.arange(n, 0, -1, dtype=F64)
        torch.testing.assert_close(pairs.values, expected, rtol=1e-13, atol=0)
        assert pairs.products == n and pairs.runner_up == -torch.inf


def test_the_runner_up_is_a_lower_bound_of_the_next_eigenvalue():
    H = matrix(SPECTRA["mixed signs"])
    truth = torch.linalg.eigvalsh(H).flip(0)
    for k in (1, 3):
        pairs = solve(H, k)
        assert truth[k] - 0.5 < pairs.runner_up <= truth[k] + 1e-13
        assert pairs.runners_up.shape[0] == len(H)
        overlap = pairs.vectors.T @ pairs.runners_up
        assert overlap.abs().max() < 1e-12


def test_a_start_inside_an_invariant_subspace_is_left_at_random():
    # one exact eigenvector, two wanted: its residual is zero and points nowhere
    H = torch.diag(torch.linspace(0, 3, 40, dtype=F64))
    pairs = top_eigenpairs(lambda v: H @ v, torch.eye(40, dtype=F64)[:, -1:], k=2)
    expected = torch.linspace(0, 3, 40, dtype=F64)[[39, 38]]
    assert ((pairs.values - expected).abs() <= 1e-5 * 3).all()


def test_the_limit_is_kept():
    H = matrix(SPECTRA["mixed signs"])
    pairs = solve(H, 1, tolerance=1e-14, limit=20)
    assert pairs.products == 20
    assert pairs.errors[0] > 1e-14  # and it says that it has not converged
    norm = torch.linalg.eigvalsh(H).abs().max()
    assert true_residuals(H, pairs)[0] <= pairs.residuals[0] * norm


@pytest.mark.parametrize("loss", LOSSES)
def test_eigenpairs_of_a_network(loss):
    problem = Problem(
        n=12, classes=3, size=2, model="fully_connected", loss=loss, dtype="float64"
    )
    objective, w = replace(problem, options={"width": (6,)}).build(0)
    H = hessian(objective.loss, w)
    truth = torch.linalg.eigvalsh(H).flip(0)
    curvature = Curvature(k=3, tolerance=1e-6)
    pairs = curvature(objective.at(w, curvature=True))
    assert ((pairs.values - truth[:3]).abs() <= 1e-6 * truth.abs().max()).all()
    bound = (pairs.residuals + 1e-7) * truth.abs().max()
    assert (true_residuals(H, pairs) <= bound).all()


# ---------------------------------------------------------------- preconditioner


def test_preconditioned_eigenvalues_are_those_of_the_product_of_matrices():
    H = matrix(SPECTRA["mixed signs"])
    generator = torch.Generator().manual_seed(1)
    inverse_root = 0.3 + torch.rand(len(H), generator=generator, dtype=F64)
    truth = np.linalg.eigvals(torch.diag(inverse_root**2).numpy() @ H.numpy())
    assert abs(truth.imag).max() < 1e-10  # similar to a symmetric matrix
    truth = np.sort(truth.real)[::-1]
    curvature = Curvature(k=2, tolerance=1e-6)
    pairs = curvature(bowl(H).at(torch.zeros(len(H), dtype=F64)), inverse_root)
    assert abs(pairs.values.numpy() - truth[:2]).max() <= 1e-6 * abs(truth).max()


# ---------------------------------------------------------------- along a path


def counted_at(H: torch.Tensor, calls: list):
    """A point whose Hessian is H; the list grows with every product."""
    point = bowl(H).at(torch.zeros(len(H), dtype=H.dtype))
    product = point.hessian_product

    def counted(v):
        calls.append(1)
        return product(v)

    point.hessian_product = counted
    return point


def test_products_are_counted():
    calls, curvature = [], Curvature(k=2)
    H = matrix(SPECTRA["clustered"])
    for measurement in range(1, 4):
        pairs = curvature(counted_at(H, calls))
        assert curvature.products == len(calls)
        assert curvature.measurements == measurement
        assert curvature.last is pairs


@pytest.mark.parametrize("k", [1, 3])
def test_a_warm_start_needs_fewer_products(k):
    H, change = matrix(SPECTRA["mixed signs"]), matrix(SPECTRA["mixed signs"], seed=1)
    curvature = Curvature(k)
    cold = curvature(bowl(H).at(torch.zeros(len(H), dtype=F64))).products
    moved = H + 1e-3 * change
    warm = curvature(bowl(moved).at(torch.zeros(len(H), dtype=F64))).products
    again = Curvature(k)(bowl(moved).at(torch.zeros(len(H), dtype=F64))).products
    assert warm < cold and warm < again


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("begin, end, steps", [(0, 1, 10), (0, 1, 100), (0.45, 0.6, 150)])
@pytest.mark.parametrize("below", [0.0, 0.8])
def test_crossing_eigenvalues_are_followed(below, begin, end, steps, k):
    # Two directions that do not interact: the old eigenvector stays exact for ever, so
    # only a start that is not quite the last solution notices the new one.
    n = 250
    bulk = torch.linspace(-0.3, below, n, dtype=F64)
    curvature, worst = Curvature(k), 0.0
    for time in torch.linspace(begin, end, steps, dtype=F64):
        values = bulk.clone()
        values[7], values[100] = 1.2 - 0.2 * time, 0.9 + 0.4 * time  # equal at 0.5
        point = bowl(torch.diag(values)).at(torch.zeros(n, dtype=F64))
        truth = values.sort(descending=True).values[:k]
        errors = (curvature(point).values - truth).abs() / truth
        worst = max(worst, float(errors.max()))
    assert worst <= 1e-3


def test_a_direction_that_was_not_there_before():
    # the gradient of the new direction is zero until it appears, already on top
    n = 250
    curvature = Curvature()
    for top in (0.0, 0.0, 2.0):
        values = torch.linspace(-0.3, 1, n, dtype=F64)
        values[7] = top
        pairs = curvature(bowl(torch.diag(values)).at(torch.zeros(n, dtype=F64)))
        assert abs(float(pairs.values[0]) / float(values.max()) - 1) <= 1e-3


def test_directions_made_of_rounding_errors_are_left_out():
    # a cold start in float32: two residuals, one all but in the span of the other, once
    # made a pair of 7.5 where the largest eigenvalue is 3.95
    width = {"width": (64, 64, 64)}
    problem = Problem("fashion_mnist", 200, 10, 14, "fully_connected", width)
    objective, w = problem.build(4)
    point = objective.at(w, curvature=True)

    def product(v):
        return point.hessian_product(torch.from_numpy(v.ravel()).float()).double().numpy()

    operator = LinearOperator((len(w),) * 2, matvec=product, dtype=np.float64)
    exact = eigsh(operator, k=1, which="LA", tol=1e-6)[0][0]
    assert float(Curvature()(point).values[0]) == pytest.approx(exact, rel=1e-5)


def test_determinism():
    def values(seed):
        torch.manual_seed(seed)  # must not matter
        curvature = Curvature(k=2)
        results = [
            curvature(bowl(matrix(SPECTRA["mixed signs"], s)).at(torch.zeros(150).double()))
            for s in (0, 1, 1)
        ]
        return [part for r in results for part in (r.values, r.vectors, r.residuals)]

    with torch.random.fork_rng():
        first, second = values(1), values(2)
        state = torch.get_rng_state()
        Curvature()(bowl(matrix(BULK)).at(torch.zeros(140, dtype=F64)))
        assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# ---------------------------------------------------------------- diverged runs


def assert_nothing(pairs, k: int):
    assert pairs.values.shape == pairs.residuals.shape == (k,)
    assert pairs.values.isnan().all() and pairs.residuals.isnan().all()


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_an_operator_that_is_not_finite_gives_nan(bad, k):
    H = torch.eye(20)
    H[3, 3] = bad
    assert_nothing(solve(H, k), k)


@pytest.mark.parametrize("k", [1, 2])
def test_a_product_that_overflows_gives_nan(k):
    # each product is finite in float32, the curvature v^T H v is not: 3e38 x sqrt(20)
    H = torch.full((20, 20), 3e38 / 20**0.5)
    start = torch.ones(20, k) + 1e-3 * warm_start(20, k)
    assert (H @ (start[:, 0] / start[:, 0].norm())).isfinite().all()
    assert_nothing(top_eigenpairs(lambda v: H @ v, start, k), k)


def test_an_overflow_in_one_of_several_columns_gives_nan():
    # the first start vector overflows, the second does not
    H = torch.zeros(20, 20)
    H[0, 0] = torch.inf
    start = torch.eye(20)[:, :2]

    def product(v):
        return torch.where(v == 0, 0, H.diagonal() * v)

    assert_nothing(top_eigenpairs(product, start, k=2), 2)


def test_a_measurement_after_a_diverged_one_starts_afresh():
    curvature, w = Curvature(), torch.zeros(140, dtype=F64)
    H = matrix(BULK)
    assert_nothing(curvature(bowl(H * torch.nan).at(w)), 1)
    assert float(curvature(bowl(H).at(w)).values[0]) == pytest.approx(0.6, rel=1e-3)


def test_a_jump_from_side_to_side_starts_from_the_last_but_one():
    H, other = matrix(SPECTRA["mixed signs"]), matrix(SPECTRA["mixed signs"], seed=1)
    sides, curvature, products = (H, other), Curvature(), []
    for step in range(10):
        point = bowl(sides[step % 2]).at(torch.zeros(len(H), dtype=F64))
        products.append(curvature(point).products)
    # both sides are known by now: as cheap as a point that does not move
    still = Curvature()
    again = [still(bowl(H).at(torch.zeros(len(H), dtype=F64))).products for _ in range(10)]
    assert products[-1] <= again[-1] + 2 < products[1]


def test_a_model_of_the_operator_saves_products_and_its_estimate_holds():
    H = matrix(SPECTRA["mixed signs"])
    moved = H + 0.02 * matrix(SPECTRA["mixed signs"], seed=1)
    known = solve(H, 1)
    start = warm_start(len(H), 1, known, H)
    plain = top_eigenpairs(lambda v: moved @ v, start, 1, 1e-8)
    helped = top_eigenpairs(lambda v: moved @ v, start, 1, 1e-8, model=known)
    truth = torch.linalg.eigvalsh(moved)
    assert helped.products < plain.products
    error = abs(float(helped.values[0] - truth[-1]) / float(truth.abs().max()))
    assert error <= 1e-8


# ---------------------------------------------------------------- a real run


def test_the_sharpness_along_a_run_at_the_edge_of_stability():
    eta = 0.3
    problem = Problem(n=128, size=7, model="fully_connected")
    objective, w = problem.build(0)
    exact, _ = replace(problem, dtype="float64").build(0)
    rule, curvature = GradientDescent(eta), Curvature()
    state, errors, truths = rule.init(w), [], []
    for step in range(151):
        point = objective.at(w, curvature=step % 10 == 0)
        if step % 10 == 0:
            measured = float(curvature(point).values[0])
            dense = exact.at(w.double(), curvature=True)

            def product(v, dense=dense):
                return dense.hessian_product(torch.from_numpy(v).reshape(-1)).numpy()

            operator = LinearOperator((len(w),) * 2, matvec=product, dtype=np.float64)
            rng = np.random.default_rng(0)  # not the tracker's vector: that would be kind
            v0 = rng.standard_normal(len(w))
            (truth,), _ = eigsh(operator, k=1, which="LA", v0=v0, tol=0)
            truths.append(truth)
            errors.append(abs(measured / truth - 1))
        w, state = rule.step(point, state)
    assert 0.95 < max(truths) * eta / 2 < 1.5  # the run does reach the edge
    assert max(errors) <= 1e-3
    assert curvature.products / curvature.measurements <= 10

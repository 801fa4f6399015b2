"""common.diagonal: the closed forms against autograd, finite differences and eigvalsh."""

from itertools import islice

import pytest
import torch
from torch.func import grad, hessian

from common.diagonal import Diagonal, SparseRegression, power_iteration
from common.optimizers import HeavyBall, Warmup
from common.stochastic import Noisy
from common.training import trajectory

SMALL = SparseRegression(n=7, d=5, support=2)
NET = SMALL.build([0, 1, 2])
W = torch.randn(3, 4, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
V = torch.randn(3, 4, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
EXACT = {"rtol": 1e-12, "atol": 1e-10}  # float64: some hundred roundings of numbers ~ 100


def each(function) -> torch.Tensor:
    """A function of (run, setting), for each of them [3, 4, ...]."""
    return torch.stack([torch.stack([function(r, k) for k in range(4)]) for r in range(3)])


def exact_hessians(net: Diagonal, w: torch.Tensor) -> torch.Tensor:
    """By automatic differentiation [R, K, P, P]."""
    rows = [
        [hessian(net.single(r).loss)(w[r, k]) for k in range(w.shape[1])]
        for r in range(len(w))
    ]
    return torch.stack([torch.stack(row) for row in rows])


def test_loss_gradient_and_hessian_products_are_those_of_autograd():
    point = NET.at(W)
    losses = each(lambda r, k: NET.single(r).loss(W[r, k]))
    gradients = each(lambda r, k: grad(NET.single(r).loss)(W[r, k]))
    products = (exact_hessians(NET, W) @ V[..., None])[..., 0]
    torch.testing.assert_close(point.loss, losses, **EXACT)
    torch.testing.assert_close(point.gradient, gradients, **EXACT)
    torch.testing.assert_close(point.hessian_product(V), products, **EXACT)


def test_the_curvature_gradient_is_that_of_autograd_and_of_the_top_eigenvalue():
    def along(r, k):
        return grad(lambda w: V[r, k] @ hessian(NET.single(r).loss)(w) @ V[r, k])(W[r, k])

    torch.testing.assert_close(NET.at(W).curvature_gradient(V), each(along), **EXACT)
    # central differences of lambda_max: the truncation is O(h^2), rounding 1e-16 S / h with
    # S ~ 1e3; at h = 1e-5 both are below 1e-6 of a slope of size ~ 1e2
    tops = torch.linalg.eigh(exact_hessians(NET, W)).eigenvectors[..., -1]
    h, direction = 1e-5, V / V.norm(dim=-1, keepdim=True)
    ends = [
        torch.linalg.eigvalsh(exact_hessians(NET, W + s * direction))[..., -1]
        for s in (h, -h)
    ]
    slope = (NET.at(W).curvature_gradient(tops) * direction).sum(-1)
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / (2 * h), rtol=1e-5, atol=1e-3)


def test_the_population_loss_is_that_of_a_large_sample():
    n = 200_000
    rng = torch.Generator().manual_seed(5)
    x = 5 + 5**0.5 * torch.randn(n, 5, generator=rng, dtype=torch.float64)
    squares = (x @ (NET.theta(W)[0] - NET.truth).T).square() / 2
    # five standard errors of the mean
    assert (
        (squares.mean(0) - NET.test_loss(W)[0]).abs() < 5 * squares.std(0) / n**0.5
    ).all()


def test_the_sharpness_at_the_start_and_of_the_sparse_solution():
    alphas = [0.1, 0.3, 1.0]
    start = torch.linalg.eigvalsh(exact_hessians(NET, NET.start(alphas)))[..., -1]
    torch.testing.assert_close(NET.initial_sharpness(alphas), start, **EXACT)
    sparse = torch.cat([NET.truth.sqrt(), torch.zeros(5, dtype=torch.float64)])
    there = sparse.expand(3, 1, -1)
    # the residual is 0 there: nothing but the Gauss-Newton part is left
    torch.testing.assert_close(
        NET.at(there).loss, torch.zeros(3, 1).double(), atol=1e-20, rtol=0
    )
    tops = torch.linalg.eigvalsh(exact_hessians(NET, there))[:, 0, -1]
    torch.testing.assert_close(NET.sparse_sharpness(), tops, **EXACT)


@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_power_iteration_follows_the_sharpness_through_a_catapult(beta):
    net = SparseRegression().build([0])
    w = net.start([0.3])
    eta = 2 * 2.85 / net.initial_sharpness([0.3])[..., None]
    rule = Noisy(HeavyBall(Warmup(0.03 * eta, eta, 400), beta), 1e-6, (0,))
    ways = {"every step": (1, 3), "rarely": (20, 10)}  # steps between, products
    start = torch.randn(1, 1, 200, generator=torch.Generator().manual_seed(0)).double()
    tops, errors = dict.fromkeys(ways, start), {name: [] for name in ways}
    eye, losses = torch.eye(200, dtype=torch.float64)[None], []
    for step in islice(trajectory(net, rule, w), 601):
        t, point = step.index, step.point
        losses.append(point.loss.item())
        for name, (every, products) in ways.items():
            if t % every == 0:
                many = products if t else 50
                value, tops[name] = power_iteration(point.hessian_product, tops[name], many)
                if t % 4 == 0:
                    H = net.at(point.w.expand(1, 200, 200)).hessian_product(eye)[0]
                    exact = torch.linalg.eigvalsh(H)[-1].item()
                    errors[name].append(abs(value.item() / exact - 1))
    late = losses[100:]
    assert max(late) > 1e3 * min(late[: late.index(max(late))])  # a catapult it was
    # each product multiplies the error by (lambda_2 / lambda_1)^2: 0.01 on most of the way,
    # more while w jumps about in the blow-up
    assert max(errors["every step"]) < 1e-2
    assert torch.tensor(errors["every step"]).median() < 1e-9
    assert max(errors["rarely"]) < 1e-6


def test_a_batch_is_a_network_on_those_samples():
    rows = torch.tensor([[0, 3], [1, 2], [6, 5]])
    batch = NET.batch(rows)
    for r in range(3):
        assert torch.equal(batch.X[r], NET.X[r][rows[r]])
        assert torch.equal(batch.y[r], NET.y[r][rows[r]])


def test_the_data_of_a_seed_do_not_depend_on_the_others():
    assert torch.equal(SMALL.build([2]).X[0], NET.X[2])
    assert (NET.X.mean() - 5).abs() < 5 * (5 / NET.X.numel()) ** 0.5
    assert NET.truth.norm() == pytest.approx(1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SparseRegression(n=0), "positive"),
        (lambda: SparseRegression(variance=-1.0), "positive"),
        (lambda: SparseRegression(d=3, support=4), "support 4 is larger"),
        (lambda: NET.start([0.3, 0.0]), "alpha must be positive"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()

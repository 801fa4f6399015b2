"""common.agop: AGOPs against autograd and closed forms, and how fast samples get there."""

import numpy as np
import pytest
import torch
from torch.func import jacrev, vmap

from common.agop import RANK_2, RANK_4, Alignment, Polynomial, agop, alignment
from common.data import Images
from common.objective import network
from common.optimizers import GradientDescent
from common.training import train
from common.wide import wide_convolutional, wide_fully_connected, wide_transformer

EXACT = {"rtol": 1e-11, "atol": 1e-12}  # float64: sums of at most a thousand products


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def images(n: int, outputs: int, size: int = 4) -> Images:
    zeros = torch.zeros(n, dtype=torch.int64)
    return Images(normal(n, 1, size, size), zeros, (), normal(n, outputs, seed=1))


# ---------------------------------------------------------------- G


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("chunk", [1, 3, 1024])
@pytest.mark.parametrize(
    "make, options",
    [
        (wide_fully_connected, {"width": (7, 5)}),
        (wide_convolutional, {"channels": 3}),
        (wide_transformer, {"patch": 2, "dim": 4, "heads": 2, "blocks": 1}),
    ],
)
def test_agop_equals_its_definition_by_jacobians(make, options, chunk, outputs):
    model = make((1, 4, 4), outputs, **options)
    objective, w = network(model, images(7, outputs), "mse")

    def one(x: torch.Tensor) -> torch.Tensor:
        return objective.function(w, x[None])[0]

    J = vmap(jacrev(one))(objective.inputs).flatten(2)  # [n, C, d]
    expected = torch.einsum("nci,ncj->ij", J, J) / 7
    G = agop(lambda x: objective.function(w, x), objective.inputs, chunk)
    torch.testing.assert_close(G, expected, **EXACT)
    assert not G.requires_grad


def test_agop_of_linear_and_constant_functions():
    A = normal(3, 5)
    torch.testing.assert_close(agop(lambda x: x @ A.T, normal(4, 5)), A.T @ A, **EXACT)
    assert not agop(lambda x: 0 * x[:, 0], normal(4, 5)).any()
    both = agop(lambda x: torch.stack([x[:, 1], A.new_ones(len(x))], 1), normal(4, 5))
    assert both.diagonal().tolist() == [0, 1, 0, 0, 0]


@pytest.mark.parametrize("n, chunk", [(0, 5), (3, 0)])
def test_agop_of_nothing_is_refused(n, chunk):
    with pytest.raises(ValueError, match="nothing to average"):
        agop(lambda x: x[:, 0], normal(n, 2), chunk)


def test_the_probe_measures_alignment_where_it_is_told():
    objective, w = network(wide_fully_connected((1, 4, 4), 1, (5,)), images(6, 1), "mse")
    x, G_true = normal(9, 1, 4, 4, seed=2), RANK_2.agop(16)
    probes = [Alignment(G_true, x, every=2)]
    table, last = train(objective, GradientDescent(0.1), w, 4, probes)
    assert table.alignment.isna().tolist() == [False, True, False, True, False]
    expected = alignment(agop(lambda x: objective.function(last, x), x), G_true)
    assert table.alignment.iloc[-1] == pytest.approx(expected)
    row = Alignment(G_true)
    table, _ = train(objective, GradientDescent(0.1), w, 1, [row])
    expected = agop(lambda x: objective.function(w, x), objective.inputs)
    assert table.alignment[0] == pytest.approx(alignment(expected, G_true))


# ---------------------------------------------------------------- alignment


def test_alignment_is_a_cosine():
    G, H = normal(5, 5), normal(5, 5, seed=1)
    expected = float((G * H).sum() / (G * G).sum().sqrt() / (H * H).sum().sqrt())
    assert alignment(G, H) == pytest.approx(expected, rel=1e-12)
    assert alignment(3 * G, 2 * G.float()) == pytest.approx(1, abs=1e-6)
    assert alignment(torch.eye(100), RANK_2.agop(100)) == pytest.approx(0.02**0.5)
    assert np.isnan(alignment(G * np.nan, H)) and np.isnan(alignment(0 * G, H))


# ---------------------------------------------------------------- targets


def test_targets_of_the_paper():
    x = normal(6, 1, 2, 3)
    a, b, c, d = x.flatten(1).T[:4]
    torch.testing.assert_close(RANK_2(x), a * b)
    torch.testing.assert_close(RANK_4(x), a + a * b + a * b * c + a * b * c * d)
    for target, diagonal in ((RANK_2, (1, 1, 0, 0, 0)), (RANK_4, (4, 3, 2, 1, 0))):
        assert torch.equal(target.agop(5), torch.diag(torch.tensor(diagonal)).double())


@pytest.mark.parametrize(
    "terms",
    [
        {(0, 1): 1.0},
        {(0,): 1.0, (0, 1): 1.0, (0, 1, 2): 1.0, (0, 1, 2, 3): 1.0},
        {
            (): 5.0,
            (2,): -1.0,
            (0, 0): 0.5,
            (1, 1, 1): 2.0,
            (0, 2, 2): 1.5,
            (3, 0, 0, 3): 0.3,
        },
    ],
)
def test_the_closed_form_equals_exact_quadrature(terms):
    """Six Gauss-Hermite nodes an axis integrate degree 11; squared gradients have 6."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(6)
    grid = torch.tensor(np.stack(np.meshgrid(*[nodes] * 4), -1).reshape(-1, 4))
    mass = np.stack(np.meshgrid(*[weights / weights.sum()] * 4), -1).reshape(-1, 4)
    target = Polynomial(terms)
    gradient = torch.func.grad(lambda x: target(x).sum())(grid)
    expected = torch.einsum("ni,nj,n->ij", gradient, gradient, torch.tensor(mass).prod(1))
    torch.testing.assert_close(target.agop(4), expected, **EXACT)


def test_a_polynomial_of_more_variables_than_there_are_is_refused():
    with pytest.raises(ValueError, match="a polynomial of x_4 needs more than 3 inputs"):
        RANK_4.agop(3)
    assert not Polynomial({(): 2.0}).agop(3).any()


def test_the_sample_agop_of_rank_two_has_the_rate_and_the_constant_of_theory():
    """E |G_n - G|^2 = 6 / n, so that log |G_n - G| falls as -1/2 log n.

    The deviations are the means of x_1^2 - 1, x_2^2 - 1 (variance 2) and, twice,
    x_1 x_2 (variance 1): n |G_n - G|^2 -> 2 chi^2_3, with mean 6 and standard deviation
    s = 24^(1/2). Over R = 64 draws the mean of n |G_n - G|^2 / 6 has the error
    e = s / 6 / R^(1/2) = 0.10, its log half is the log of the norm, with error e / 2; the
    slope over three sizes, log n at -h, 0 and h, has the error e / 2 / (2^(1/2) h).
    Both are held to 4 errors.
    """
    sizes, draws = [100, 400, 1600], 64
    G = RANK_2.agop(3)
    squares = []
    for n in sizes:
        x = normal(draws, n, 3, seed=n)
        norms = [(agop(RANK_2, part, chunk=2000) - G).norm() for part in x]
        squares.append(np.square(norms).mean())
    error = 24**0.5 / 6 / draws**0.5
    np.testing.assert_allclose(np.multiply(sizes, squares), 6, rtol=4 * error)
    h = np.log(sizes[1] / sizes[0])
    slope = np.polyfit(np.log(sizes), np.log(squares) / 2, 1)[0]
    assert slope == pytest.approx(-0.5, abs=4 * error / 2 / (2**0.5 * h))

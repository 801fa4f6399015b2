"""common.tasks: the targets, their moments, and that seeds and dtypes do what they say."""

from functools import partial

import pytest
import torch

from common.objective import Problem
from common.tasks import rank_four, rank_two


def test_the_target_is_the_product_of_the_first_two_inputs():
    task = rank_two(n=50, d=7, seed=3)
    assert task.x.shape == (50, 7, 1, 1) and task.targets.shape == (50, 1)
    assert task.classes == ()
    torch.testing.assert_close(task.targets[:, 0], task.x[:, 0, 0, 0] * task.x[:, 1, 0, 0])


def test_inputs_are_standard_normal():
    x = rank_two(n=20_000, d=4).x.flatten(1).double()
    # the standard errors of means and covariances are at most sqrt(2 / n) = 0.01
    torch.testing.assert_close(x.mean(0), torch.zeros_like(x[0]), rtol=0, atol=0.04)
    torch.testing.assert_close(x.T.cov(), torch.eye(4).double(), rtol=0, atol=0.04)


def test_the_target_matrix_has_rank_two():
    task = rank_two(n=100, d=5, dtype=torch.float64)
    x, y = task.x.flatten(1), task.targets[:, 0]
    rows, columns = torch.triu_indices(5, 5)
    found = torch.linalg.lstsq(x[:, rows] * x[:, columns], y[:, None]).solution[:, 0]
    matrix = torch.zeros(5, 5, dtype=torch.float64)
    matrix[rows, columns] = found
    values = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    expected = torch.tensor([-0.5, 0, 0, 0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-12)


def test_the_seed_decides_and_the_dtype_only_rounds():
    task = rank_two(n=10, d=3, seed=1)
    assert torch.equal(task.x, rank_two(n=10, d=3, seed=1).x)
    assert not torch.equal(task.x, rank_two(n=10, d=3, seed=2).x)
    exact = rank_two(n=10, d=3, seed=1, dtype=torch.float64)
    assert torch.equal(task.x, exact.x.float())
    assert torch.equal(task.targets, exact.targets.float())


def test_a_problem_takes_it():
    problem = Problem(partial(rank_two, 10, 4), model="fully_connected")
    objective, w = problem.build(seed=0)
    expected = (objective.outputs(w) - rank_two(10, 4).targets).square().mean() / 2
    assert objective.labels is None
    assert objective.at(w).loss == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("bad", [{"n": 0}, {"d": 1}])
def test_sizes_that_are_too_small_are_refused(bad):
    with pytest.raises(ValueError, match="n >= 1 and d >= 2"):
        rank_two(**bad)


def test_rank_four_is_the_sum_of_the_paper():
    task = rank_four(n=20, d=6, seed=2, dtype=torch.float64)
    a, b, c, d = task.x.flatten(1)[:, :4].T
    expected = a + a * b + a * b * c + a * b * c * d
    torch.testing.assert_close(task.targets[:, 0], expected, rtol=1e-14, atol=1e-14)


def test_rank_four_needs_four_inputs():
    with pytest.raises(ValueError, match="d >= 4"):
        rank_four(n=3, d=3)

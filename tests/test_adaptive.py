"""common.adaptive: against torch.optim, and thresholds against simulated quadratics."""

import pytest
import torch
from test_optimizers import BOWL, START, assert_same, path

from common.adaptive import Adam, Moments, Preconditioned, RMSProp
from common.objective import Objective


def torch_path(make, steps: int) -> torch.Tensor:
    """The iterates of an optimizer of torch.optim."""
    w = START.clone().requires_grad_()
    optimizer, visited = make([w]), []
    for _ in range(steps):
        optimizer.zero_grad()
        BOWL.loss(w).backward()
        optimizer.step()
        visited.append(w.detach().clone())
    return torch.stack(visited)


@pytest.mark.parametrize("beta2", [0.0, 0.9, 0.99])
def test_rmsprop_is_torch_rmsprop(beta2):
    theirs = torch_path(
        lambda w: torch.optim.RMSprop(w, lr=0.02, alpha=beta2, eps=1e-4), 20
    )
    assert_same(path(RMSProp(0.02, beta2, eps=1e-4), 20), theirs)


@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.5, 0.999), (0.0, 0.9)])
def test_adam_with_bias_correction_is_torch_adam(betas):
    ours = path(Adam(0.02, *betas, eps=1e-4, bias_correction=True), 20)
    assert_same(ours, torch_path(lambda w: torch.optim.Adam(w, 0.02, betas, eps=1e-4), 20))


def test_adam_without_bias_correction_is_the_formula():
    expected, w, m, nu = [], START, 0 * START, 0 * START
    for _ in range(20):
        g = BOWL.at(w).gradient
        m, nu = 0.9 * m + 0.1 * g, 0.99 * nu + 0.01 * g**2
        w = w - 0.02 * m / (nu.sqrt() + 1e-8)
        expected.append(w)
    assert_same(path(Adam(0.02, 0.9, 0.99), 20), torch.stack(expected))


@pytest.mark.parametrize("bias_correction", [False, True])
def test_the_preconditioner_is_what_the_step_divides_by(bias_correction):
    rule = Adam(0.02, 0.8, 0.9, eps=1e-3, bias_correction=bias_correction)
    w, state = START, rule.init(START)
    for _ in range(3):
        after, state = rule.step(BOWL.at(w), state)
        assert_same(w - after, 0.02 * state.m / rule.preconditioner(state))
        w = after


def test_the_schedule_sees_the_steps_from_zero_on():
    seen = []
    rule = RMSProp(lambda step: seen.append(step) or 0.01)
    path(rule, 3)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9, 0.99])
def test_the_threshold_separates_convergence_from_divergence(beta1):
    P = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
    rule = Preconditioned(0.1, P, beta1)
    # the largest eigenvalue of P^-1 H decides, not that of H: it sits where P is small
    for share, grows in ((0.99, False), (1.01, True)):
        top = share * rule.max_stable_sharpness(0)
        curvatures = torch.stack([top * P[0], P[1], 2 * top * P[0]])
        assert curvatures[2] / P[2] < top / 5
        bowl = Objective(lambda w, c=curvatures: (c * w.square()).sum() / 2)
        late = path(rule, 4000, bowl)[:, 0].abs()
        settles = late[-500:].max() < late[:500].max()  # False also for nan
        assert bool(settles) == (not grows)


def test_adam_with_a_frozen_second_moment_is_preconditioned_descent():
    nu = torch.tensor([0.04, 1.0, 9.0], dtype=torch.float64)
    frozen = Adam(0.1, 0.9, beta2=0.0, eps=0.0)
    P = frozen.preconditioner(Moments(1, nu, nu))
    torch.testing.assert_close(P, nu.sqrt())
    rule = Preconditioned(0.1, P, 0.9)
    assert rule.max_stable_sharpness(0) == frozen.max_stable_sharpness(0)
    assert rule.preconditioner(rule.init(START)) is P


@pytest.mark.parametrize(
    "bad, words",
    [
        (lambda: Adam(0.0), "eta must be positive, not 0.0"),
        (lambda: Adam(0.1, beta1=1.0), r"beta1 must lie in \[0, 1\), not 1.0"),
        (lambda: RMSProp(0.1, beta2=-0.1), r"beta2 must lie in \[0, 1\), not -0.1"),
        (lambda: Adam(0.1, eps=-1.0), "eps must not be negative"),
        (lambda: Preconditioned(0.1, torch.tensor([1.0, 0.0])), "must be positive"),
        (lambda: Preconditioned(-1.0, torch.ones(2)), "eta must be positive"),
    ],
)
def test_bad_hyperparameters_are_refused(bad, words):
    with pytest.raises(ValueError, match=words):
        bad()

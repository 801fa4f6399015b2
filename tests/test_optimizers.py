"""common.optimizers: against torch.optim, and thresholds against simulated quadratics."""

import pytest
import torch

from common.objective import Objective
from common.optimizers import (
    GradientDescent,
    HeavyBall,
    NormalizedGradientDescent,
    Repeated,
    StepDrop,
    Warmup,
)

START = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)
BOWL = Objective(lambda w: (w**4).sum() / 4 + (w * w.roll(1, -1)).sum() + w.square().sum())
DROP = StepDrop(0.05, 0.02, at=8)


def path(rule, steps: int, objective=BOWL, w=START) -> torch.Tensor:
    """All iterates [steps, P]."""
    state, visited = rule.init(w), []
    for _ in range(steps):
        w, state = rule.step(objective.at(w), state)
        visited.append(w)
    return torch.stack(visited)


def torch_path(steps: int, eta=lambda step: 0.05, beta: float = 0.0) -> torch.Tensor:
    """The iterates of torch.optim.SGD."""
    w = START.clone().requires_grad_()
    sgd, visited = torch.optim.SGD([w], lr=1.0, momentum=beta), []
    for step in range(steps):
        sgd.param_groups[0]["lr"] = eta(step)
        sgd.zero_grad()
        BOWL.loss(w).backward()
        sgd.step()
        visited.append(w.detach().clone())
    return torch.stack(visited)


def assert_same(a: torch.Tensor, b: torch.Tensor):
    """Equal up to the roundings of some twenty float64 steps."""
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


WARMUP = Warmup(0.01, 0.05, steps=10, hold=4)


@pytest.mark.parametrize("eta", [0.05, DROP, WARMUP])
def test_gradient_descent_is_sgd(eta):
    schedule = eta if callable(eta) else lambda step: eta
    assert_same(path(GradientDescent(eta), 20), torch_path(20, schedule))


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_heavy_ball_is_sgd_with_momentum_at_constant_eta(beta):
    assert_same(path(HeavyBall(0.05, beta), 20), torch_path(20, beta=beta))


def test_heavy_ball_is_not_sgd_with_momentum_under_a_schedule():
    ours, theirs = path(HeavyBall(DROP, 0.9), 20), torch_path(20, DROP, beta=0.9)
    assert_same(ours[:8], theirs[:8])  # the same until the step size drops ...
    # ... there PyTorch rescales the whole velocity, Polyak's rule the gradient only
    assert (ours[8] - theirs[8]).norm() > 0.1 * (ours[8] - ours[7]).norm()


def test_warmup_tells_polyak_from_pytorch_at_its_first_growing_step():
    ours = path(HeavyBall(WARMUP, 0.9), 20)
    theirs = torch_path(20, WARMUP, beta=0.9)
    assert_same(ours[:5], theirs[:5])  # constant up to step 4, where eta still is eta_i
    assert (ours[5] - theirs[5]).norm() > 1e-2 * (ours[5] - ours[4]).norm()


def test_warmup_is_linear_between_two_constants_and_makes_the_threshold_fall():
    etas = [WARMUP(step) for step in range(20)]
    assert etas[:5] == [0.01] * 5 and etas[14:] == [0.05] * 6
    rises = torch.tensor(etas[4:15]).diff()
    torch.testing.assert_close(rises, torch.full((10,), 0.004))
    mss = [HeavyBall(WARMUP, 0.9).max_stable_sharpness(t) for t in range(4, 15)]
    assert mss == sorted(mss, reverse=True) and mss[-1] == pytest.approx(3.8 / 0.05)


def test_a_column_of_step_sizes_serves_a_batch_of_runs():
    column = torch.tensor([[0.01], [0.03]], dtype=torch.float64)
    many = path(HeavyBall(Warmup(column, 2 * column, 5), 0.9), 8, w=START.expand(2, -1))
    for row, eta in enumerate((0.01, 0.03)):
        assert_same(many[:, row], path(HeavyBall(Warmup(eta, 2 * eta, 5), 0.9), 8))


@pytest.mark.parametrize(
    "bad", [(0.0, 1.0, 5), (0.1, -1.0, 5), (0.1, 1.0, 0), (1, 1, 5, -1)]
)
def test_a_bad_warmup_is_refused(bad):
    with pytest.raises(ValueError):
        Warmup(*bad)


def test_heavy_ball_is_the_formula_under_a_schedule():
    expected, before, w = [], START, START
    for step in range(20):
        gradient = BOWL.at(w).gradient
        before, w = w, w - DROP(step) * gradient + 0.9 * (w - before)
        expected.append(w)
    assert_same(path(HeavyBall(DROP, 0.9), 20), torch.stack(expected))


@pytest.mark.parametrize(
    "rule",
    [
        GradientDescent(0.1),
        HeavyBall(0.1, 0.0),
        HeavyBall(0.1, 0.3),
        HeavyBall(0.1, 0.9),
        HeavyBall(2.0, 0.5),
        Repeated(GradientDescent(0.01), 3),
        Repeated(HeavyBall(0.1, 0.5), 2),
    ],
)
def test_the_threshold_separates_convergence_from_divergence(rule):
    # 1 % off the threshold, |w| changes by at least 2 % a step: e^6 in 300 steps
    threshold = rule.max_stable_sharpness(step=0)
    curvature = threshold * torch.tensor([0.99, 1.01], dtype=torch.float64)
    objective = Objective(lambda w: (curvature * w.square()).sum() / 2)
    w = path(rule, 300, objective, torch.ones(2, dtype=torch.float64))
    below, above = w[-1].abs()
    assert below < 0.02
    assert above > 50


def test_a_step_drop_changes_once():
    schedule = StepDrop(0.3, 0.2, at=2)
    assert [schedule(step) for step in range(4)] == [0.3, 0.3, 0.2, 0.2]


def test_the_threshold_follows_the_schedule():
    schedule = StepDrop(0.5, 0.25, at=10)
    for rule, factor in ((GradientDescent(schedule), 2), (HeavyBall(schedule, 0.5), 3)):
        assert rule.max_stable_sharpness(9) == pytest.approx(factor / 0.5)
        assert rule.max_stable_sharpness(10) == pytest.approx(factor / 0.25)
    # three steps count as one: the drop comes during the fourth
    repeated = Repeated(GradientDescent(schedule), 3)
    assert repeated.max_stable_sharpness(3) == pytest.approx(4)
    assert repeated.max_stable_sharpness(4) == pytest.approx(8)


def test_a_schedule_is_any_function_of_the_step():
    decay = path(GradientDescent(lambda step: 0.1 / (1 + step)), 10)
    assert_same(decay, torch_path(10, lambda step: 0.1 / (1 + step)))


@pytest.mark.parametrize("inner", [GradientDescent(0.005), HeavyBall(0.005, 0.8)])
def test_repeated_is_that_many_steps(inner):
    assert_same(path(Repeated(inner, 10), 2), path(inner, 20)[[9, 19]])


def test_repeated_passes_the_schedule_on():
    inner = GradientDescent(StepDrop(0.05, 0.01, at=15))
    assert_same(path(Repeated(inner, 10), 2), path(inner, 20)[[9, 19]])


@pytest.mark.parametrize("bad", [0.0, -0.1, float("nan"), float("-inf")])
def test_a_step_size_that_is_not_positive_is_refused(bad):
    for make in (
        lambda: GradientDescent(bad),
        lambda: HeavyBall(bad, 0.9),
        lambda: StepDrop(bad, 0.1, at=3),
        lambda: StepDrop(0.1, bad, at=3),
    ):
        with pytest.raises(ValueError, match=f"eta must be positive, not {bad}"):
            make()


@pytest.mark.parametrize("bad", [-0.1, 1.0, 1.5, float("nan")])
def test_a_momentum_outside_its_range_is_refused(bad):
    with pytest.raises(ValueError, match=rf"beta must lie in \[0, 1\), not {bad}"):
        HeavyBall(0.1, bad)


@pytest.mark.parametrize("bad", [0, -3])
def test_repeating_less_than_once_is_refused(bad):
    with pytest.raises(ValueError, match=f"times must be at least 1, not {bad}"):
        Repeated(GradientDescent(0.1), bad)


def test_normalized_gradient_descent_takes_steps_of_the_length_eta_along_the_gradient():
    visited = torch.cat([START[None], path(NormalizedGradientDescent(DROP), 20)])
    for step, (w, after) in enumerate(zip(visited, visited[1:], strict=False)):
        w = w.clone().requires_grad_()
        BOWL.loss(w).backward()
        assert_same(after, w.detach() - DROP(step) * w.grad / w.grad.norm())


def test_normalized_gradient_descent_of_many_runs_is_that_of_each():
    starts = torch.stack([START, -2 * START])
    rule, bowl = NormalizedGradientDescent(0.05), Objective(lambda w: (w**4).sum() / 4)
    together = path(rule, 20, bowl, starts)
    for index, start in enumerate(starts):
        assert_same(together[:, index], path(rule, 20, bowl, start))


def test_normalized_gradient_descent_stays_where_the_gradient_is_zero():
    minimum = torch.zeros(3, dtype=torch.float64)
    rule = NormalizedGradientDescent(0.1)
    assert torch.equal(path(rule, 1, BOWL, minimum)[0], minimum)
    assert rule.max_stable_sharpness(0) == 0


def test_normalized_gradient_descent_refuses_a_step_that_is_not_positive():
    with pytest.raises(ValueError, match="positive"):
        NormalizedGradientDescent(0.0)

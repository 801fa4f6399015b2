"""common.stochastic: noise of the stated size, epochs without replacement."""

from itertools import islice

import pytest
import torch

from common.adaptive import Adam
from common.objective import Objective, Problem
from common.optimizers import GradientDescent, HeavyBall, Warmup
from common.stochastic import MiniBatch, Noisy
from common.training import trajectory

FLAT = Objective(lambda w: 0 * w.sum())
PROBLEM = Problem(n=12, classes=2, size=7, model="fully_connected", options={"width": (3,)})


def last(objective, rule, w, steps):
    *_, step = islice(trajectory(objective, rule, w), steps)
    return step.after


def sampled(targets: torch.Tensor) -> Objective:
    """1/2 mean of (w - y)^2, whose gradient at 0 tells which samples were seen."""
    return Objective(
        lambda w: ((w[..., None] - targets) ** 2).mean(-1).sum() / 2,
        batch=lambda rows: sampled(targets[rows]),
    )


def test_noise_is_a_random_walk_of_the_stated_scale():
    walk = last(FLAT, Noisy(GradientDescent(1.0), 0.1, seed=3), torch.zeros(20_000), 25)
    # std of 20,000 samples: relative error 1 / sqrt(40,000) = .5 %, five of them allowed
    assert walk.std() == pytest.approx(0.1 * 25**0.5, rel=0.025)


def test_no_noise_is_the_rule_itself():
    objective, w = PROBLEM.build(0)
    rule = HeavyBall(0.05, 0.9)
    assert torch.equal(last(objective, Noisy(rule, 0.0), w, 5), last(objective, rule, w, 5))


def test_a_run_is_the_same_whatever_runs_beside_it():
    rule = GradientDescent(1.0)
    many = last(FLAT, Noisy(rule, 0.1, seed=(4, 5)), torch.zeros(2, 7), 3)
    alone = last(FLAT, Noisy(rule, 0.1, seed=5), torch.zeros(7), 3)
    assert torch.equal(many[1], alone)
    assert not torch.equal(many[0], many[1])


def test_an_epoch_uses_every_sample_once_and_leaves_out_an_incomplete_batch():
    targets = 2.0 ** torch.arange(7, dtype=torch.float64)  # a sum tells its members
    rule = MiniBatch(GradientDescent(1e-9), size=3, n=7, seed=0)
    steps = islice(trajectory(sampled(targets), rule, torch.zeros(1).double()), 8)
    sums = [3 * (step.after - step.point.w).item() / 1e-9 for step in steps]
    seen = [{i for i in range(7) if round(total) >> i & 1} for total in sums]
    assert all(len(batch) == 3 for batch in seen)
    for first, second in zip(seen[::2], seen[1::2], strict=True):
        assert not first & second
    assert len({frozenset(a | b) for a, b in zip(seen[::2], seen[1::2], strict=True)}) > 1


def test_a_batch_of_all_samples_is_the_rule_itself():
    objective, w = PROBLEM.build(0)
    rule = GradientDescent(0.1)
    full = last(objective, MiniBatch(rule, 12, 12), w, 3)
    torch.testing.assert_close(full, last(objective, rule, w, 3), rtol=1e-5, atol=1e-6)


def test_the_gradient_of_a_network_on_a_batch_is_the_mean_over_its_samples():
    objective, w = PROBLEM.build(0)
    halves = [objective.batch(torch.arange(i, 12, 2)).at(w).gradient for i in (0, 1)]
    full = objective.at(w).gradient
    torch.testing.assert_close(sum(halves) / 2, full, rtol=1e-5, atol=1e-6)


def test_the_rule_shows_through():
    adam = Noisy(MiniBatch(Adam(Warmup(0.01, 0.1, 5)), 4, 12), 1e-3)
    objective, w = PROBLEM.build(0)
    *_, step = islice(trajectory(objective, adam, w), 3)
    assert step.preconditioner.shape == w.shape
    assert adam.max_stable_sharpness(5) == pytest.approx(380)
    assert adam.eta(5) == pytest.approx(0.1)
    assert not hasattr(Noisy(HeavyBall(0.1, 0.9), 1e-3), "preconditioner")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Noisy(GradientDescent(1.0), -1e-9), "noise scale"),
        (lambda: MiniBatch(GradientDescent(1.0), 13, 12), "1 ... 12"),
        (lambda: Noisy(GradientDescent(1.0), 1.0, (0, 1)).init(torch.zeros(5)), "2 seeds"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()

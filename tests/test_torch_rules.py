"""common.torch_rules: the adapter against this repository's own rules."""

import math

import pytest
import torch

from common.adaptive import Adam, RMSProp
from common.objective import Objective
from common.optimizers import GradientDescent, HeavyBall
from common.stochastic import MiniBatch
from common.torch_rules import TorchRule
from common.training import train

CURVATURES = torch.tensor([1.0, 3.0, 10.0], dtype=torch.float64)
START = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
QUARTIC = Objective(lambda w: (CURVATURES * w**2).sum() / 2 + (w**4).sum() / 4)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (GradientDescent(0.05), TorchRule("SGD", 0.05)),
        (HeavyBall(0.02, 0.9), TorchRule("SGD", 0.02, {"momentum": 0.9})),
        (
            Adam(0.01, 0.9, 0.99, bias_correction=True),
            TorchRule("Adam", 0.01, {"betas": (0.9, 0.99)}),
        ),
        (RMSProp(0.01, 0.9), TorchRule("RMSprop", 0.01, {"alpha": 0.9})),
    ],
)
def test_it_is_our_rule(ours, theirs):
    a, end = train(QUARTIC, ours, START, steps=50)
    b, other = train(QUARTIC, theirs, START, steps=50)
    # float64, 50 contracting steps: rounding only
    torch.testing.assert_close(end, other, rtol=1e-10, atol=1e-13)
    assert (a.time == b.time).all() and math.isnan(b.mss[0])


NAMES = ("SGD", "RMSprop", "Adagrad", "Adam", "Adadelta", "Adamax", "NAdam")


@pytest.mark.parametrize("name", NAMES)
def test_any_rule_steps_as_torch_does_and_leaves_w_alone(name):
    w = START.clone().requires_grad_()
    reference = getattr(torch.optim, name)([w], lr=0.01)
    rule, here = TorchRule(name, 0.01), START.clone()
    state = rule.init(here)
    for _ in range(5):
        reference.zero_grad()
        QUARTIC.loss(w).backward()
        reference.step()
        before = here.clone()
        after, state = rule.step(QUARTIC.at(here), state)
        assert torch.equal(here, before)
        here = after
    assert torch.equal(here, w.detach())


def test_two_runs_of_one_rule_do_not_meet():
    rule = TorchRule("Adam", 0.1)
    first, _ = train(QUARTIC, rule, START, steps=10)
    second, _ = train(QUARTIC, rule, START, steps=10)
    assert first.equals(second)


def test_a_state_serves_once():
    rule, point = TorchRule("Adam", 0.1), QUARTIC.at(START)
    state = rule.init(START)
    rule.step(point, state)
    with pytest.raises(ValueError, match="state of Adam has been used"):
        rule.step(point, state)


def test_batches_go_through_it():
    x = torch.arange(1.0, 7.0, dtype=torch.float64)

    def on(rows):
        return Objective(lambda w: ((w - x[rows]) ** 2).mean() / 2, batch=on)

    everything, w = on(torch.arange(6)), torch.zeros(1, dtype=torch.float64)
    pair = GradientDescent(0.1), TorchRule("SGD", 0.1)
    ends = [train(everything, MiniBatch(r, 2, 6, seed=1), w, 20)[1] for r in pair]
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["Optimizer_", "lr_scheduler", "adam"])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match="has no optimizer"):
        TorchRule(name, 0.1)


def test_a_step_size_must_be_positive():
    with pytest.raises(ValueError, match="must be positive"):
        TorchRule("SGD", 0.0)

"""common.fork: the branches against hand-made steps, eigenvalues against exact ones."""

import pytest
import torch

from common.adaptive import Adam, RMSProp
from common.fork import run_fork
from common.objective import Problem
from common.training import train

PROBLEM = Problem(
    n=20,
    classes=2,
    size=7,
    model="fully_connected",
    options={"width": (4,)},
    dtype="float64",
)
AT, STEPS, EVERY = 12, 10, 5
RULES = [RMSProp(1e-3), Adam(1e-3, 0.9, 0.99, bias_correction=True)]


def branch(table, name):
    return table[table.branch == name].reset_index(drop=True)


def walk(rule, steps):
    """w and the state after some steps."""
    objective, w = PROBLEM.build(0)
    state = rule.init(w)
    for _ in range(steps):
        w, state = rule.step(objective.at(w), state)
    return objective, w, state


def exact(objective, w, P) -> float:
    H = torch.autograd.functional.hessian(objective.loss, w)
    return torch.linalg.eigvalsh(P.rsqrt()[:, None] * H * P.rsqrt())[-1].item()


@pytest.mark.parametrize("rule", RULES)
def test_the_adaptive_branch_is_the_run_without_a_fork(rule):
    table = branch(run_fork(PROBLEM, rule, 0, AT, STEPS, EVERY), "adaptive")
    path, _ = train(*PROBLEM.build(0)[:1], rule, PROBLEM.build(0)[1], AT + STEPS)
    path = path[path.step >= AT].reset_index(drop=True)
    assert table.step.tolist() == path.step.tolist()
    assert table.loss.tolist() == path.loss.tolist()
    assert table.mss.tolist() == path.mss.tolist()


@pytest.mark.parametrize("rule", RULES)
def test_the_frozen_branch_keeps_preconditioner_and_momentum(rule):
    table = branch(run_fork(PROBLEM, rule, 0, AT, STEPS, EVERY), "frozen")
    objective, w, state = walk(rule, AT)
    P, m, losses = rule.preconditioner(state), state.m, []
    for _ in range(STEPS + 1):
        point = objective.at(w)
        losses.append(point.loss)
        m = rule.beta1 * m + (1 - rule.beta1) * point.gradient
        w = w - rule.eta * m / P
    assert table.loss.tolist() == pytest.approx(losses, rel=1e-12)
    assert (table.mss == rule.max_stable_sharpness(0)).all()


@pytest.mark.parametrize("rule", RULES)
def test_eigenvalues_are_those_of_the_exact_hessian(rule):
    table = run_fork(PROBLEM, rule, 0, AT, STEPS, EVERY)
    adaptive, frozen = branch(table, "adaptive"), branch(table, "frozen")
    objective, w, state = walk(rule, AT)
    P = rule.preconditioner(state)
    # residual 1.5e-3: the eigenvalue's error is of the order of its square over the gap
    assert adaptive.fixed_sharpness[0] == pytest.approx(exact(objective, w, P), rel=1e-3)
    assert frozen.fixed_sharpness[0] == pytest.approx(exact(objective, w, P), rel=1e-3)
    objective, w, state = walk(rule, AT + STEPS)
    _, _, after = walk(rule, AT + STEPS + 1)
    own, last = rule.preconditioner(after), adaptive.iloc[-1]
    assert last.preconditioned_sharpness == pytest.approx(
        exact(objective, w, own), rel=1e-3
    )
    assert last.fixed_sharpness == pytest.approx(exact(objective, w, P), rel=1e-3)


def test_what_the_table_holds():
    table = run_fork(PROBLEM, RULES[0], 0, AT, STEPS, EVERY)
    assert table.branch.tolist() == ["adaptive"] * (STEPS + 1) + ["frozen"] * (STEPS + 1)
    seen = table.dropna(subset="fixed_sharpness")
    assert seen.step.tolist() == 2 * [AT, AT + EVERY, AT + 2 * EVERY]
    frozen = branch(seen, "frozen")
    assert frozen.fixed_sharpness.tolist() == frozen.preconditioned_sharpness.tolist()
    assert table.cpu_seconds.notna().tolist() == [False] * (2 * STEPS + 1) + [True]


@pytest.mark.parametrize(
    "at, steps, words",
    [(0, 5, "after at least 1 step, not at 0"), (5, 0, "at least 1, not 0")],
)
def test_bad_lengths_are_refused(at, steps, words):
    with pytest.raises(ValueError, match=words):
        run_fork(PROBLEM, RULES[0], 0, at, steps)

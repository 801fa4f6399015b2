"""common.normalized: closed forms of two toys, dense Hessians, and a small network."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.integrate import quad, solve_ivp

from common.normalized import (
    AlongGamma,
    Bowl,
    LimitingFlow,
    Ravine,
    descend,
    first_rise,
    flow_limit,
    nearest_minimiser,
    on_ravine,
    order,
    pair_sums,
    run_along_gamma,
    spectrum,
    spread,
)
from common.objective import Objective, Problem, supervised
from common.optimizers import GradientDescent, NormalizedGradientDescent
from common.training import train

F64 = {"dtype": torch.float64}
SEEDS = [0, 1, 2]
RAVINE = Ravine()


def residual(w, x):
    """f with f^2 / 2 = the ravine's loss, for every sample alike."""
    return ((1 + w[0] ** 2).sqrt() * w[1]).expand(len(x), 1)


ravine = supervised(residual, torch.zeros(1, 1, **F64), torch.zeros(1, 1, **F64), None)


@pytest.fixture(scope="module")
def net():
    """A small network at a minimiser: objective, w."""
    options = {"width": (6, 6), "activation": "tanh"}
    net = "fully_connected"
    problem = Problem("fashion_mnist", 5, (0, 6), 7, net, options, "mse", "float64", True)
    objective, w = problem.build(0)
    return objective, nearest_minimiser(objective, w)


# ---------------------------------------------------------------- the toys


def test_bowl_in_one_dimension():
    # |w| falls by eta to .25 - 2 * .1 = .05, then w alternates between .05 and -.05
    bowl = Bowl((2.0,))
    w = torch.tensor([0.25], **F64)
    path, _ = train(Objective(lambda w: bowl.loss(w)), NormalizedGradientDescent(0.1), w, 6)
    sides = [0.25, 0.15, 0.05, -0.05, 0.05, -0.05, 0.05]
    np.testing.assert_allclose(path.loss, np.square(sides), rtol=1e-12)
    assert bowl.arc(w) == pytest.approx(0.25, rel=1e-5)  # trapezoids of 0.3 %


def test_bowl_ends_in_the_two_cycle_of_the_top_eigenvector():
    bowl, eta = Bowl((4.0, 2.0, 1.0)), 0.03
    table = descend(bowl, NormalizedGradientDescent(eta), SEEDS, 300)
    for seed, run in table.groupby("seed"):
        # other directions shrink, by a factor of some 1 - 2 lambda_i / lambda_1 a step
        np.testing.assert_allclose(pair_sums(run, 4.0), eta, rtol=1e-9)
        top = run[["w0", "w1", "w2"]].to_numpy()[-1]
        assert abs(top[0]) > 1e6 * np.abs(top[1:]).max()
        # phase I: a few steps of difference from arc / eta, the last ones before the rise
        assert first_rise(run.loss) * eta == pytest.approx(
            bowl.arc(bowl.start(seed)), abs=3 * eta
        )


def test_arc_of_a_bowl():
    bowl, w = Bowl((3.0, 0.5)), torch.tensor([0.7, -1.2], **F64)

    def speed(s):
        return np.hypot(3 * 0.7 * np.exp(-3 * s), 0.5 * 1.2 * np.exp(-0.5 * s))

    assert bowl.arc(w) == pytest.approx(quad(speed, 0, np.inf)[0], rel=1e-5)


def test_gradient_flow_in_the_ravine():
    x0, y0 = RAVINE.start(3).tolist()

    def field(s, w):
        return [-w[0] * w[1] ** 2, -(1 + w[0] ** 2) * w[1]]

    # y falls faster than exp(-s)
    found = solve_ivp(field, (0, 30), [x0, y0], rtol=1e-10, atol=1e-12)
    assert RAVINE.limit(x0, y0) == pytest.approx(found.y[0, -1], abs=1e-8)


def test_limiting_flows_of_the_ravine():
    tau = np.linspace(0, 2, 5)
    options = {"t_eval": tau, "rtol": 1e-11, "atol": 1e-12}
    plain = solve_ivp(lambda s, x: -x / (2 * (1 + x**2)), (0, 2), [2.0], **options)
    np.testing.assert_allclose(RAVINE.flow(2.0, tau), plain.y[0], rtol=1e-9)
    for root, exact in ((False, RAVINE.flow), (True, RAVINE.root_flow)):
        rule, w = LimitingFlow(0.5, root), torch.tensor([2.0, 0.0], **F64)
        for k in range(1, 5):
            w, _ = rule.step(ravine.at(w), None)
            # Runge-Kutta: (h / 4)^5 / 120 a step
            assert w.tolist() == pytest.approx([exact(2.0, tau[k]), 0], abs=3e-6)


@pytest.mark.parametrize("root", [False, True])
def test_descent_in_the_ravine_follows_its_flow(root):
    flow, errors = RAVINE.root_flow if root else RAVINE.flow, []
    for eta in (0.1, 0.05):
        rule = GradientDescent(eta) if root else NormalizedGradientDescent(eta)
        table = descend(RAVINE, rule, SEEDS, round(1 / eta**2), root)
        ends = table[table.step == table.step.max()].w0
        starts = [RAVINE.limit(*RAVINE.start(seed).tolist()) for seed in SEEDS]
        errors.append(np.abs(ends - [flow(x, 1.0) for x in starts]).max())
    # first order with a factor of some 1 (Arora, Li and Panigrahi, theorem 4.4)
    assert errors[0] < 0.1 and errors[1] < 0.75 * errors[0]


def test_on_ravine():
    eta, tau = 0.05, np.linspace(0.2, 1, 5)
    run = descend(RAVINE, NormalizedGradientDescent(eta), [3], round(1 / eta**2) + 1)
    table = on_ravine(run, eta, tau)
    np.testing.assert_allclose(
        table.flow, RAVINE.flow(RAVINE.limit(run.w0[0], run.w1[0]), tau)
    )
    assert table.error.max() < 0.05 * eta and table.way_error[0] < eta**2
    # cos = 1 / sqrt(1 + (x y / (1 + x^2))^2) with x / (1 + x^2) <= 1/2 and abs(y) <= eta
    assert 1 - eta**2 / 8 < table.alignment[0] < 1
    np.testing.assert_array_equal(table.sharpness, 1 + table.x**2)
    # gradient descent comes to rest: no way from side to side, and x is not the flow's
    still = on_ravine(descend(RAVINE, GradientDescent(eta), [3], 401), eta, tau)
    assert still.way_error[0] > 0.99 and np.ptp(still.x) < 1e-3 < np.ptp(still.flow)


def test_spread_and_order():
    tau = np.linspace(0, 1, 11)
    runs = [
        pd.DataFrame({"eta": eta, "tau": tau, "sharpness": np.exp(-tau)})
        for eta in (0.1, 0.2)
    ]
    table = pd.concat(runs, ignore_index=True)
    assert spread(table, 2) == 0
    # at equal eta t the larger eta has twice the tau of the other one, up to 1 and 1/2; the
    # lesser eta's curve is exact at every second value (here: all of the larger one's last)
    assert spread(table, 1) == pytest.approx(1 - np.exp(-0.5), rel=2e-3)
    assert order([0.1, 0.2, 0.4], [3.0, 6.0, 12.0]) == pytest.approx(1)


def test_first_rise_is_before_the_first_increase():
    assert first_rise([5, 4, 4, 3, 3.5]) == 3


# ---------------------------------------------------------------- Gamma


def test_spectrum_is_that_of_the_hessian(net):
    objective, w = net
    at = spectrum(objective, w)
    H = torch.autograd.functional.hessian(objective.loss, w)
    values = torch.linalg.eigvalsh(H).flip(0)
    torch.testing.assert_close(at.values, values[: len(at.values)], rtol=1e-8, atol=1e-10)
    assert values[len(at.values) :].abs().max() < 1e-8 * values[0]  # the tangent space
    assert at.condition == pytest.approx(float(values[0] / values[4]), rel=1e-6)
    assert (H @ at.drift).norm() < 1e-9 * values[0] * at.drift.norm()  # tangent


def test_drift_is_the_slope_of_log_sharpness_on_gamma(net):
    objective, w = net
    at = spectrum(objective, w)
    logs = []
    for h in (-1e-4, 1e-4):
        v = nearest_minimiser(objective, w + h * at.drift)
        H = torch.autograd.functional.hessian(objective.loss, v)
        logs.append(float(torch.linalg.eigvalsh(H)[-1].log()))
    slope = float(at.drift.square().sum())
    # central differences: an error of h^2
    assert (logs[1] - logs[0]) / 2e-4 == pytest.approx(slope, rel=1e-4)


def test_limiting_flow_lowers_the_sharpness_on_gamma(net):
    objective, w = net
    before = spectrum(objective, w)
    after, _ = LimitingFlow(1e-3).step(objective.at(w), None)
    assert objective.at(after).loss < 1e-20
    fall = float(before.values[0].log() - spectrum(objective, after).values[0].log())
    # d log lambda_1 / dtau = -1/4 |drift|^2, up to a relative error of the step
    assert fall == pytest.approx(1e-3 / 4 * float(before.drift.square().sum()), rel=0.02)


def test_nearest_minimiser_is_the_limit_of_gradient_flow_up_to_second_order(net):
    objective, w = net
    J = torch.func.jacrev(lambda w: objective.outputs(w).flatten())(w)
    normal = J.T @ torch.ones(len(J), **F64)
    normal /= normal.norm()
    gaps = []
    for h in (0.02, 0.01):
        away = w + h * normal
        ends = flow_limit(objective, away), nearest_minimiser(objective, away)
        gaps.append(float((ends[0] - ends[1]).norm()))
    assert gaps[0] < 0.2 * 0.02 and 3 < gaps[0] / gaps[1] < 5


# ---------------------------------------------------------------- the network


def test_run_along_gamma(net):
    options = {"width": (8,), "activation": "tanh"}
    problem = Problem(
        "fashion_mnist", 6, (0, 6), 7, "fully_connected", options, "mse", "float64", True
    )
    table = run_along_gamma(problem, [0.04, 0.02], 0, tau=0.064, pieces=4)
    flow = table[table.rule == "flow"]
    assert list(flow.tau) == pytest.approx([0, 0.016, 0.032, 0.048, 0.064])
    assert flow.sharpness.is_monotonic_decreasing and flow.moved.is_monotonic_increasing
    runs = {
        k: g.dropna(subset="sharpness")
        for k, g in table[table.rule != "flow"].groupby(["rule", "eta"])
    }
    assert [len(g) for g in runs.values()] == [5, 5, 5]
    assert runs["normalised", 0.02].step.tolist() == [0, 40, 80, 120, 160]
    assert runs["descent", 0.04].step.tolist() == [0, 10, 20, 30, 40]
    end = runs["normalised", 0.02].iloc[-1]
    assert end.alignment > 0.99 and end.flip == 1
    assert (
        end.distance
        < 0.2 * flow.moved.iloc[-1]
        < 0.3 * runs["descent", 0.04].distance.iloc[-1]
    )
    assert table.cpu_seconds.notna().sum() == 1


# ---------------------------------------------------------------- bad input


def test_bad_input(net):
    objective, w = net
    with pytest.raises(ValueError, match="descend and be positive"):
        Bowl((1.0, 2.0))
    with pytest.raises(ValueError, match="descend and be positive"):
        Bowl((1.0, 0.0))
    with pytest.raises(ValueError, match="nothing to run"):
        descend(RAVINE, GradientDescent(0.1), [], 5)
    with pytest.raises(ValueError, match="squared errors"):
        nearest_minimiser(Objective(lambda w: w.sum()), w)
    with pytest.raises(ValueError, match="positive"):
        LimitingFlow(0.0)
    assert LimitingFlow(0.1).max_stable_sharpness(0) == np.inf


def test_what_has_no_minimiser_near(monkeypatch):
    monkeypatch.setattr("common.normalized.LIMIT", 20)

    def away(w, x):
        return 1 + w[:1].square().expand(len(x), 1)

    x = torch.zeros(1, 1, **F64)
    bare = supervised(away, x, x, None)
    with pytest.raises(ValueError, match="no minimiser"):
        nearest_minimiser(bare, torch.tensor([0.3], **F64))
    with pytest.raises(ValueError, match="did not reach"):
        flow_limit(bare, torch.tensor([0.3], **F64))


def test_run_along_gamma_bad_input(monkeypatch):
    monkeypatch.setattr("common.normalized.LIMIT", 20)
    options = {"width": (2,), "activation": "tanh"}
    problem = Problem(
        "fashion_mnist", 6, (0, 6), 7, "fully_connected", options, "mse", "float64", True
    )
    with pytest.raises(ValueError, match="whole numbers"):
        run_along_gamma(problem, [0.03], 0, tau=0.064, pieces=4)
    with pytest.raises(ValueError, match="after"):
        run_along_gamma(problem, [0.04], 0, 0.064, 4, eta_near=1e-9)


def test_along_gamma_measures_now_and_then(net):
    objective, w = net
    probe = AlongGamma(2, w.expand(2, -1))
    start = w + 1e-3 * torch.ones_like(w)
    table, _ = train(objective, NormalizedGradientDescent(1e-3), start, 2, [probe])
    assert table.sharpness.notna().tolist() == [True, False, True]
    assert table.flip.isna().tolist() == [True, False, False]

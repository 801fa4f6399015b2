"""common.interventions: cuts, moments and growth against exact eigenpairs and theory."""

from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch

from common.catapults import first_return
from common.diagonal import SparseRegression
from common.diagonal_adaptive import AdaptiveSetting, run_adaptive
from common.diagonal_runs import Setting, run_diagonal
from common.interventions import (
    CUTS,
    Cut,
    Intervention,
    growth,
    measured_growth,
    run_interventions,
    run_overshoot,
    settled,
)
from common.observables import crossing
from common.optimizers import HeavyBall, Warmup
from common.quadratic import distances
from common.stochastic import Noisy
from common.training import trajectory

SMALL = SparseRegression(n=10, d=20, support=2)
FAST = {"warmup": 300, "steps": 230, "regression": SMALL}
QUICK = {"x": 2.2, "beta": 0.5, "share": 0.05, "noise": 1e-4}


def start(cuts, since, seeds=(0, 1)):
    """Networks, rule and w_0, one column for each cut; set up as `QUICK`."""
    net = SMALL.build(seeds)
    alphas = [0.3] * len(cuts)
    eta = 2 * QUICK["x"] / net.initial_sharpness(alphas)[..., None]
    heavy = HeavyBall(Warmup(QUICK["share"] * eta, eta, 300), QUICK["beta"])
    return (
        net,
        Noisy(Cut(heavy, cuts, since, seeds), QUICK["noise"], seeds),
        net.start(alphas),
    )


def exact(net, w, run, column):
    """Top eigenpair and gradient of the sharpness of one network, by autograd."""
    one, at = net.single(run), w[run, column]
    values, vectors = torch.linalg.eigh(torch.autograd.functional.hessian(one.loss, at))
    q = vectors[:, -1]
    gradient = one.at(at).curvature_gradients(q[:, None])[:, 0, 0]
    return values[-1], q, gradient


def test_nothing_cut_is_heavy_ball_itself():
    table = run_interventions({"a": Intervention(**QUICK)}, [0, 3], **FAST)
    other = run_diagonal({"a": Setting(**QUICK)}, [0, 3], **FAST)
    np.testing.assert_array_equal(table.loss, other.loss)
    np.testing.assert_array_equal(table.mss, other.mss)
    # one Hessian product less for each Rayleigh quotient, whose error is of second order in
    # that of the vector: late by a part of what the vector turns in a step of a catapult
    off = np.abs(table.sharpness / other.sharpness - 1)
    assert off.median() < 1e-4 and off.max() < 2e-2


def test_the_cut_removes_just_what_it_says():
    names = [*CUTS]
    net, rule, w = start(names, ["crossing"] * len(names))
    *_, last = islice(trajectory(net, rule.rule, w), 60)
    rule, state = rule.rule, last.state
    now = torch.zeros_like(state.crossed)
    state = state._replace(crossed=now)  # every run has crossed
    w, before = last.after, last.point.w
    point = net.at(w)
    after, _ = rule.step(point, state)
    eta = rule.eta(state.inner[0])
    used = (after - w + eta * point.gradient) / QUICK["beta"]  # the velocity used
    for run in range(2):
        columns = {}
        for k, name in enumerate(names):
            S, q, gradient = exact(net, w, run, k)
            n = gradient - (gradient @ q) * q
            n = n / n.norm()
            columns[name] = (used[run, k], (w - before)[run, k], q, n)
        # q from power iteration, gap > 2: 8 products from a warm start are good to 1e-6
        near = {"rtol": 0, "atol": 1e-6 * (w - before).norm()}
        for name, (kept, v, q, n) in columns.items():
            flat = q * (q @ v) + n * (n @ v)
            want = {
                "nothing": v,
                "n": v - n * (n @ v),
                "all but q, n": flat,
                "all but q": q * (q @ v),
                "all": 0 * v,
            }
            if name in want:
                torch.testing.assert_close(kept, want[name], **near)
        kept, v, q, n = columns["random"]
        lost = v - kept
        assert lost.norm() > 0
        assert abs(lost @ q) < 1e-6 * lost.norm() + near["atol"]
        assert abs(lost @ n) < 1e-6 * lost.norm() + near["atol"]
        line = lost / lost.norm()
        torch.testing.assert_close(lost, line * (line @ v), **near)


def test_runs_part_at_their_own_moment_and_not_before():
    net, rule, w = start(["nothing", "n", "n"], ["crossing", "crossing", "return"])
    path = [*islice(trajectory(net, rule, w), 250)]
    watched = path[-1].state.inner
    for run in range(2):
        for k, moments in ((1, watched.crossed), (2, watched.returned)):
            moment = int(moments[run, k])
            untouched, cut = ([step.after[run, i] for step in path] for i in (0, k))
            assert all(map(torch.equal, untouched[:moment], cut[:moment]))
            assert not torch.equal(untouched[moment], cut[moment])
    assert len(set(watched.crossed[:, 0, 0].tolist())) == 2  # each seed has its own


def test_moments_found_online_are_those_of_the_finished_table():
    cuts, since = ["nothing", "n", "all"], ["crossing", "return", "crossing"]
    kinds = {
        f"{i}": Intervention(**QUICK, cut=cut, since=at)
        for i, (cut, at) in enumerate(zip(cuts, since, strict=True))
    }
    table = run_interventions(kinds, [0, 1], **FAST)
    net, rule, w = start(cuts, since)
    *_, last = islice(trajectory(net, rule, w), FAST["steps"] + 1)
    for k, name in enumerate(kinds):
        for run, seed in enumerate((0, 1)):
            part = table[(table.setting == name) & (table.seed == seed)]
            assert last.state.inner.crossed[run, k] == crossing(part)
            assert last.state.inner.returned[run, k] == first_return(part)


def test_q_stays_with_the_top_eigenvector_through_a_catapult():
    net, rule, w = start(["nothing", "n"], ["crossing", "return"])
    for step in islice(trajectory(net, rule, w), 240):
        if step.index % 10 == 0 and step.index >= 150:
            seen = step.state.inner
            for k in range(2):
                S, q, _ = exact(net, step.point.w, 0, k)
                # 8 products, and only before the first crossing 2; where S is right
                # to .1 %, q is to the root of that
                assert seen.sharpness[0, k].item() == pytest.approx(S.item(), rel=1e-3)
                assert abs(seen.q[0, k] @ q) > 0.999


def test_a_run_does_not_depend_on_the_seeds_beside_it():
    chosen = {"n": Intervention(**QUICK, cut="random")}
    both = run_interventions(chosen, [4, 5], **FAST | {"steps": 185})
    alone = run_interventions(chosen, [5], **FAST | {"steps": 185})
    # up to rounding and the start of the power iteration
    np.testing.assert_allclose(both[both.seed == 5].loss, alone.loss, rtol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_growth_is_what_heavy_ball_does_on_a_quadratic(beta):
    d, one = 0.03, torch.ones(1, dtype=torch.float64)
    rule = HeavyBall(1.0, beta)
    S = (1 + d) * rule.max_stable_sharpness(0)
    path = distances(rule, one[None], S * one, one, 400)[:, 0]
    # the other root is smaller than beta: gone to 0.9^300
    assert (path[-1] / path[-2]).item() == pytest.approx(growth(beta, d), rel=1e-9)
    tiny = 1e-7
    slope = (growth(beta, tiny) - 1) / tiny
    assert slope == pytest.approx(2 * (1 + beta) / (1 - beta), rel=1e-4)


def test_growth_is_measured_where_the_loss_grows_and_nan_where_it_does_not():
    steps = np.arange(60)
    rise = pd.DataFrame({"step": steps, "loss": np.exp(0.4 * steps)})
    assert measured_growth(rise) == pytest.approx(np.exp(0.2))
    assert np.isnan(measured_growth(rise.assign(loss=1.0)))


def test_the_same_overshoot_is_the_same_and_grows_as_the_roots_say():
    table = run_overshoot([0.0, 0.9], [0.02], [0], steps=300, regression=SMALL)
    for name, part in table.groupby("setting"):
        part = part.reset_index(drop=True)
        beta, d = map(float, name.split(","))
        # the kick changes S by its length times |grad S| / S, far below 1e-4
        assert part.sharpness[0] / part.mss[0] - 1 == pytest.approx(d, abs=1e-4)
        # the second root is still felt at the start of the fit: .9^10 of it
        assert measured_growth(part) - 1 == pytest.approx(growth(beta, d) - 1, rel=0.05)


def test_settled_is_nan_without_a_crossing():
    flat = pd.DataFrame({"step": [0, 1], "sharpness": [1, 1], "mss": [2, 2]})
    assert np.isnan(settled(flat))


def test_adam_beside_others_is_adam_alone():
    kinds = {
        "a": AdaptiveSetting(0.05),
        "b": AdaptiveSetting(0.05, 0.0, 0.99, noise=0.0),
    }
    keywords = {"warmup": 50, "steps": 80, "regression": SMALL}
    both = run_adaptive(kinds, [0, 1], **keywords)
    for name, kind in kinds.items():
        alone = run_adaptive({name: kind}, [1], **keywords)
        part = both[(both.setting == name) & (both.seed == 1)]
        np.testing.assert_allclose(part.loss, alone.loss, rtol=1e-9)
        np.testing.assert_allclose(part.mss, alone.mss, rtol=1e-12)


def test_bad_input_is_named_before_anything_runs():
    rule = HeavyBall(0.1, 0.9)
    with pytest.raises(ValueError, match="unknown cut 'q'"):
        Cut(rule, ["q"], ["crossing"], [0])
    with pytest.raises(ValueError, match="unknown start 'never'"):
        Cut(rule, ["n"], ["never"], [0])
    with pytest.raises(ValueError, match="1 cuts but 2 starts"):
        Cut(rule, ["n"], ["crossing", "return"], [0])
    with pytest.raises(ValueError, match="2 seeds and 1 cuts"):
        Cut(rule, ["n"], ["crossing"], [0, 1]).init(torch.zeros(1, 1, 4))
    with pytest.raises(ValueError, match="must not be negative"):
        growth(0.9, -0.1)

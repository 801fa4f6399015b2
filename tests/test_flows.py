"""common.flows: closed forms, a stiff solver, and a toy whose sharpness passes the edge."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from common.flows import GradientFlow, chebyshev
from common.objective import Objective, Problem

F64 = torch.float64
ETA = 0.1  # the edge of the toys is 2 / 0.1 = 20


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=F64)


def path(rule, objective: Objective, w: torch.Tensor, steps: int):
    """All iterates [steps + 1, P], and the last state."""
    state, visited = rule.init(w), [w]
    for _ in range(steps):
        w, state = rule.step(objective.at(w, curvature=True), state)
        visited.append(w)
    return torch.stack(visited), state


def s(x):
    """Sharpness of the toy; 20 at x = 4, where s' = 9 (see test_central)."""
    return x + x.square()


def toy(*c: float, stable: int = 0) -> Objective:
    """A sum of toys, w = (x_1 ... x_m, y_1 ... y_m, z), z in a flat stable bowl."""
    m, c = len(c), vector(*c)

    def loss(w):
        x, y, z = w.split([m, m, stable])
        return (s(x) * y.square() / 2 - c * x).sum() + z.square().sum() / 2

    return Objective(loss)


# ---------------------------------------------------------------- gradient flow


def test_gradient_flow_on_a_quadratic():
    curvatures = vector(3.0, 1.0, 0.2, 0.0, -0.5)
    objective = Objective(lambda w: (curvatures * w.square()).sum() / 2)
    w = vector(1.0, -1.0, 2.0, 0.5, 0.1)
    visited, _ = path(GradientFlow(ETA), objective, w, 40)
    times = ETA * torch.arange(41, dtype=F64)[:, None]
    exact = w * (-curvatures * times).exp()
    # classical: z^5/120 a step at z = h S = 0.3; over t steps t z^5/120 exp(-(t-1) z), at
    # most z^4/120 exp(z - 1) = 3.4e-5
    torch.testing.assert_close(visited, exact, rtol=0, atol=3.4e-5)
    # fourth order: with h S = 0.05, six times smaller, 6^4 exp(0.25) = 1664 times as good
    fine, _ = path(GradientFlow(ETA, reach=0.05), objective, w, 40)
    ratio = (visited - exact).abs().max() / (fine - exact).abs().max()
    assert 1500 < ratio < 1750


def test_a_stiff_direction_decays_and_leaves_the_others_alone():
    # eta x sharpness = 40: gradient descent would explode
    curvatures = vector(400.0, 1.0)
    objective = Objective(lambda w: (curvatures * w.square()).sum() / 2)
    visited, _ = path(GradientFlow(ETA), objective, vector(1.0, 1.0), 10)
    # two Runge-Kutta-Chebyshev steps of h S = 20; the damping leaves 0.952 of each at most
    assert (visited[:, 0].abs() <= 0.952 ** (2 * torch.arange(11))).all()
    expected = (-ETA * torch.arange(11, dtype=F64)).exp()
    # z = 0.05: 20 steps of z^3/12 (many stages)
    torch.testing.assert_close(visited[:, 1], expected, rtol=20 * 0.05**3 / 12, atol=0)


def test_gradient_flow_on_a_network():
    options = {"width": (4,)}
    objective, w = Problem(
        n=10, classes=2, size=2, model="fully_connected", options=options, dtype="float64"
    ).build(0)
    eta, steps = 0.2, 50
    visited, _ = path(GradientFlow(eta), objective, w, steps)

    def slope(_, w):
        return -objective.at(torch.from_numpy(w)).gradient.numpy()

    end = eta * steps
    exact = solve_ivp(slope, (0, end), w.numpy(), "DOP853", rtol=1e-9, atol=1e-11).y[:, -1]
    assert np.linalg.norm(exact - w.numpy()) > 0.5  # it does go somewhere
    # the sharpness is below 3: as on the quadratic, z^4/120 exp(z - 1) = 7e-4 of the
    # stiffest part on the way, and less at the end
    assert np.abs(visited[-1].numpy() - exact).max() < 7e-4
    fine, _ = path(GradientFlow(eta, reach=0.06), objective, w, steps)
    assert np.abs(fine[-1].numpy() - exact).max() < 7e-4 / 1e3  # fourth order, 10 x finer


def test_gradient_flow_passes_the_edge():
    flow, c = GradientFlow(ETA), 1.0
    w = vector(3.0, 0.1)
    visited, _ = path(flow, toy(c), w, 60)
    assert flow.max_stable_sharpness(0) == float("inf")

    def slope(_, w):
        return [c - (1 + 2 * w[0]) * w[1] ** 2 / 2, -(w[0] + w[0] ** 2) * w[1]]

    exact = solve_ivp(slope, (0, 6), w.numpy(), "DOP853", rtol=1e-9, atol=1e-12).y[:, -1]
    assert float(s(visited[-1, 0])) > 4 * 2 / ETA
    # y decays by exp(-1.2) = .301 a step, classically by .318, and holds x back by
    # y^2 s' / (4 s) = 1.5e-3 all in all, of which 2 x .057 = 11 % are lost: 1.7e-4
    np.testing.assert_allclose(visited[-1].numpy(), exact, rtol=0, atol=2e-4)
    fine, _ = path(GradientFlow(ETA, reach=0.12), toy(c), w, 60)
    np.testing.assert_allclose(fine[-1].numpy(), exact, rtol=0, atol=2e-4 / 1e3)


@pytest.mark.parametrize("s", [2, 3, 5, 13])
def test_the_runge_kutta_scheme_on_the_test_equation(s):
    def factor(z):  # what one step leaves of w' = -z w
        rows = chebyshev(s)
        older, w = 1.0, 1.0 - rows[0][2] * z
        for mu, nu, step, correction in rows[1:]:
            newer = 1 - mu - nu + mu * w + nu * older - step * z * w - correction * z
            older, w = w, newer
        return w

    assert len(chebyshev(s)) == s
    z = np.linspace(0.01, 0.65 * (s * s - 1), 500)
    assert (np.abs([factor(x) for x in z]) < 1).all()  # stable on the whole interval
    # second order: the error is c z^3, 0 < c <= 1/6 (two undamped stages)
    assert 0.05 < (factor(0.01) - np.exp(-0.01)) / 1e-6 <= 1 / 6


@pytest.mark.parametrize("bad", [0.0, -0.1, float("nan")])
def test_a_time_that_is_not_positive_is_refused(bad):
    with pytest.raises(ValueError, match=f"eta must be positive, not {bad}"):
        GradientFlow(bad)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_a_reach_that_is_not_positive_is_refused(bad):
    with pytest.raises(ValueError, match=f"reach must be positive, not {bad}"):
        GradientFlow(0.1, reach=bad)

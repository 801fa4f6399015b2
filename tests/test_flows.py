"""common.flows: closed forms, a stiff solver, and gradient descent on toys with an edge.

The toy of most tests: L(x, y) = s(x) y^2 / 2 - c x with s'(x) > 0 and c > 0. At y = 0 the
sharpness is s(x) (direction y) and grad L pushes x up, so the sharpness rises until it
meets 2/eta. The central flow dx/dt = c - X s'(x) / 2, with X the variance of y, has to
hold s(x) = 2/eta from there on: x stands still and X = 2 c / s'(x). The loss that the
oscillation adds on average is s(x) X / 2 = X / eta.
"""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from common.curvature import Curvature
from common.flows import CentralFlow, GradientFlow, chebyshev, complementarity
from common.objective import Objective, Point, Problem
from common.optimizers import GradientDescent

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
    """Sharpness of the toy; 20 at x = 4, where s' = 9."""
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


# ---------------------------------------------------------------- complementarity


def problem(k: int, rank: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A and B with a solution X of this rank, and X.

    Z is made to live in the complement of X, with k - rank positive eigenvalues; then
    A = Z - B[X]. B is positive definite, so that the solution is the only one.
    """
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((k, k)))[0]
    x = np.where(np.arange(k) < rank, rng.uniform(0.5, 2, k), 0)
    z = np.where(np.arange(k) < rank, 0, rng.uniform(0.5, 2, k))
    X, Z = (Q * x) @ Q.T, (Q * z) @ Q.T
    fields = rng.standard_normal((30, k, k))  # as in the flow: <D, D>, D symmetric
    fields = ((fields + fields.swapaxes(1, 2)) / 2).reshape(30, k * k)
    B = fields.T @ fields / 30
    return Z - (B @ X.reshape(-1)).reshape(k, k), B, X


CASES = [(k, rank) for k in (1, 2, 3, 4) for rank in range(k + 1)]


@pytest.mark.parametrize("k, rank", CASES)
@pytest.mark.parametrize("unit", [1.0, 1e-6, 1e6])
def test_complementarity(k, rank, unit):
    for seed in range(3):
        A, B, solution = problem(k, rank, seed)
        X = complementarity(A * unit, B)
        # L-BFGS over the factor Y of X = Y Y^T, to 1e-8 or so
        np.testing.assert_allclose(X, solution * unit, rtol=0, atol=1e-5 * unit)
        Z = A * unit + (B @ X.reshape(-1)).reshape(k, k)
        np.testing.assert_allclose(X, X.T, rtol=0, atol=1e-12 * unit)
        assert np.linalg.eigvalsh(X)[0] >= -1e-12 * unit
        assert np.linalg.eigvalsh((Z + Z.T) / 2)[0] >= -1e-5 * unit
        assert abs((X * Z).sum()) <= 1e-5 * unit**2


@pytest.mark.parametrize("a", [-3.0, -1e-9, 0.0, 2.0])
@pytest.mark.parametrize("b", [0.5, 4e6])
def test_complementarity_of_numbers(a, b):
    X = complementarity(np.array([[a]]), np.array([[b]]))
    assert X.shape == (1, 1)
    assert X[0, 0] == pytest.approx(max(0.0, -a / b), rel=1e-12, abs=0)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("first", np.linspace(-1, 0.2, 13).round(1).tolist())
def test_complementarity_of_decoupled_numbers(first, k):
    a, b = np.array([first, -1.0, 2.0])[:k], np.array([0.98, 1.0, 1.0])[:k]
    # <D_ii, D_ii> only, so that X_ij is open but X_ii is not
    B = np.diag(np.diag(b).reshape(-1))
    X = complementarity(np.diag(a), B)
    np.testing.assert_allclose(X.diagonal(), np.maximum(-a / b, 0), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("k", [1, 2, 3])
def test_complementarity_when_nothing_drives(k):
    # A = 0: the eigenvalues sit at the edge and nothing moves them
    X = complementarity(np.zeros((k, k)), np.eye(k * k))
    np.testing.assert_allclose(X, np.zeros((k, k)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [1, 2])
def test_complementarity_when_nothing_holds(k):
    X = complementarity(np.eye(k), np.zeros((k * k, k * k)))
    np.testing.assert_allclose(X, np.zeros((k, k)), rtol=0, atol=1e-12)


# ---------------------------------------------------------------- central flow


@pytest.mark.parametrize("curvatures", [(19.0, 1.0), (19.0, 18.5, 1.0)])
def test_the_central_flow_is_gradient_flow_on_a_quadratic_below_the_edge(curvatures):
    curvatures = vector(*curvatures)
    objective = Objective(lambda w: (curvatures * w.square()).sum() / 2)
    w = torch.ones_like(curvatures)
    central, state = path(CentralFlow(ETA), objective, w, 5)
    gradient, _ = path(GradientFlow(ETA), objective, w, 5)
    torch.testing.assert_close(central, gradient, rtol=1e-12, atol=1e-14)
    assert state.excess == 0


def test_the_central_flow_is_gradient_flow_below_the_edge():
    objective, w = toy(1.0), vector(1.0, 0.5)
    central, state = path(CentralFlow(ETA), objective, w, 25)
    assert 0.7 < float(s(central[-1, 0])) * ETA / 2 < CentralFlow(ETA).critical
    gradient, _ = path(GradientFlow(ETA), objective, w, 25)
    # below the edge both take one Runge-Kutta step per time eta: the same numbers
    torch.testing.assert_close(central, gradient, rtol=1e-12, atol=1e-14)
    assert state.excess == 0 and state.covariance.shape == (0, 0)


def test_no_oscillation_between_critical_and_the_edge():
    # the eigenvalue takes part, but needs eight more steps to the edge: nothing holds it
    objective, w = toy(0.1), vector(3.9, 0.0)
    central, state = path(CentralFlow(ETA), objective, w, 2)
    assert CentralFlow(ETA).critical < float(s(central[0, 0])) * ETA / 2 < 0.96
    expected, _ = path(GradientFlow(ETA), objective, w, 2)
    torch.testing.assert_close(central, expected, rtol=1e-12, atol=1e-14)
    assert state.covariance.tolist() == [[0.0]] and state.excess == 0


@pytest.mark.parametrize("stride", [1, 2, 5])
@pytest.mark.parametrize("c", [0.2, 1.0])
def test_the_central_flow_holds_the_sharpness_at_the_edge(c, stride):
    steps = 60 + int((4 - 3.5) / c / ETA)  # the time to get there, and then some
    objective = toy(c)
    central, state = path(CentralFlow(ETA, stride=stride), objective, vector(3.5, 0), steps)
    sharpness = s(central[:, 0]) * ETA / 2
    assert sharpness.max() <= 1.005
    assert sharpness[-1] >= 0.995
    X = 2 * c / 9  # see the module's docstring
    assert state.covariance[0, 0] == pytest.approx(X, rel=0.02)
    assert state.excess == pytest.approx(X / ETA, rel=0.02)  # tr(H Sigma) / 2
    expected = vector(9 * X / 2, 0)  # Sigma = X on y: the force is X s'(x) / 2, along x
    torch.testing.assert_close(state.force, expected, rtol=0.02, atol=1e-6)


@pytest.mark.parametrize("c", [(0.5, 0.5), (1.0, 0.3)])
def test_two_critical_directions(c):
    objective, w = toy(*c), vector(3.9, 3.7, 0, 0)
    steps = 60 + int(0.3 / min(c) / ETA)
    central, state = path(CentralFlow(ETA), objective, w, steps)
    sharpness = s(central[:, :2]) * ETA / 2
    assert sharpness.max() <= 1.005
    assert (sharpness[-1] >= 0.995).all()
    # In the coordinates of w: the eigenvectors at the edge are any basis of (y_1, y_2).
    # Only the variances: the toys do not interact, so a correlation of y_1 and y_2 has no
    # effect and is left open by the three conditions.
    U = state.tracker.last.vectors[:, :2].numpy()
    variances = np.diag(U @ state.covariance @ U.T)
    X = 2 * np.array(c) / 9
    np.testing.assert_allclose(variances, [0, 0, *X], rtol=0.02, atol=1e-6)
    assert state.excess == pytest.approx(X.sum() / ETA, rel=0.02)


def test_gradient_descent_oscillates_as_the_central_flow_says():
    # A drift that falls with x, c - mu (x - 4), damps the orbit slowly. Over a long time x
    # goes nowhere, so <s'(x) y^2 / 2> = c up to what x has moved: 0.02 / (1000 eta c). What
    # is left is the variation of s' along the orbit, about 1 %.
    c, mu, steps = 0.05, 0.2, 1000
    base = toy(c)
    objective = Objective(lambda w: base.loss(w) + mu / 2 * (w[0] - 4).square())
    start = (0.3 * 2 * c / 9) ** 0.5  # 0.3 of the predicted variance
    descent, _ = path(GradientDescent(ETA), objective, vector(4, start), steps)
    x, y2 = descent[:, 0], descent[:, 1].square()
    sharpness = s(x) * ETA / 2
    assert sharpness.min() < 0.99 and 1.01 < sharpness.max()  # it does oscillate
    assert y2.max() > 3 * y2.min()
    central, state = path(CentralFlow(ETA), objective, vector(3.98, 0), 150)
    assert float(y2.mean()) == pytest.approx(state.covariance[0, 0], rel=0.05)
    assert float(x.mean()) == pytest.approx(float(central[-1, 0]), rel=0.005)
    # the loss that the oscillation adds, on average
    assert float((s(x) * y2 / 2).mean()) == pytest.approx(state.excess, rel=0.05)


@pytest.mark.parametrize("c", [(1.0,), (0.5, 0.5)])
def test_the_cost_does_not_depend_on_the_number_of_parameters(c, monkeypatch):
    m, costs = len(c), []
    original = Point.curvature_gradients

    def counted(self, vectors):
        costs[-1].append(vectors.shape[1])  # k: it makes k (k + 1) / 2 gradients
        return original(self, vectors)

    monkeypatch.setattr(Point, "curvature_gradients", counted)
    for stable in (0, 300):
        costs.append([])
        w = torch.cat([torch.full((m,), 3.9, dtype=F64), torch.zeros(m + stable).double()])
        path(CentralFlow(ETA), toy(*c, stable=stable), w, 12)
    # a measurement a step at most, of m critical directions at most; it need not be the
    # same every time, because the first measurement starts from noise in all P directions
    for cost in costs:
        assert max(cost) == m and len(cost) <= 12


def test_the_threshold_of_the_central_flow():
    assert CentralFlow(ETA).max_stable_sharpness(7) == pytest.approx(2 / ETA)


def test_a_state_is_not_changed_by_a_step():
    # the tracker is shared, all else is new: a state can be kept
    flow, objective, w = CentralFlow(ETA), toy(1.0), vector(3.99, 0.0)
    state = flow.init(w)
    assert isinstance(state.tracker, Curvature)
    w, after = flow.step(objective.at(w, curvature=True), state)
    assert state.covariance.shape == (0, 0) and state.excess == 0
    assert after is not state


@pytest.mark.parametrize("flow", [GradientFlow, CentralFlow])
@pytest.mark.parametrize("bad", [0.0, -0.1, float("nan")])
def test_a_time_that_is_not_positive_is_refused(flow, bad):
    with pytest.raises(ValueError, match=f"eta must be positive, not {bad}"):
        flow(bad)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_a_reach_that_is_not_positive_is_refused(bad):
    with pytest.raises(ValueError, match=f"reach must be positive, not {bad}"):
        GradientFlow(0.1, reach=bad)


@pytest.mark.parametrize("bad", [0, -2])
def test_a_stride_below_one_is_refused(bad):
    with pytest.raises(ValueError, match=f"stride must be at least 1, not {bad}"):
        CentralFlow(0.1, stride=bad)

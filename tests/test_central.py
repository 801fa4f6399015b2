"""common.central: closed forms, stiff solvers, and real rules on toys with an edge.

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
from scipy.optimize import brentq
from test_flows import ETA, F64, path, s, toy, vector

from common.adaptive import Adam, Moments, RMSProp
from common.central import TERMS, CentralFlow, complementarity
from common.curvature import Curvature
from common.flows import GradientFlow
from common.objective import Objective, Point
from common.optimizers import GradientDescent, HeavyBall, StepDrop

GD = GradientDescent(ETA)


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
    central, state = path(CentralFlow(GD), objective, w, 5)
    gradient, _ = path(GradientFlow(ETA), objective, w, 5)
    torch.testing.assert_close(central, gradient, rtol=1e-12, atol=1e-14)
    assert state.excess == 0


def test_the_central_flow_is_gradient_flow_below_the_edge():
    objective, w = toy(1.0), vector(1.0, 0.5)
    central, state = path(CentralFlow(GD), objective, w, 25)
    assert 0.7 < float(s(central[-1, 0])) * ETA / 2 < CentralFlow(GD).critical
    gradient, _ = path(GradientFlow(ETA), objective, w, 25)
    # below the edge both take one Runge-Kutta step per time eta: the same numbers
    torch.testing.assert_close(central, gradient, rtol=1e-12, atol=1e-14)
    assert state.excess == 0 and state.covariance.shape == (0, 0)


def test_no_oscillation_between_critical_and_the_edge():
    # the eigenvalue takes part, but needs eight more steps to the edge: nothing holds it
    objective, w = toy(0.1), vector(3.9, 0.0)
    central, state = path(CentralFlow(GD), objective, w, 2)
    assert CentralFlow(GD).critical < float(s(central[0, 0])) * ETA / 2 < 0.96
    expected, _ = path(GradientFlow(ETA), objective, w, 2)
    torch.testing.assert_close(central, expected, rtol=1e-12, atol=1e-14)
    assert state.covariance.tolist() == [[0.0]] and state.excess == 0


@pytest.mark.parametrize("stride", [1, 2, 5])
@pytest.mark.parametrize("c", [0.2, 1.0])
def test_the_central_flow_holds_the_sharpness_at_the_edge(c, stride):
    steps = 60 + int((4 - 3.5) / c / ETA)  # the time to get there, and then some
    objective = toy(c)
    central, state = path(CentralFlow(GD, stride=stride), objective, vector(3.5, 0), steps)
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
    central, state = path(CentralFlow(GD), objective, w, steps)
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
    descent, _ = path(GD, objective, vector(4, start), steps)
    x, y2 = descent[:, 0], descent[:, 1].square()
    sharpness = s(x) * ETA / 2
    assert sharpness.min() < 0.99 and 1.01 < sharpness.max()  # it does oscillate
    assert y2.max() > 3 * y2.min()
    central, state = path(CentralFlow(GD), objective, vector(3.98, 0), 150)
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
        path(CentralFlow(GD), toy(*c, stable=stable), w, 12)
    # a measurement a step at most, of m critical directions at most; it need not be the
    # same every time, because the first measurement starts from noise in all P directions
    for cost in costs:
        assert max(cost) == m and len(cost) <= 12


def test_the_threshold_of_the_central_flow():
    assert CentralFlow(GD).max_stable_sharpness(7) == pytest.approx(2 / ETA)


def test_a_state_is_not_changed_by_a_step():
    # the tracker is shared, all else is new: a state can be kept
    flow, objective, w = CentralFlow(GD), toy(1.0), vector(3.99, 0.0)
    state = flow.init(w)
    assert isinstance(state.tracker, Curvature)
    w, after = flow.step(objective.at(w, curvature=True), state)
    assert state.covariance.shape == (0, 0) and state.excess == 0
    assert after is not state


@pytest.mark.parametrize("bad", [0, -2])
def test_a_stride_below_one_is_refused(bad):
    with pytest.raises(ValueError, match=f"stride must be at least 1, not {bad}"):
        CentralFlow(GD, stride=bad)


# ---------------------------------------------------------------- adaptive rules

# L = h y^2 / 2 under RMSProp: the gradient decays and with it nu, until h / sqrt(nu) is
# 2/eta. There y jumps between +eta/2 and -eta/2 (variance eta^2/4) for ever: nu = (h y)^2,
# so that every step has length eta.


def bowls(*h: float) -> Objective:
    return Objective(lambda w: (vector(*h) * w.square()).sum() / 2)


def frozen(nu: torch.Tensor, m: torch.Tensor | float = 0.0) -> Moments:
    """A state of a rule that has seen the second moment nu for long."""
    return Moments(1000, torch.zeros_like(nu) + m, nu)


def follow(flow, objective: Objective, w, state: Moments, steps: int):
    """All iterates [steps + 1, P] from a state of the rule, and the last state."""
    state, visited = flow.follow(state), [w]
    for _ in range(steps):
        w, state = flow.step(objective.at(w, curvature=True), state)
        visited.append(w)
    return torch.stack(visited), state


@pytest.mark.parametrize("h, stride", [((2.0,), 1), ((2.0,), 3), ((1.0, 1.0, 30.0), 3)])
def test_rmsprop_in_bowls(h, stride):
    eta, rule = 0.1, RMSProp(0.1, beta2=0.95)
    nu = (eta * vector(*h) / 2).square() * 3  # below the edge: y and nu decay first
    flow = CentralFlow(rule, stride=stride)
    w, state = follow(flow, bowls(*h), torch.full_like(nu, 0.01), frozen(nu), 150)
    h = vector(*h)
    # nu is held by steps of dt: off by (r dt)^2 / 2 of it where it is held to first order
    torch.testing.assert_close(state.rule.nu, (eta * h / 2).square(), rtol=0.02, atol=0)
    U = state.tracker.last.vectors * state.P.rsqrt()[:, None]
    variances = np.diag(U.numpy() @ state.covariance @ U.numpy().T)
    np.testing.assert_allclose(variances, eta**2 / 4, rtol=0.02)
    assert state.excess == pytest.approx(float(h.sum()) * eta**2 / 8, rel=0.02)
    expected = float(h.square().sum()) * eta**2 / 4
    assert state.excess_square == pytest.approx(expected, rel=0.02)
    assert state.phi == 0  # no third derivatives: all by the preconditioner
    assert (w[-1].abs() < 1e-6).all()  # the mean of the jumps
    # and so does the real rule: +eta/2, -eta/2
    real, start = rule.step(
        bowls(*h).at(torch.full_like(h, eta / 2)), frozen(h**2 * eta**2 / 4)
    )
    torch.testing.assert_close(real, torch.full_like(h, -eta / 2), rtol=1e-6, atol=0)


def test_momentum_in_a_bowl():
    # now the threshold is 6/eta; each step moves by m / P with m = -g / 3 in turn
    eta, rule, h = 0.1, Adam(0.1, beta1=0.5, beta2=0.98), vector(2.0)
    edge = (eta * h / 6).square()
    flow = CentralFlow(rule, stride=1)
    _, state = follow(flow, bowls(2.0), vector(1e-3), frozen(2 * edge), 150)
    torch.testing.assert_close(state.rule.nu, edge, rtol=0.02, atol=0)
    # E[g^2] = nu: y = +- eta/6, as for the real rule that jumps between the two
    assert state.excess == pytest.approx(2.0 * (eta / 6) ** 2 / 2, rel=0.02)
    y, m = vector(eta / 6), -vector(2 * eta / 6) / 3
    after, moved = rule.step(bowls(2.0).at(y), Moments(0, m, edge))
    torch.testing.assert_close(after, -y, rtol=1e-6, atol=0)
    torch.testing.assert_close(moved.m, -m, rtol=1e-12, atol=0)


C, STIFF = 0.01, 2.0


def wavy(w):
    """A loss whose top eigenvector and second moments move all the time, (x, y, z)."""
    x, y, z = w
    return s(x) * y**2 / 2 - C * x + STIFF * (y - 0.3 * z) ** 2 / 2 + z**4 / 4 + z**2 / 4


def derivatives(w):
    """Its gradient [3], Hessian [3, 3] and grad (u^T H u) for a vector u, by hand."""
    x, y, z = w
    slope, pull = 1 + 2 * x, STIFF * (y - 0.3 * z)
    g = [slope * y**2 / 2 - C, (x + x**2) * y + pull, -0.3 * pull + z**3 + z / 2]
    rows = [
        [y**2, slope * y, 0],
        [slope * y, x + x**2 + STIFF, -0.3 * STIFF],
        [0, -0.3 * STIFF, 0.09 * STIFF + 3 * z**2 + 0.5],
    ]

    def third(u):
        a, b, c = u
        parts = [4 * a * b * y + b**2 * slope, 2 * a**2 * y + 2 * a * b * slope]
        return np.array([*parts, 6 * c**2 * z])

    return np.array(g), np.array(rows), third


def top(H, P):
    """Largest eigenvalue of P^-1 H, and its vector with u^T P u = 1."""
    values, vectors = np.linalg.eigh(H / np.sqrt(np.outer(P, P)))
    return values[-1], vectors[:, -1] / np.sqrt(P)


def exact_flow(rule: Adam, w, moments: Moments, time: float, held: bool):
    """(w, nu) after a time by DOP853, from the edge on: X = max(0, -A / B), no slack."""
    edge, eta = rule.max_stable_sharpness(0), rule.eta
    r1, r2 = ((1 - b) / (b * eta) if b else 0 for b in (rule.beta1, rule.beta2))

    def rates(_, state):
        w, nu, m = state.reshape(3, 3)
        P = np.sqrt(nu) + rule.eps
        g, H, third = derivatives(w)
        m, force, source = m if rule.beta1 else g, 0, 0
        if held:
            u = top(H, P)[1]
            D, dP = third(u), 1 / (2 * np.sqrt(nu))
            A = D @ (m / P) + edge * r2 * (u**2 * dP) @ (g**2 - nu)
            B = D @ (D / P) / 2 + edge * r2 * (u**2 * dP) @ (H @ u) ** 2
            X = max(0.0, -A / B)
            force, source = X * D / 2, X * (H @ u) ** 2
        return np.concatenate([-(m + force) / P, r2 * (g**2 + source - nu), r1 * (g - m)])

    start = torch.cat([w, moments.nu, moments.m]).numpy()
    end = solve_ivp(rates, (0, time), start, "DOP853", rtol=1e-9, atol=1e-12).y[:, -1]
    return torch.from_numpy(end[:6]).split(3)


def on_the_edge(rule: Adam):
    """A place whose second moment puts the top eigenvalue of P^-1 H on the edge."""
    w, nu = vector(1.5, 0.002, 0.02), vector(C**2, 0.003, 0.003)
    g, H, _ = derivatives(w.numpy())

    def excess(scale):
        P = np.sqrt(nu.numpy() * [1, scale, scale]) + rule.eps
        return top(H, P)[0] - rule.max_stable_sharpness(0)

    scale = brentq(excess, 1e-6, 1e6)
    return w, frozen(nu * vector(1, scale, scale), torch.from_numpy(g))


def test_the_derivatives_by_hand():
    w, u = vector(1.5, 0.3, 0.2), vector(0.4, -0.7, 0.2)
    point = Objective(wavy).at(w, curvature=True)
    g, H, third = derivatives(w.numpy())
    np.testing.assert_allclose(point.gradient, g, rtol=1e-12)
    np.testing.assert_allclose(point.hessian_product(u), H @ u.numpy(), rtol=1e-12)
    fields = point.curvature_gradients(u[:, None])[:, 0, 0]
    np.testing.assert_allclose(fields, third(u.numpy()), rtol=1e-12)


class Begun(Adam):
    """A rule whose flow sets off with the very moments that it is given."""

    def step(self, point, state):
        return point.w, state


RULES = {
    "RMSProp": Begun(0.02, 0.0, 0.999, eps=0.0),
    "Adam": Begun(0.02, 0.6, 0.999, eps=1e-3),
}


@pytest.mark.parametrize("name", RULES)
def test_the_stable_flow_against_a_stiff_solver(name):
    rule, steps, errors = RULES[name], 40, []
    w, moments = on_the_edge(rule)
    exact = exact_flow(rule, w, moments, steps * rule.eta, held=False)
    for part in (1, 4):  # the same flow, the same rates, a quarter of the step size
        betas = [b / (b + (1 - b) / part) for b in (rule.beta1, rule.beta2)]
        flow = CentralFlow(Begun(rule.eta / part, *betas, eps=rule.eps), terms=())
        visited, state = follow(flow, Objective(wavy), w, moments, steps * part)
        assert state.excess == 0 and np.isnan(state.phi)
        pairs = zip((visited[-1], state.rule.nu), exact, strict=True)
        errors.append(max(float((a - b).norm() / b.norm()) for a, b in pairs))
    assert float((exact[0] - w).norm()) > 0.5  # it does go somewhere
    # fourth order: 4^4; with momentum the coarse steps are halved (their frequency): 2^4
    assert errors[0] < 1e-5 and errors[0] > (16 if rule.beta1 else 256) * errors[1]


@pytest.mark.parametrize("name", RULES)
def test_the_central_flow_against_a_stiff_solver(name):
    rule, steps, errors = RULES[name], 40, []
    w, moments = on_the_edge(rule)
    exact, stable = (
        exact_flow(rule, w, moments, steps * rule.eta, held) for held in (True, False)
    )
    for stride in (1, 2, 4):
        flow = CentralFlow(rule, stride=stride)
        visited, state = follow(flow, Objective(wavy), w, moments, steps)
        gaps = visited[-1] - exact[0], state.rule.nu - exact[1]
        apart = stable[0] - exact[0], stable[1] - exact[1]
        errors.append(
            [float(a.norm() / b.norm()) for a, b in zip(gaps, apart, strict=True)]
        )
        held = float(state.tracker.last.values[0]) / rule.max_stable_sharpness(0)
        assert held == pytest.approx(1, abs=1e-4 * stride**2 + 1e-5)  # second order
    assert max(errors[0]) < 0.01  # of what the oscillation does to w and nu
    # at least first order: X waits for dt
    ratios = np.divide(errors[1:], errors[:-1])
    assert (ratios > 1.5).all() and (ratios[:, 0] < 2.5).all()
    assert 0.02 < state.phi < 0.5  # both terms take part


def test_rmsprop_follows_the_central_flow():
    rule, steps = RMSProp(0.02, beta2=0.999), 250
    w, moments = on_the_edge(rule)
    objective = Objective(wavy)
    central, stable = (
        follow(CentralFlow(rule, terms=terms), objective, w, moments, steps)[0]
        for terms in (TERMS, ())
    )
    x, real = w, [w]
    for _ in range(steps):
        x, moments = rule.step(objective.at(x), moments)
        real.append(x)
    x = torch.stack(real)[:, 0]
    gap, apart = ((flow[:, 0] - x).abs().mean() for flow in (central, stable))
    # x sways around the flow by 5 %, with the real rule's orbit (about 100 steps)
    assert x[-1] - x[0] > 2.5 and 5 * gap < apart


def test_two_critical_directions_of_rmsprop():
    h = vector(2.0, 2.0001)  # nearly the same P^-1 H: the solver may mix the directions
    rule = RMSProp(0.1, beta2=0.95)
    nu = (rule.eta * h / 2).square() * vector(1.05, 1.1)
    _, state = follow(
        CentralFlow(rule, stride=1), bowls(2.0, 2.0001), 0 * h, frozen(nu), 20
    )
    assert state.covariance.shape == (2, 2)
    torch.testing.assert_close(
        state.source, h.square() * rule.eta**2 / 4, rtol=0.02, atol=0
    )


@pytest.mark.parametrize("terms, phi", [(["sharpness"], 1), (["moment"], 0)])
def test_a_term_that_is_left_out(terms, phi):
    rule = RULES["RMSProp"]
    w, moments = on_the_edge(rule)
    flow = CentralFlow(rule, stride=1, terms=terms)
    _, state = follow(flow, Objective(wavy), w, moments, 20)
    assert state.phi == phi and state.excess > 0 and state.excess_square > 0
    moves = [torch.as_tensor(x).abs().max() > 0 for x in (state.force, state.source)]
    assert moves == [phi == 1, phi == 0]
    # solved for without it: the other term holds the eigenvalue all the same
    top = float(state.tracker.last.values[0]) / flow.max_stable_sharpness(0)
    assert top == pytest.approx(1, abs=5e-3)


def test_without_terms_the_flow_of_gradient_descent_is_gradient_flow():
    w = vector(3.0, 0.1)
    stable, state = path(CentralFlow(GD, terms=()), toy(1.0), w, 60)
    gradient, _ = path(GradientFlow(ETA), toy(1.0), w, 60)
    torch.testing.assert_close(stable, gradient, rtol=1e-12, atol=1e-14)
    assert float(s(stable[-1, 0])) > 2 * 2 / ETA and state.excess == 0


def test_predictions_for_gradient_descent():
    central, state = path(CentralFlow(GD), toy(1.0), vector(3.9, 0), 80)
    assert state.phi == 1
    # E[(s y)^2] + E[(s' y^2 / 2)^2]: diag(H Sigma H) is the first, on y alone
    assert state.excess_square == pytest.approx((2 / ETA) ** 2 * 2 / 9, rel=0.02)
    assert not hasattr(CentralFlow(GD), "preconditioner")


def test_the_flow_sets_off_with_the_moments_of_the_next_step():
    rule, w = RMSProp(0.02, beta2=0.9), vector(1.5, 0.2, 0.2)
    moments = frozen(vector(1.0, 2.0, 3.0))
    objective, flow = Objective(wavy), CentralFlow(rule)
    _, after = rule.step(objective.at(w), moments)
    _, state = flow.step(objective.at(w, curvature=True), flow.follow(moments))
    assert torch.equal(flow.preconditioner(state), rule.preconditioner(after))
    assert not torch.equal(state.rule.nu, after.nu)  # that of the end of the step
    new = flow.init(w)
    assert new.rule.count == 0 and not new.rule.nu.any()


def test_a_parameter_without_gradient_stays():
    objective = Objective(lambda w: w[0] ** 2)
    nu = vector(0.0101, 0.0)
    w, state = follow(
        CentralFlow(RMSProp(0.1)), objective, vector(0.0, 7.0), frozen(nu), 30
    )
    assert w[-1, 1] == 7 and state.rule.nu[1] < 1e-30 and state.excess > 0


@pytest.mark.parametrize(
    "rule, message",
    [
        (HeavyBall(0.1, 0.9), "no central flow is known for HeavyBall"),
        (0.1, "no central flow is known for 0.1"),
        (GradientDescent(StepDrop(0.2, 0.1, at=3)), "a constant step size"),
        (Adam(0.1, bias_correction=True), "without bias correction"),
        (RMSProp(0.1, beta2=0.0), "beta2 must be positive"),
    ],
)
def test_a_rule_that_cannot_be_followed(rule, message):
    with pytest.raises(ValueError, match=message):
        CentralFlow(rule)


def test_terms_that_make_no_sense():
    with pytest.raises(ValueError, match="unknown term 'nu'.*'moment'"):
        CentralFlow(RMSProp(0.1), terms=["nu"])
    with pytest.raises(ValueError, match="no second moment"):
        CentralFlow(GD, terms=["moment"])

"""common.interpolators: formulas against autograd, exact Hessians, phase 1."""

from functools import partial

import numpy as np
import pytest
import torch

from common.interpolators import (
    ImageNet,
    MatrixSensing,
    TeacherStudent,
    drift,
    flattest,
    interpolate,
)

SMALL = {
    "matrix sensing": partial(MatrixSensing.draw, problems=2, d=3, n=5),
    "teacher-student": partial(TeacherStudent.draw, problems=2, d=3, n=4, width=5),
    "images": partial(ImageNet.draw, problems=2, classes=3, n=4, width=(7, 6)),
}
RUNS = 3


@pytest.fixture(scope="module", params=SMALL)
def drawn(request):
    """A system and w_0, in float64."""
    return SMALL[request.param](5)


def some_runs(system, w):
    """Different points for each run, and noise."""
    draw = torch.Generator().manual_seed(1)
    many = system.repeat(w, RUNS)
    many = many + 0.3 * torch.randn(many.shape, generator=draw, dtype=many.dtype)
    noise = torch.randn(system.residuals(many).shape, generator=draw, dtype=many.dtype)
    return many, noise


def by_run(system, w):
    """[D, R, P], whatever the layout."""
    return w if system.runs_first else w.mT


def plain_function(system, problem):
    """The model written down once more, by the book: w [P] -> outputs / sqrt(n)."""
    if isinstance(system, MatrixSensing):
        d = system.dimension
        A = system.A[problem].view(-1, d, d)
        return lambda w: (A * (w[: d * d].view(d, d) @ w[d * d :].view(d, d).T)).sum((1, 2))
    x = system.x[problem]
    if isinstance(system, TeacherStudent):
        n, d = x.shape

        def f(w):
            h = len(w) // (d + 1)
            return torch.tanh(x @ w[: h * d].view(h, d).T) @ w[h * d :] / n**0.5

        return f

    def f(w):
        h, place = x, 0
        sizes = [x.shape[1], *system.width[0].tolist(), system.y.shape[-1]]
        for i, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False)):
            W = w[place : place + a * b].view(a, b)
            h = h @ W + w[place + a * b : place + a * b + b]
            place += a * b + b
            h = h.tanh() if i < len(sizes) - 2 else h
        return h.flatten() / len(x) ** 0.5

    return f


def test_residuals_gradient_and_trace_are_those_of_autograd(drawn):
    system, w = drawn
    many, noise = some_runs(system, w)
    r, g, t = system.residuals(many), system.gradient(many, noise), system.trace(many)
    flat, slopes = by_run(system, many), by_run(system, g)
    for problem in range(2):
        f, y = plain_function(system, problem), system.y[problem].flatten()
        for run in range(RUNS):
            point = flat[problem, run].clone()
            residual = f(point) - y
            J = torch.autograd.functional.jacobian(f, point)
            # float64, sums of at most some hundred numbers of order one
            torch.testing.assert_close(r[problem, :, run], residual)
            shifted = residual - noise[problem, :, run]
            torch.testing.assert_close(slopes[problem, run], J.T @ shifted)
            torch.testing.assert_close(t[problem, run], J.square().sum())
    torch.testing.assert_close(system.loss(many), r.square().sum(1) / 2)


def test_single_precision_only_rounds(drawn):
    system, w = drawn
    many, noise = some_runs(system, w)
    single = system.to(torch.float32)
    close = {"rtol": 1e-4, "atol": 1e-4}  # some hundred roundings of 6e-8, numbers up to 30
    torch.testing.assert_close(
        single.gradient(many.float(), noise.float()).double(),
        system.gradient(many, noise),
        **close,
    )
    torch.testing.assert_close(
        single.trace(many.float()).double(), system.trace(many), **close
    )


def test_on_gamma_the_trace_is_that_of_the_hessian(drawn):
    system, w = drawn
    w = interpolate(system, w)
    assert system.residuals(w).norm(dim=1).max() < 1e-10
    J, flat = system.jacobian(w), by_run(system, w)
    for problem in range(2):
        f, y = plain_function(system, problem), system.y[problem].flatten()

        def loss(w, f=f, y=y):
            return (f(w) - y).square().sum() / 2

        H = torch.autograd.functional.hessian(loss, flat[problem, 0])
        # the second term of H, r times second derivatives, is below 1e-10 times P
        torch.testing.assert_close(H, J[problem].T @ J[problem], rtol=0, atol=1e-8)
        assert system.trace(w)[problem, 0] == pytest.approx(float(H.trace()), rel=1e-9)
        top = float(torch.linalg.eigvalsh(H)[-1])
        assert system.sharpness(w)[problem] == pytest.approx(top, rel=1e-9)


def test_some_of_the_problems_and_repeated_points(drawn):
    system, w = drawn
    second = system.only(slice(1, 2))
    torch.testing.assert_close(second.trace(w[1:]), system.trace(w)[1:])
    assert system.trace(system.repeat(w, 4)).shape == (2, 4)
    scaled = system.per_run(torch.tensor([[1.0], [2.0]])) * w
    torch.testing.assert_close(scaled[1], 2 * w[1])
    assert system.test_error(system.repeat(w, 4)).shape == (2, 4)


def test_a_gauss_newton_step_halves_where_the_whole_one_overshoots():
    system, w = MatrixSensing.draw(0, 2, d=3, n=5)
    far = 3 * w
    assert (system.loss(system.retract(far, 6)) <= system.loss(system.retract(far))).all()
    assert (system.loss(system.retract(far, 6)) < system.loss(far)).all()


def test_the_flattest_matrix_is_the_true_one():
    # 15 measurements of 25 entries: of all that fit, the one of rank 1 is flattest
    system, w = MatrixSensing.draw(0, 2)
    w = interpolate(system, w)
    flat = flattest(system, w)
    assert system.residuals(flat).norm(dim=1).max() < 1e-10
    assert (system.trace(flat) < system.trace(w)).all()
    assert system.test_error(flat).max() < 1e-3 < system.test_error(w).min()


def test_the_drift_stays_on_gamma_and_has_the_rate_of_the_projected_gradient():
    system, w = TeacherStudent.draw(0, 2, d=6, n=8, width=16)
    w = interpolate(system, w)
    least = system.trace(flattest(system, w))[:, 0]
    tau, trace = drift(system, w, least, steps=60, share=0.01)
    assert (trace.diff(dim=1) < 0).all() and (tau.diff(dim=1) > 0).all()
    # half the steps, twice the size: Euler's error is first order, 60 x .01^2 / 2 = .003
    again = drift(system, w, least, steps=30, share=0.02)
    for d in range(2):
        other = np.interp(tau[d], again[0][d], again[1][d])
        inside = tau[d] <= again[0][d, -1]
        np.testing.assert_allclose(other[inside], trace[d][inside], rtol=0.01)


def test_images_are_of_the_sample_and_shared_by_no_problem():
    system, w = ImageNet.draw(0, 2, classes=3, n=6, width=(5,))
    assert system.x.shape == (2, 6, 49) and w.shape == (2, 1, 49 * 5 + 5 + 5 * 3 + 3)
    assert not torch.equal(system.x[0], system.x[1])
    assert (system.y * 6**0.5).sum(-1).allclose(torch.ones(2, 6, dtype=torch.float64))
    assert system.fresh.shape == (2, 300, 49)


@pytest.mark.parametrize("draw", SMALL.values())
def test_the_same_seed_gives_the_same_problems(draw):
    (a, v), (b, w) = draw(3), draw(3)
    assert torch.equal(v, w) and torch.equal(a.y, b.y)
    assert not torch.equal(v, draw(4)[1])


@pytest.mark.parametrize("draw", SMALL.values())
def test_sizes_must_be_positive(draw):
    with pytest.raises(ValueError, match="positive"):
        draw(0, n=0)

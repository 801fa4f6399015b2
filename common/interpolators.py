"""Nets that can fit their labels exactly, many runs at once: paper 004's valleys.

Each is a loss L = 1/2 sum_i r_i^2 of scaled residuals r_i = (f_i - y_i) / sqrt(n), the mean
over n samples; its zeros are the manifold Gamma. There H = J^T J, J = dr/dw, so that

    tr H = sum_i |grad r_i|^2,

which is what label noise descends. `gradient` takes the noise: the labels y_i + eps sqrt(n)
xi_i give J^T (r - eps xi), equation (1) of the paper with sigma = J^T. All formulas are
written by hand, for D problems and R runs on each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Self

import torch
from scipy.optimize import minimize
from torch import Tensor

from common.data import load


class Interpolator:
    """What matrix sensing, teacher-student and the images have in common.

    A subclass is a frozen dataclass of tensors with a leading axis of D problems. Its
    weights w have the shape `[D, P, R]`, or `[D, R, P]` if `runs_first`; residuals and
    noise are `[D, n, R]` everywhere.
    """

    runs_first = False

    def residuals(self, w: Tensor) -> Tensor:
        """Residuals r [D, n, R]."""
        raise NotImplementedError

    def gradient(self, w: Tensor, noise: Tensor) -> Tensor:
        """J^T (r - noise), like w; noise [D, n, R]."""
        raise NotImplementedError

    def trace(self, w: Tensor) -> Tensor:
        """|J|^2 [D, R]: the trace of the Hessian wherever r = 0. Differentiable."""
        raise NotImplementedError

    def test_error(self, w: Tensor) -> Tensor:
        """How wrong the function is beyond the training samples [D, R]."""
        raise NotImplementedError

    def per_run(self, values: Tensor) -> Tensor:
        """Numbers [D, R] in a shape that multiplies w."""
        return values[:, None] if not self.runs_first else values[..., None]

    def repeat(self, w: Tensor, runs: int) -> Tensor:
        """The same point [.., 1] for many runs."""
        return w.repeat_interleave(runs, 1 if self.runs_first else 2)

    def only(self, problems: Tensor | slice) -> Self:
        """Some of the problems."""
        kept = {f.name: getattr(self, f.name)[problems] for f in fields(self)}
        return replace(self, **kept)

    def to(self, dtype: torch.dtype) -> Self:
        """The same in another precision."""
        kept = {f.name: getattr(self, f.name) for f in fields(self)}
        kept = {k: v.to(dtype) if v.is_floating_point() else v for k, v in kept.items()}
        return replace(self, **kept)

    def loss(self, w: Tensor) -> Tensor:
        """L [D, R]."""
        return self.residuals(w).square().sum(1) / 2

    def jacobian(self, w: Tensor) -> Tensor:
        """J [D, n, P] at one point of each problem: the gradient is linear in the noise."""
        n = self.residuals(w).shape[1]
        unit = torch.eye(n, dtype=w.dtype).expand(len(w), n, n)
        J = self.gradient(w, 0 * unit[..., :1]) - self.gradient(self.repeat(w, n), unit)
        return J if self.runs_first else J.mT

    def sharpness(self, w: Tensor) -> Tensor:
        """lambda_max of J^T J [D] at one point w of each problem."""
        return torch.linalg.matrix_norm(self.jacobian(w), 2).square()

    def retract(self, w: Tensor, shortest: int = 0) -> Tensor:
        """A Gauss-Newton step w - J^+ r: back to Gamma, from nearby.

        Args:
            w: One point of each problem.
            shortest: From far away, halve the step up to so many times: the best is taken.
        """
        J = self.jacobian(w)
        step = (J.mT @ torch.linalg.solve(J @ J.mT, self.residuals(w))).view_as(w)
        many = shortest + 1
        lengths = self.per_run(0.5 ** torch.arange(many, dtype=w.dtype).expand(len(w), -1))
        tried = self.repeat(w, many) - lengths * self.repeat(step, many)
        best = self.loss(tried).argmin(1)
        by_run = tried if self.runs_first else tried.mT  # [D, R, P]
        return by_run[torch.arange(len(w)), best].view_as(w)


@dataclass(frozen=True)
class MatrixSensing(Interpolator):
    """f_i = <A_i, U V^T>, A_i Gaussian [d, d], the labels from a matrix of rank 1.

    w = (U, V), both [d, d]: the factorisation says nothing about the rank, a solution of
    low rank is found because it is flat. The test error is |U V^T - W*|^2 / |W*|^2.

    Args:
        A: Sensing matrices / sqrt(n) [D, n, d^2].
        y: Labels / sqrt(n) [D, n, 1].
        truth: W* [D, d^2, 1].
    """

    A: Tensor
    y: Tensor
    truth: Tensor

    @classmethod
    def draw(
        cls, seed: int, problems: int, d: int = 5, n: int = 15, scale: float = 1.5
    ) -> tuple[Self, Tensor]:
        """D problems and where training starts, w_0 [D, 2 d^2, 1] with the given scale."""
        _positive(problems=problems, d=d, n=n, scale=scale)
        draw = _normal(seed)
        A = draw(problems, n, d * d) / n**0.5
        left, right = draw(2, problems, d, 1)
        truth = (left @ right.mT).view(problems, d * d, 1)
        w = scale * draw(problems, 2 * d * d, 1) / d**0.5
        return cls(A, A @ truth, truth), w

    @cached_property
    def _transposed(self) -> Tensor:
        return self.A.mT.contiguous()

    @cached_property
    def _squares(self) -> tuple[Tensor, Tensor]:
        """sum_i A_i^T A_i and sum_i A_i A_i^T, [D, d, d]."""
        d = self.dimension
        A = self.A.view(*self.A.shape[:2], d, d)
        return (A.mT @ A).sum(1), (A @ A.mT).sum(1)

    @property
    def dimension(self) -> int:
        """Rows of a matrix, d."""
        return round(self.A.shape[-1] ** 0.5)

    def _factors(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """U and V [D, d, d, R]."""
        U, V = w.chunk(2, dim=1)
        shape = (len(w), self.dimension, self.dimension, -1)
        return U.view(shape), V.view(shape)

    def _product(self, w: Tensor) -> Tensor:
        """U V^T [D, d^2, R]. Not by `matmul`: stacks of 5 x 5 matrices are slow there."""
        U, V = self._factors(w)
        return (U[:, :, None] * V[:, None]).sum(3).view(len(w), -1, w.shape[-1])

    def residuals(self, w: Tensor) -> Tensor:
        """Residuals r [D, n, R]."""
        return self.A @ self._product(w) - self.y

    def gradient(self, w: Tensor, noise: Tensor) -> Tensor:
        """J^T (r - noise), like w."""
        U, V = self._factors(w)
        G = self._transposed @ (self.residuals(w) - noise)  # dL/dW
        G = G.view(U.shape[:3] + G.shape[-1:])
        left = (G[..., None, :] * V[:, None]).sum(2)  # G V
        right = (G[..., None, :] * U[:, :, None]).sum(1)  # G^T U
        return torch.cat([left, right], 1).view(len(w), -1, G.shape[-1])

    def trace(self, w: Tensor) -> Tensor:
        """|J|^2 [D, R]."""
        # sum_i |A_i V|^2 + |A_i^T U|^2
        total = 0.0
        for square, factor in zip(self._squares, self._factors(w)[::-1], strict=True):
            columns = factor.flatten(2)  # [D, d, d R]
            total = total + ((square @ columns) * columns).view_as(factor).sum((1, 2))
        return total

    def test_error(self, w: Tensor) -> Tensor:
        """See the class [D, R]."""
        error = (self._product(w) - self.truth).square().sum(1)
        return error / self.truth.square().sum(1)


@dataclass(frozen=True)
class TeacherStudent(Interpolator):
    """f(x) = sum_j v_j tanh(u_j . x), the labels from such a net with fewer units.

    w = (u [h, d], v [h]). The test error is the mean squared error on fresh inputs, in
    units of the labels' mean square there.

    Args:
        x: Inputs [D, n, d].
        y: Labels / sqrt(n) [D, n, 1].
        fresh: Inputs of the test [D, m, d].
        answers: Labels of the test [D, m, 1].
    """

    x: Tensor
    y: Tensor
    fresh: Tensor
    answers: Tensor

    @classmethod
    def draw(
        cls,
        seed: int,
        problems: int,
        d: int = 4,
        n: int = 10,
        width: int = 12,
        teacher: int = 2,
        scale: float = 1.0,
    ) -> tuple[Self, Tensor]:
        """D problems and where training starts, w_0 [D, h (d + 1), 1]."""
        _positive(problems=problems, d=d, n=n, width=width, teacher=teacher, scale=scale)
        draw = _normal(seed)
        x, fresh = draw(problems, n, d), draw(problems, 200, d)
        truth = draw(problems, teacher * (d + 1), 1)
        y, answers = _units(truth, x)[2] / n**0.5, _units(truth, fresh)[2]
        return cls(x, y, fresh, answers), scale * draw(problems, width * (d + 1), 1)

    def residuals(self, w: Tensor) -> Tensor:
        """Residuals r [D, n, R]."""
        return _units(w, self.x)[2] / self.x.shape[1] ** 0.5 - self.y

    def gradient(self, w: Tensor, noise: Tensor) -> Tensor:
        """J^T (r - noise), like w."""
        s, v, f = _units(w, self.x)
        root = self.x.shape[1] ** 0.5
        r = ((f / root - self.y - noise) / root)[:, None]
        sr = s * r
        outer = 2 * sr.sum(2) - r.sum(2)  # sum_n tanh r [D, h, R]
        sr = sr.addcmul_(sr, s, value=-1)  # s (1 - s) r, a quarter of tanh' r
        inner = 4 * v * (self.x.mT[:, None] @ sr)  # [D, h, d, R]
        return torch.cat([inner.flatten(1, 2), outer], 1)

    def trace(self, w: Tensor) -> Tensor:
        """|J|^2 [D, R]."""
        # mean over samples of sum_j tanh^2 + v_j^2 tanh'^2 |x|^2
        s, v, _ = _units(w, self.x)
        size = self.x.square().sum(-1)[:, None, :, None]
        squares = (2 * s - 1).square() + (4 * v * s * (1 - s)).square() * size
        return squares.sum(1).mean(1)

    def test_error(self, w: Tensor) -> Tensor:
        """See the class [D, R]."""
        error = (_units(w, self.fresh)[2] - self.answers).square().mean(1)
        return error / self.answers.square().mean(1)


def _units(w: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sigmoids s [D, h, n, R] with tanh(u . x) = 2 s - 1; v [D, h, 1, R]; f [D, n, R].

    The sigmoid is three times as fast as tanh.
    """
    d, R = x.shape[-1], w.shape[-1]
    h = w.shape[1] // (d + 1)
    u, v = w[:, : h * d].reshape(len(w), h, d, R), w[:, h * d :, None]
    s = (x[:, None] @ (2 * u)).sigmoid()
    return s, v, 2 * (s * v).sum(1) - v.sum(1)


@dataclass(frozen=True)
class ImageNet(Interpolator):
    """A fully connected tanh net on images: one residual for each image and class.

    The targets are one-hot, so there are n C residuals for n images and C classes. The test
    error is the share of test images whose largest output is not that of their class.

    Args:
        x: Images [D, n, pixels].
        y: Targets / sqrt(n) [D, n, C].
        fresh: Test images [D, m, pixels].
        labels: Their classes [D, m].
        width: Units of the hidden layers [D, layers], the same in every row.
    """

    x: Tensor
    y: Tensor
    fresh: Tensor
    labels: Tensor
    width: Tensor

    runs_first = True

    @classmethod
    def draw(
        cls,
        seed: int,
        problems: int = 1,
        data: str = "fashion_mnist",
        n: int = 24,
        classes: int = 10,
        size: int = 7,
        width: Sequence[int] = (12,) * 5,
        scale: float = 1.0,
    ) -> tuple[Self, Tensor]:
        """D nets, each on n training images of its own; w_0 [D, 1, P].

        The weights start from N(0, scale^2 / inputs), the biases from 0.
        """
        _positive(problems=problems, n=n, scale=scale, width=min(width, default=0))
        draw = _normal(seed)
        train, test = (
            load(data, classes=classes, size=size, split=s) for s in ("train", "test")
        )
        x, fresh = (images.x.flatten(1).double() for images in (train, test))
        rows = torch.rand(problems, len(x), generator=draw.generator).argsort(1)[:, :n]
        y = torch.nn.functional.one_hot(train.y[rows], len(train.classes)).double()
        sizes = [x.shape[1], *width, y.shape[-1]]
        w = []
        for inputs, outputs in zip(sizes, sizes[1:], strict=False):
            w.append(scale * draw(problems, 1, inputs * outputs) / inputs**0.5)
            w.append(draw(problems, 1, outputs) * 0)
        expand = torch.tensor(list(width)).expand(problems, -1)
        share = fresh.expand(problems, -1, -1), test.y.expand(problems, -1)
        return cls(x[rows], y / n**0.5, *share, expand), torch.cat(w, 2)

    def _layers(self, w: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Matrices [D R, inputs, outputs] and biases [D R, 1, outputs]."""
        sizes = [self.x.shape[-1], *self.width[0].tolist(), self.y.shape[-1]]
        pairs = list(zip(sizes, sizes[1:], strict=False))
        parts = w.flatten(0, 1).split([k for i, o in pairs for k in (i * o, o)], 1)
        shapes = [s for i, o in pairs for s in ((i, o), (1, o))]
        views = [part.unflatten(1, s) for part, s in zip(parts, shapes, strict=True)]
        return list(zip(views[::2], views[1::2], strict=True))

    def _forward(self, w: Tensor, x: Tensor) -> list[Tensor]:
        """Inputs, hidden layers and outputs, each [D R, n, ..]."""
        layers = [x.repeat_interleave(w.shape[1], 0)]  # [D R, n, pixels]
        *hidden, last = self._layers(w)
        for W, b in hidden:
            layers.append(_tanh(torch.baddbmm(b, layers[-1], W)))
        return [*layers, torch.baddbmm(last[1], layers[-1], last[0])]

    def _errors(self, f: Tensor) -> Tensor:
        """Residuals r [D, R, n, C]."""
        f = f.view(len(self.x), -1, *f.shape[1:])
        return f / self.x.shape[1] ** 0.5 - self.y[:, None]

    def residuals(self, w: Tensor) -> Tensor:
        """Residuals r [D, n, R]."""
        return self._errors(self._forward(w, self.x)[-1]).flatten(2).mT

    def gradient(self, w: Tensor, noise: Tensor) -> Tensor:
        """J^T (r - noise), like w."""
        *layers, f = self._forward(w, self.x)
        r = self._errors(f)
        r = (r - noise.mT.reshape(r.shape)).flatten(0, 1) / self.x.shape[1] ** 0.5
        matrices = [W for W, _ in self._layers(w)]
        parts = []
        for i in reversed(range(len(layers))):
            parts += [r.sum(1), (layers[i].mT @ r).flatten(1)]
            if i:
                r = r @ matrices[i].mT
                r = r.addcmul_(r * layers[i], layers[i], value=-1)
        return torch.cat(parts[::-1], 1).view(w.shape)

    def trace(self, w: Tensor) -> Tensor:
        """|J|^2 [D, R]."""
        # sum over layers of (|h|^2 + 1) |B|^2, B the derivatives of all outputs
        *layers, f = self._forward(w, self.x)
        n, C = f.shape[1:]
        matrices = [W for W, _ in self._layers(w)]
        B = torch.eye(C, dtype=w.dtype).expand(*f.shape, C)
        total = 0.0
        for i in reversed(range(len(layers))):
            size = layers[i].square().sum(-1) + 1  # [D R, n]
            total = total + (size * B.square().sum((-1, -2))).sum(-1)
            if i:
                B = (B.flatten(1, 2) @ matrices[i].mT).unflatten(1, (n, C))
                B = B * (1 - layers[i].square())[:, :, None]
        return total.view(w.shape[:2]) / n

    def test_error(self, w: Tensor) -> Tensor:
        """See the class [D, R]."""
        guess = self._forward(w, self.fresh)[-1].argmax(-1).view(*w.shape[:2], -1)
        return (guess != self.labels[:, None]).to(w.dtype).mean(-1)


def _tanh(z: Tensor) -> Tensor:
    """As 2 sigmoid(2 z) - 1, in place: three times as fast, the same absolute error."""
    return z.tanh() if z.requires_grad else z.mul_(2).sigmoid_().mul_(2).sub_(1)


class _normal:
    """Normal numbers of a seed, in float64."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)


def _positive(**numbers: float) -> None:
    if min(numbers.values()) <= 0:
        raise ValueError(f"all of these must be positive: {numbers}")


def interpolate(
    system: Interpolator, w: Tensor, steps: int = 1500, beta: float = 0.9
) -> Tensor:
    """Phase 1: from w_0 to Gamma, by heavy ball and then a few Gauss-Newton steps.

    The step size is 1 / (2 lambda_max); it falls where lambda_max or the loss grows.

    Args:
        system: D problems.
        w: w_0, one run.
        steps: Of heavy ball.
        beta: Its momentum.

    Returns:
        w on Gamma, |r| < 1e-10, like w.

    Raises:
        ArithmeticError: If a problem does not get there.
    """
    none, move, kept = 0 * system.residuals(w), torch.zeros_like(w), w
    eta, least = torch.full((2, len(w), 1), torch.inf, dtype=w.dtype)
    for k in range(steps):
        if k % 50 == 0:
            loss = system.loss(w)
            if k:  # back where it has grown, with half the step
                worse = ~(loss <= least)
                back = system.per_run(worse)
                w, move = torch.where(back, kept, w), torch.where(back, 0, move)
                eta, loss = (
                    torch.where(worse, eta / 2, eta),
                    torch.where(worse, least, loss),
                )
            kept, least = w, loss
            eta = torch.minimum(eta, 0.5 / system.sharpness(w)[:, None])
        move = beta * move - system.per_run(eta) * system.gradient(w, none)
        w = w + move
    w = torch.where(system.per_run(system.loss(w) <= least), w, kept)
    for _ in range(20):
        w = system.retract(w, shortest=6)
    worst = system.residuals(w).norm(dim=1).max()
    if not worst < 1e-10:
        raise ArithmeticError(f"phase 1 ended at a residual of {worst:.1e}")
    return w


def flattest(
    system: Interpolator,
    w: Tensor,
    steps: int = 300,
    penalties: Sequence[float] = (1e-2, 1e-3, 1e-4),
) -> Tensor:
    """The flattest point of Gamma that a descent on L + lambda tr H finds from w.

    No noise and no time scale enter: its tr H is the reference of the relaxation.

    Args:
        system: D problems.
        w: A point on Gamma, one run.
        steps: Of L-BFGS for each penalty, at most.
        penalties: lambda, one after the other.

    Returns:
        w on Gamma, like w.
    """
    x = w.flatten().numpy()
    for penalty in penalties:

        def value(x, penalty=penalty):
            at = torch.from_numpy(x).view(w.shape).requires_grad_()
            total = (system.loss(at) + penalty * system.trace(at)).sum()
            return total.item(), torch.autograd.grad(total, at)[0].flatten().numpy()

        options = {"maxiter": steps, "ftol": 0, "gtol": 1e-9}
        x = minimize(value, x, jac=True, method="L-BFGS-B", options=options).x
    w = torch.from_numpy(x).view(w.shape)
    for _ in range(20):
        w = system.retract(w, shortest=6)
    return w


def drift(
    system: Interpolator, w: Tensor, least: Tensor, steps: int = 250, share: float = 0.02
) -> tuple[Tensor, Tensor]:
    """Steepest descent of tr H within Gamma: what slow label noise does, without noise.

    To leading order in eps and eta, for mu well above its optimum, k steps of heavy ball
    with label noise move w by dw / dtau = - P grad tr H, P the projection on Gamma, with

        tau = k eps^2 eta^2 / (4 mu^2).

    Args:
        system: D problems.
        w: A point on Gamma of each.
        least: The least tr H [D]; the descent slows down as it comes near.
        steps: Each is one of Euler's, followed by a Gauss-Newton step back to Gamma.
        share: Of tr H - least that a step removes.

    Returns:
        tau and tr H, [D, steps + 1].
    """
    times, traces, tau = [], [], torch.zeros_like(least)
    for _ in range(steps + 1):
        at = w.detach().requires_grad_()
        value = system.trace(at)
        slope = torch.autograd.grad(value.sum(), at)[0].view(len(w), -1, 1)
        times.append(tau)
        traces.append(value.detach()[:, 0])
        J = system.jacobian(w)
        slope = slope - J.mT @ torch.linalg.solve(J @ J.mT, J @ slope)
        step = share * (traces[-1] - least) / slope.square().sum((1, 2))
        tau = tau + step
        w = system.retract(w - step[:, None, None] * slope.view_as(w))
    return torch.stack(times, 1), torch.stack(traces, 1)

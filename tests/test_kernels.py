"""common.kernels: both ways to K against autograd, and what follows from K."""

from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common import kernels
from common.data import Images
from common.kernels import (
    KernelProbe,
    TangentKernel,
    jacobian,
    largest_eigenvalue,
    split,
    tangent_kernel,
)
from common.models import convolutional, fully_connected
from common.objective import Objective, network
from common.optimizers import GradientDescent
from common.stochastic import MiniBatch
from common.training import train, trajectory
from common.wide import (
    wide_convolutional,
    wide_fully_connected,
    wide_resnet,
    wide_transformer,
)

# float64: K is a sum of up to 1e5 products, relative error 1e5 eps at the very worst
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def pictures(n: int = 5, outputs: int = 2, size: int = 8, channels: int = 1) -> Images:
    generator = torch.Generator().manual_seed(0)
    shape = (n, channels, size, size)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    y = torch.randn(n, outputs, generator=generator, dtype=torch.float64)
    return Images(x, torch.zeros(n, dtype=torch.int64), (), targets=y)


def build(make, images: Images, **options) -> tuple[Objective, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make(images.x.shape[1:], images.targets.shape[1], **options)
    return network(model, images, "mse")


def dense(objective: Objective, w: torch.Tensor) -> torch.Tensor:
    """J of all outputs at once, by plain reverse mode: the definition."""
    J = torch.autograd.functional.jacobian(objective.outputs, w)
    return J.flatten(0, 1)


class Odd(nn.Module):
    """Parameters used in ways that have no rule of their own."""

    def __init__(self, shape, outputs):
        super().__init__()
        self.shift, self.scale = (
            nn.Parameter(torch.randn(shape)),
            nn.Parameter(torch.randn(8)),
        )
        self.conv = nn.Conv2d(1, 4, 3, padding="same")
        self.group = nn.Conv2d(4, 4, 3, groups=2, dilation=2, padding=(2, 1), stride=(1, 2))
        self.norm = nn.GroupNorm(2, 4)
        self.layer = nn.LayerNorm(4)
        self.matrix = nn.Parameter(torch.randn(outputs, 4))

    def forward(self, x):
        x = (x + self.shift) * self.scale
        x = F.relu(self.norm(self.group(self.conv(x))), inplace=True)
        return torch.tanh(self.layer(x.mean((2, 3)))) @ self.matrix.T


class Tied(nn.Module):
    """One matrix, used twice."""

    def __init__(self, shape, outputs):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(64, 64) / 8)

    def forward(self, x):
        for _ in range(2):
            x = torch.tanh(F.linear(x.flatten(1), self.matrix))
        return x[:, :2]


class Scaled(nn.Module):
    """A product of parameters alone, with as many rows as there are samples."""

    def __init__(self, shape, outputs):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(5, 64))
        self.last = nn.Parameter(torch.randn(2, 5))

    def forward(self, x):
        return F.linear(torch.tanh(F.linear(x.flatten(1), self.matrix / 8)), self.last)


class Token(nn.Module):
    """A class token in a list of tensors, and tokens that lead in one layer."""

    def __init__(self, shape, outputs):
        super().__init__()
        self.token, self.mix = nn.Parameter(torch.randn(1, 1, 8)), nn.Linear(8, 2)

    def forward(self, x):
        x = torch.cat(
            [self.token.expand(len(x), 1, 8), x.flatten(2).view(len(x), -1, 8)], 1
        )
        return self.mix(torch.tanh(x)).mean(1)


class InPlace(nn.Module):
    """Overwrites what a layer put out."""

    def __init__(self, shape, outputs):
        super().__init__()
        self.first, self.last = nn.Linear(64, 4), nn.Linear(4, outputs)

    def forward(self, x):
        return self.last(self.first(self.first(x.flatten(1)).repeat(1, 16)[:, :64]).sin_())


class Bias(nn.Module):
    """A weight that is no parameter."""

    def __init__(self, shape, outputs):
        super().__init__()
        self.register_buffer("fixed", torch.randn(3, 64))
        self.bias, self.last = nn.Parameter(torch.randn(3)), nn.Linear(3, outputs)

    def forward(self, x):
        return self.last(torch.tanh(F.linear(x.flatten(1), self.fixed, bias=self.bias)))


class Expanded(nn.Module):
    """A parameter in as many copies as there are samples."""

    def __init__(self, shape, outputs):
        super().__init__()
        self.shift, self.last = nn.Parameter(torch.randn(64)), nn.Linear(64, outputs)

    def forward(self, x):
        return self.last(torch.tanh(x.flatten(1) + self.shift.expand(len(x), -1)))


class Masked(nn.Module):
    """A parameter that meets a mask made of the samples."""

    def __init__(self, shape, outputs):
        super().__init__()
        self.low, self.last = nn.Parameter(torch.randn(64)), nn.Linear(64, outputs)

    def forward(self, x):
        x = x.flatten(1)
        return self.last(torch.tanh(torch.where(x > 0, x, self.low)))


class Cube(torch.autograd.Function):
    """(a b)^3, in a way that nobody can look into."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a, b):
        return (a * b) ** 3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, cotangent):
        a, b = ctx.saved_tensors
        step = 3 * (a * b) ** 2 * cotangent
        return step * b, (step * a).sum(0)


class Hidden(nn.Module):
    """A parameter in a function of one's own."""

    def __init__(self, shape, outputs):
        super().__init__()
        self.factor, self.last = nn.Parameter(torch.randn(64)), nn.Linear(64, outputs)

    def forward(self, x):
        return self.last(Cube.apply(x.flatten(1), self.factor))


class Unused(nn.Module):
    """A parameter that nothing depends on, as far as one can see."""

    def __init__(self, shape, outputs):
        super().__init__()
        self.factor, self.last = nn.Parameter(torch.randn(64)), nn.Linear(64, outputs)

    def forward(self, x):
        return self.last(x.flatten(1))


class Random(nn.Module):
    """A function that can not be repeated sample by sample."""

    def __init__(self, shape, outputs):
        super().__init__()
        self.spread = nn.Parameter(torch.rand(64))

    def forward(self, x):
        return torch.normal(x.flatten(1), self.spread)


class Mixed(nn.Module):
    """Each sample sees the mean of all."""

    def __init__(self, shape, outputs):
        super().__init__()
        self.layer = nn.Linear(64, outputs)

    def forward(self, x):
        x = torch.tanh(self.layer(x.flatten(1)))
        return x - x.mean(0)


def tokens(shape, outputs):
    """A layer on 16 tokens of 4 pixels, with a bias."""
    first, last = nn.Linear(4, 3), nn.Linear(48, outputs)
    return nn.Sequential(
        nn.Unflatten(3, (2, 4)), nn.Flatten(1, 3), first, nn.Tanh(), Last(last)
    )


class Last(nn.Module):
    def __init__(self, last):
        super().__init__()
        self.last = last

    def forward(self, x):
        return self.last(x.flatten(1))


WITH_RULES = [
    (wide_fully_connected, {"width": (6, 7)}),
    (wide_convolutional, {"channels": 3}),
    (wide_resnet, {"base": 4}),
    (wide_transformer, {"patch": 4, "dim": 8, "blocks": 2, "heads": 2}),
    (fully_connected, {"width": (4, 3), "activation": "relu"}),
    (convolutional, {"width": (3, 2)}),
    (tokens, {}),
    (Odd, {}),
    (Bias, {}),
]


# ---------------------------------------------------------------- K


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("make, options", WITH_RULES)
def test_both_ways_to_the_kernel_equal_the_definition(make, options, outputs):
    objective, w = build(make, pictures(outputs=outputs), **options)
    J = dense(objective, w)
    for method in ("layers", "jacobian"):
        K = tangent_kernel(objective, w, method)
        torch.testing.assert_close(K.matrix, J @ J.T, **EXACT)
        torch.testing.assert_close(K.outputs, objective.outputs(w), **EXACT)
        assert not K.matrix.requires_grad and not K.outputs.requires_grad


@pytest.mark.parametrize(
    "make", [Tied, Scaled, Token, InPlace, Expanded, Masked, Hidden, Unused]
)
def test_what_has_no_rule_goes_by_jacobians(make):
    objective, w = build(make, pictures())
    J = dense(objective, w)
    torch.testing.assert_close(tangent_kernel(objective, w).matrix, J @ J.T, **EXACT)
    with pytest.raises(ValueError):
        tangent_kernel(objective, w, "layers")


def test_a_random_function_has_no_rule():
    objective, w = build(Random, pictures())
    with pytest.raises(ValueError, match="does not work sample by sample"):
        tangent_kernel(objective, w, "layers")


@pytest.mark.parametrize("budget", [1, 2**10, 2**13])
@pytest.mark.parametrize("make, options", [WITH_RULES[1], WITH_RULES[5]])
def test_little_memory_gives_the_same(monkeypatch, budget, make, options):
    objective, w = build(make, pictures(n=7), **options)
    J = dense(objective, w)
    monkeypatch.setattr(kernels, "BUDGET", budget)
    for method in ("layers", "jacobian"):
        K = tangent_kernel(objective, w, method).matrix
        torch.testing.assert_close(K, J @ J.T, **EXACT)


@pytest.mark.parametrize("T", [1, 9])
@pytest.mark.parametrize("cost", [0, 1e9])
def test_gram_matrices_and_gradients_give_the_same_products(monkeypatch, T, cost):
    monkeypatch.setattr(kernels, "ELEMENTWISE", cost)  # one or the other
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(4, T, 5, generator=generator, dtype=torch.float64)
    B = torch.randn(4, 3, T, 2, generator=generator, dtype=torch.float64)
    K = torch.zeros(12, 12, dtype=torch.float64)
    kernels._products(K, A, B, weight=True, bias=True)
    G = torch.einsum("ncto,nti->ncoi", B, A).reshape(12, -1)
    b = B.sum(2).reshape(12, -1)
    torch.testing.assert_close(K, G @ G.T + b @ b.T, **EXACT)


def test_the_kernel_of_a_batch_is_a_block():
    objective, w = build(wide_fully_connected, pictures(n=6, outputs=2), width=(5,))
    rows = torch.tensor([4, 0, 3])
    whole, part = tangent_kernel(objective, w), tangent_kernel(objective.batch(rows), w)
    places = torch.tensor([8, 9, 0, 1, 6, 7])
    torch.testing.assert_close(part.matrix, whole.matrix[places][:, places], **EXACT)
    assert whole.eta_crit(rows) == pytest.approx(part.eta_crit(), rel=1e-12)


def test_float32_is_as_exact_as_it_can_be():
    images = pictures(n=20, outputs=1)
    exact = tangent_kernel(*build(wide_convolutional, images, channels=6)).matrix
    single = Images(images.x.float(), images.y, (), images.targets)
    objective, w = build(wide_convolutional, single, channels=6)
    for method in ("layers", "jacobian"):
        K = tangent_kernel(objective, w, method).matrix
        assert K.dtype == torch.float32
        assert (K - exact).norm() < 1e-5 * exact.norm()  # 100 roundings of 1e-7


def test_a_wrong_call_is_refused():
    objective, w = build(wide_fully_connected, pictures())
    with pytest.raises(ValueError, match="unknown method 'ntk'"):
        tangent_kernel(objective, w, "ntk")
    with pytest.raises(ValueError, match="objective with a network"):
        tangent_kernel(Objective(torch.sum), w)
    for s in (0, 11):
        with pytest.raises(ValueError, match="s must lie in 1 ... 10"):
            tangent_kernel(objective, w).top(s)


@pytest.mark.parametrize("method", ["layers", "jacobian"])
def test_batch_normalisation_is_refused(method):
    objective, w = build(convolutional, pictures(), batch_norm=True)
    with pytest.raises(ValueError, match="mixes the samples"):
        tangent_kernel(objective, w, method)


# ---------------------------------------------------------------- step sizes


def test_critical_step_size_is_where_the_linear_model_starts_to_diverge():
    """On a linear model the training loss itself says so: it falls below, rises above."""
    images = pictures(n=6, outputs=2, size=2)
    objective, w = build(wide_fully_connected, images, width=())
    for data in (objective, objective.batch(torch.tensor([0, 1]))):
        eta = tangent_kernel(data, w).eta_crit()
        for factor, falls in ((0.95, True), (1.05, False)):
            rule = GradientDescent(factor * eta)
            *_, last = islice(trajectory(data, rule, w), 200)
            assert (last.point.loss < data.at(w).loss) == falls


def test_eta_crit_of_nothing():
    kernel = TangentKernel(torch.zeros(2, 2), torch.zeros(2, 1))
    assert kernel.eta_crit() == kernel.eta_crit(torch.tensor([1])) == np.inf


def test_trace_and_norms():
    objective, w = build(wide_fully_connected, pictures(), width=(5,))
    K = tangent_kernel(objective, w)
    values = np.linalg.eigvalsh(K.matrix.numpy())
    assert K.trace == pytest.approx(values.sum())
    assert K.frobenius == pytest.approx(np.linalg.norm(values))
    assert K.lambda_max == pytest.approx(values[-1])
    fresh = tangent_kernel(objective, w)
    fresh.top(2)  # now from the full decomposition
    assert fresh.lambda_max == pytest.approx(values[-1])


@pytest.mark.parametrize("size", [30, 700])
def test_eigenpairs_small_and_large(size):
    generator = torch.Generator().manual_seed(0)
    J = torch.randn(size, size // 2, generator=generator, dtype=torch.float64)
    K = TangentKernel(J @ J.T, torch.zeros(size, 1))
    expected = np.linalg.eigvalsh(K.matrix.numpy())[::-1]
    values, vectors = K.top(4)
    # 1e-13 is what the iterative solver aims at, by its own estimate
    np.testing.assert_allclose(values, expected[:4], rtol=1e-11)
    assert K.lambda_max == pytest.approx(expected[0], rel=1e-11)
    assert largest_eigenvalue(K.matrix) == pytest.approx(expected[0], rel=1e-11)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(4).double())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("size", [6, 400])
def test_what_is_not_finite_gives_nan_and_no_error(bad, size):
    matrix = torch.eye(size)
    matrix[1, 2] = bad
    K = TangentKernel(matrix, torch.ones(size, 1))
    assert np.isnan([K.lambda_max, K.eta_crit(), K.eta_crit(torch.tensor([1, 2]))]).all()
    assert K.eta_crit(torch.tensor([3, 4])) == 4
    assert np.isnan(K.loss_parts(torch.zeros(size, 1), 2)).all()


def test_a_diverged_network_gives_nan():
    objective, w = build(wide_fully_connected, pictures(), width=(5,))
    for method in ("layers", "jacobian"):
        assert np.isnan(tangent_kernel(objective, w * np.nan, method).eta_crit())


# ---------------------------------------------------------------- the loss in two parts


@pytest.mark.parametrize("s", [1, 5, 14])
@pytest.mark.parametrize("dense_up_to", [0, 320])
def test_the_two_parts_of_the_loss_add_up(monkeypatch, s, dense_up_to):
    monkeypatch.setattr(kernels, "DENSE", dense_up_to)
    objective, w = build(wide_fully_connected, pictures(n=7, outputs=2), width=(5,))
    K = tangent_kernel(objective, w)
    inside, outside = K.loss_parts(objective.targets, s)
    assert inside + outside == pytest.approx(objective.at(w).loss, rel=1e-12)
    U = np.linalg.eigh(K.matrix.numpy())[1][:, ::-1]
    r = (K.outputs - objective.targets).flatten().numpy()
    assert inside == pytest.approx(((U[:, :s].T @ r) ** 2).sum() / 14, rel=1e-5, abs=1e-12)


def test_a_random_subspace_takes_its_share():
    """E |P R|^2 = s/n |R|^2, variance below 2 s / n^2 |R|^4: 400 draws, 5 sigma."""
    generator = torch.Generator().manual_seed(0)
    R = torch.randn(20, 1, generator=generator, dtype=torch.float64)
    normal = torch.randn(400, 20, 5, generator=generator, dtype=torch.float64)
    shares = [split(R, torch.linalg.qr(m)[0])[0] for m in normal]
    error = 5 * (2 * 5) ** 0.5 / 20 / 400**0.5
    assert np.mean(shares) / (float(R.square().sum()) / 40) == pytest.approx(
        0.25, abs=error
    )


# ---------------------------------------------------------------- the probe


def test_the_probe_fills_the_table():
    objective, w = build(wide_fully_connected, pictures(n=6, outputs=1), width=(5,))
    rule = MiniBatch(GradientDescent(0.05), size=2, n=6, seed=3)
    table, _ = train(objective, rule, w, 5, [KernelProbe(every=2, s=2)])
    seen = table[table.step % 2 == 0]
    np.testing.assert_allclose(seen.top_loss + seen.rest_loss, seen.loss, rtol=1e-12)
    assert table[table.step % 2 == 1].eta_crit.isna().all()
    for step in islice(trajectory(objective, rule, w), 5):
        if step.index % 2 == 0:
            row, rows = table.loc[step.index], rule.rows(step.state)
            batch, w_t = objective.batch(rows), step.point.w
            K = tangent_kernel(objective, w_t)
            assert row.eta_crit == pytest.approx(12 / row.kernel_norm)
            assert row.kernel_norm == pytest.approx(K.lambda_max)
            assert row.kernel_trace == pytest.approx(K.trace)
            assert row.kernel_frobenius == pytest.approx(K.frobenius)
            assert row.batch_eta_crit == pytest.approx(
                tangent_kernel(batch, w_t).eta_crit()
            )
            assert row.batch_loss == pytest.approx(batch.at(w_t).loss)
            assert row.batch_loss_after == pytest.approx(batch.at(step.after).loss)
            after = w_t - 0.05 * batch.at(w_t).gradient
            torch.testing.assert_close(step.after, after)


def test_the_probe_of_cross_entropy_and_of_the_full_batch_has_fewer_columns():
    images = pictures(n=6)
    labels = Images(images.x, torch.tensor([0, 1] * 3), (0, 1))
    objective, w = network(fully_connected((1, 8, 8), 2, (3,)), labels, "cross_entropy")
    table, _ = train(objective, GradientDescent(0.1), w, 1, [KernelProbe()])
    assert "eta_crit" in table and "top_loss" not in table and "batch_loss" not in table


def test_the_probe_refuses_samples_that_depend_on_each_other():
    objective, w = build(Mixed, pictures())
    with pytest.raises(ValueError, match="depend on others"):
        train(objective, GradientDescent(0.1), w, 1, [KernelProbe()])


def test_a_run_that_diverges_does_not_stop_the_probe():
    objective, w = build(wide_fully_connected, pictures(), width=(5,))
    table, _ = train(objective, GradientDescent(1e150), w, 5, [KernelProbe()])
    assert table.diverged.iloc[-1]


def test_jacobian_rows_are_ordered_sample_by_sample():
    objective, w = build(wide_fully_connected, pictures(n=3, outputs=2), width=(4,))
    J = jacobian(objective, w, objective.inputs)
    w = w.clone().requires_grad_()
    (expected,) = torch.autograd.grad(objective.outputs(w)[1, 0], w)
    torch.testing.assert_close(J[2], expected, **EXACT)

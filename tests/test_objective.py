"""common.objective: losses against hand formulas, derivatives against dense ones."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian

from common.data import Images
from common.models import MODELS
from common.objective import LOSSES, Objective, Point, Problem, network

EXACT = {"rtol": 1e-10, "atol": 1e-12}  # float64: a few hundred roundings of 1e-16


def pictures(dtype=torch.float64) -> Images:
    """Six random 2 x 2 images of three classes."""
    x = torch.randn(6, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    return Images(x.to(dtype), torch.tensor([0, 2, 1, 1, 0, 2]), (0, 1, 2))


def tiny_net(shape=(1, 2, 2), classes=3, hidden=3) -> nn.Module:
    size = shape[0] * shape[1] * shape[2]
    first, last = nn.Linear(size, hidden), nn.Linear(hidden, classes)
    return nn.Sequential(nn.Flatten(), first, nn.Tanh(), last)


@pytest.fixture(params=LOSSES)
def net(request) -> tuple[Objective, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return network(tiny_net(), pictures(), request.param)


def counted(objective: Objective) -> tuple[Objective, list]:
    """The objective, and a list that grows with every evaluation of its loss."""
    calls = []

    def loss(w):
        calls.append(1)
        return objective.loss(w)

    return replace(objective, loss=loss), calls


def random_columns(size: int, k: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(size, k, generator=generator, dtype=torch.float64)


def forward(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """tiny_net written out: the order of the parameters is part of what is tested."""
    W1, b1, W2, b2 = w[:12].view(3, 4), w[12:15], w[15:24].view(3, 3), w[24:]
    return torch.tanh(x.flatten(1) @ W1.T + b1) @ W2.T + b2


class Tied(nn.Module):
    """One weight matrix, used in two places."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(4, 4), nn.Linear(4, 4)
        self.decode.weight = self.encode.weight
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.decode(self.encode(x.flatten(1)))[:, :3] * self.scale


# ---------------------------------------------------------------- values


def test_an_objective_of_a_network_knows_its_inputs_and_targets(net):
    objective, w = net
    rows = torch.tensor([3, 1])
    for part, x in ((objective, pictures().x), (objective.batch(rows), pictures().x[rows])):
        assert torch.equal(part.inputs, x)
        assert torch.equal(part.function(w, x), part.outputs(w))
        if part.targets is not None:  # squared error
            error = (part.outputs(w) - part.targets).square().sum() / (2 * len(x))
            assert float(part.loss(w)) == float(error)
    torch.testing.assert_close(
        objective.function(w, 2 * pictures().x), forward(w, 2 * pictures().x)
    )


@pytest.mark.parametrize("model", [tiny_net(), Tied()])
def test_outputs_equal_those_of_functional_call_and_the_model_is_left_alone(model):
    images = pictures()
    objective, w = network(model, images, "mse")
    shift = w + 0.1 * random_columns(len(w), 1)[:, 0]
    names, tensors = zip(*model.named_parameters(), strict=True)
    assert sum(p.numel() for p in tensors) == len(w)
    parts = shift.split([p.numel() for p in tensors])
    values = {n: v.view_as(p) for n, v, p in zip(names, parts, tensors, strict=True)}
    expected = torch.func.functional_call(model.double(), values, (images.x,))
    torch.testing.assert_close(objective.outputs(shift), expected, **EXACT)


def test_mse_is_half_the_sum_over_outputs_and_the_mean_over_samples():
    images = pictures()
    objective, w = network(tiny_net(), images, "mse")
    f = forward(w, images.x)
    total = 0.0
    for i in range(6):
        for c in range(3):
            total += float(f[i, c] - (1.0 if images.y[i] == c else 0.0)) ** 2 / 2
    assert objective.at(w).loss == pytest.approx(total / 6, rel=1e-12)


def test_cross_entropy_is_the_mean_log_loss():
    images = pictures()
    objective, w = network(tiny_net(), images, "cross_entropy")
    p = forward(w, images.x).exp()
    p = p / p.sum(1, keepdim=True)
    expected = -sum(float(p[i, images.y[i]].log()) for i in range(6)) / 6
    assert objective.at(w).loss == pytest.approx(expected, rel=1e-12)


def test_outputs_and_accuracy(net):
    objective, w = net
    f = forward(w, pictures().x)
    torch.testing.assert_close(objective.outputs(w), f, **EXACT)
    hits = sum(int(f[i].argmax()) == int(pictures().y[i]) for i in range(6))
    assert objective.accuracy(w) == pytest.approx(hits / 6)


# ---------------------------------------------------------------- derivatives


def test_gradient_matches_finite_differences(net):
    objective, w = net
    h, eye = 1e-5, torch.eye(len(w), dtype=torch.float64)
    with torch.no_grad():
        rise = [objective.loss(w + h * e) - objective.loss(w - h * e) for e in eye]
    # central differences: h^2 = 1e-10 of truncation, 1e-16 / h = 1e-11 of rounding
    expected = torch.stack(rise) / (2 * h)
    torch.testing.assert_close(objective.at(w).gradient, expected, rtol=1e-8, atol=1e-9)


def test_hessian_products_match_the_dense_hessian(net):
    objective, w = net
    H = hessian(objective.loss, w)
    point = objective.at(w)
    V = random_columns(len(w), 4)
    products = torch.stack([point.hessian_product(v) for v in V.T], 1)
    torch.testing.assert_close(products, H @ V, **EXACT)


def test_curvature_gradients_match_finite_differences(net):
    objective, w = net
    U, directions = random_columns(len(w), 5).split([2, 3], 1)
    D = objective.at(w).curvature_gradients(U)
    assert D.shape == (len(w), 2, 2)
    assert torch.equal(D, D.mT)
    h = 1e-4
    for d in directions.T:
        change = hessian(objective.loss, w + h * d) - hessian(objective.loss, w - h * d)
        expected = U.T @ change @ U / (2 * h)
        # h^2 = 1e-8 times a fifth derivative of order 10; D itself is of order 1 to 10
        torch.testing.assert_close(
            torch.einsum("p,pij->ij", d, D), expected, rtol=1e-6, atol=1e-6
        )


def test_a_linear_loss_has_no_curvature():
    c = torch.tensor([1.0, -2.0, 3.0])
    point = Objective(lambda w: c @ w).at(torch.ones(3))
    assert torch.equal(point.gradient, c)
    assert torch.equal(point.hessian_product(torch.ones(3)), torch.zeros(3))
    assert not point.curvature_gradients(torch.eye(3)).any()


def test_a_quadratic_loss_has_no_third_derivative():
    H = torch.tensor([[2.0, 1.0], [1.0, -3.0]])
    point = Objective(lambda w: w @ H @ w / 2).at(torch.ones(2))
    assert torch.equal(point.hessian_product(torch.tensor([1.0, 0.0])), H[:, 0])
    assert not point.curvature_gradients(torch.eye(2)).any()


def test_a_parameter_that_the_loss_ignores():
    point = Objective(lambda w: w[0] ** 3).at(torch.tensor([2.0, 5.0]))
    assert torch.equal(point.gradient, torch.tensor([12.0, 0.0]))
    assert torch.equal(point.hessian_product(torch.ones(2)), torch.tensor([12.0, 0.0]))
    D = point.curvature_gradients(torch.eye(2))
    assert D[0, 0, 0] == 6 and D.abs().sum() == 6


# ---------------------------------------------------------------- one graph


@pytest.mark.parametrize("curvature, expected", [(True, 1), (False, 2)])
def test_the_loss_is_evaluated_once_for_each_kind_of_graph(net, curvature, expected):
    objective, calls = counted(net[0])
    w = net[1]
    point = objective.at(w, curvature=curvature)
    assert not calls  # nothing before it is asked for
    for _ in range(3):
        point.loss, point.gradient  # noqa: B018  (properties that compute)
    assert len(calls) == 1
    for _ in range(3):
        point.hessian_product(torch.ones_like(w))
        point.curvature_gradients(random_columns(len(w), 2))
        point.loss, point.gradient  # noqa: B018
    assert len(calls) == expected


def test_products_first_then_gradient_is_one_evaluation(net):
    objective, calls = counted(net[0])
    point = objective.at(net[1])
    point.hessian_product(torch.ones_like(net[1]))
    point.loss, point.gradient  # noqa: B018
    assert len(calls) == 1


def test_the_gradient_is_the_same_with_and_without_curvature(net):
    objective, w = net
    plain, curved = objective.at(w), objective.at(w, curvature=True)
    assert plain.loss == curved.loss
    torch.testing.assert_close(plain.gradient, curved.gradient, **EXACT)
    assert not plain.gradient.requires_grad and not curved.gradient.requires_grad


def test_a_point_detaches_from_w_and_leaves_it_alone():
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    point = Point(Objective(lambda w: (w**4).sum()), w, curvature=True)
    assert torch.equal(point.gradient, torch.tensor([4.0, 32.0]))
    assert w.grad is None and not point.w.requires_grad


# ---------------------------------------------------------------- problems

SMALL = Problem(n=20, size=7, model="fully_connected", options={"width": (5,)})


def test_the_seed_decides_the_initial_parameters():
    first, again, other = (SMALL.build(seed)[1] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert len(first) == len(other) and not torch.equal(first, other)


def test_the_seed_does_not_change_the_data():
    w = SMALL.build(0)[1]
    assert SMALL.build(0)[0].at(w).loss == SMALL.build(1)[0].at(w).loss


def test_build_does_not_disturb_the_global_generator():
    before = torch.get_rng_state()
    SMALL.build(0)
    assert torch.equal(torch.get_rng_state(), before)


def test_build_does_not_depend_on_the_global_generator():
    with torch.random.fork_rng():
        torch.manual_seed(11)
        first = SMALL.build(0)[1]
        torch.manual_seed(12)
        assert torch.equal(SMALL.build(0)[1], first)


def test_dtype_sets_everything():
    (single, w32), (double, w64) = SMALL.build(0), replace(SMALL, dtype="float64").build(0)
    assert (w32.dtype, w64.dtype) == (torch.float32, torch.float64)
    assert torch.equal(w32.double(), w64)  # the same start, so that runs can be compared
    assert single.outputs(w32).dtype == torch.float32
    assert double.outputs(w64).dtype == torch.float64


@pytest.mark.parametrize(
    "change, names",
    [
        ({"data": "mnist"}, ["'mnist'", "fashion_mnist", "cifar10", "svhn", "celeba"]),
        ({"model": "resnet"}, ["'resnet'", *MODELS]),
        ({"loss": "hinge"}, ["'hinge'", *LOSSES]),
        ({"dtype": "float16"}, ["'float16'", "float32", "float64"]),
    ],
)
def test_an_unknown_name_is_refused_with_the_valid_ones(change, names):
    with pytest.raises(ValueError) as refusal:
        replace(SMALL, **change).build(0)
    assert [name for name in names if name not in str(refusal.value)] == []


def test_your_own_model_and_data():
    problem = Problem(data=pictures, model=tiny_net, options={"hidden": 4}, dtype="float64")
    objective, w = problem.build(0)
    assert len(w) == 4 * 4 + 4 + 4 * 3 + 3
    assert objective.outputs(w).shape == (6, 3)
    assert torch.equal(objective.labels, pictures().y)
    assert torch.equal(w, problem.build(0)[1])  # the seed covers your model, too
    assert not torch.equal(w, problem.build(1)[1])


def test_a_new_model_by_function_can_use_the_named_data():
    objective, w = replace(SMALL, model=tiny_net, options={"hidden": 2}).build(0)
    assert len(w) == 49 * 2 + 2 + 2 * 10 + 10
    assert objective.outputs(w).shape == (20, 10)

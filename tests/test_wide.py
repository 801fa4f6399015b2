"""common.wide: the parameterisation, sizes, and the second moments that it promises."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.wide import (
    Conv,
    Linear,
    ReLU,
    wide_convolutional,
    wide_fully_connected,
    wide_resnet,
    wide_transformer,
)

MAKERS = {
    wide_fully_connected: {"width": (8, 8)},
    wide_convolutional: {"channels": 4},
    wide_resnet: {"base": 4},
    wide_transformer: {"dim": 8, "blocks": 2},
}


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("shape", [(1, 14, 14), (1, 28, 28), (3, 28, 28)])
@pytest.mark.parametrize("classes", [1, 3])
def test_outputs_and_their_gain(make, shape, classes):
    model, x = make(shape, classes, **MAKERS[make]), normal(3, *shape)
    assert model(x).shape == (3, classes)
    small = make(shape, classes, gain=0.25, **MAKERS[make])
    small.load_state_dict(model.state_dict())
    torch.testing.assert_close(small(x), model(x) / 4)


@pytest.mark.parametrize("make", MAKERS)
def test_weights_are_standard_normal_and_there_are_no_biases(make):
    model = make((1, 14, 14), 2)
    assert all(p.dim() > 1 for p in model.parameters())
    w = torch.cat([p.detach().flatten() for p in model.parameters()])
    # standard errors 1 / sqrt(P) and sqrt(2 / P), held to 5
    assert abs(w.mean()) < 5 / len(w) ** 0.5 and abs(w.var() - 1) < 5 * (2 / len(w)) ** 0.5


@pytest.mark.parametrize("make", MAKERS)
def test_outputs_of_one_image_do_not_depend_on_the_others(make):
    model, x = make((1, 14, 14), 2, **MAKERS[make]), normal(4, 1, 14, 14)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]), rtol=1e-4, atol=1e-5)


def test_layers_equal_their_formulas():
    a = normal(3, 5)
    linear = Linear(5, 4, gain=0.3)
    torch.testing.assert_close(linear(a), 0.3 * a @ linear.weight.T / 5**0.5)
    x = normal(2, 3, 7, 7)
    for kernel, stride in ((3, 1), (3, 2), (1, 2)):
        conv = Conv(3, 4, kernel, stride)
        expected = F.conv2d(x, conv.weight, stride=stride, padding=kernel // 2)
        torch.testing.assert_close(conv(x), expected / (3 * kernel**2) ** 0.5)
    torch.testing.assert_close(ReLU()(x), 2**0.5 * x.clamp(min=0))
    torch.testing.assert_close(ReLU(he=False)(x), x.clamp(min=0))


def test_the_shallow_net_equals_its_formula():
    net, x = (
        wide_fully_connected((1, 2, 3), 1, (7,), he=False, gain=0.5),
        normal(4, 1, 2, 3),
    )
    U, v = net.parameters()
    expected = 0.5 * (x.flatten(1) @ U.T).clamp(min=0) @ v.T / (7 * 6) ** 0.5
    torch.testing.assert_close(net(x), expected)


def test_sizes():
    assert size(wide_fully_connected((1, 28, 28), 1)) == 256 * (784 + 3 * 256 + 1)
    assert size(wide_convolutional((3, 28, 28), 2, 4)) == 9 * 4 * (3 + 3 * 4) + 2 * 4 * 16
    blocks = [9 * i * o + 9 * o * o + i * o for i, o in ((8, 16), (16, 32), (32, 64))]
    assert size(wide_resnet((1, 28, 28), 1)) == 9 * 8 + sum(blocks) + 64
    block = 4 * 48 * 48 + 2 * 2 * 48 * 48
    ends = 49 * 48 + 16 * 48 + 48  # patches of 7 x 7 pixels, their places, the outputs
    assert size(wide_transformer((1, 28, 28), 1)) == 4 * block + ends


@pytest.mark.parametrize("depth", [1, 4])
def test_the_second_moment_is_kept_from_layer_to_layer(depth):
    """E f^2 = |x|^2 / d, over networks; with he=False, halved by each ReLU.

    f^2 of one wide net is chi^2_1: standard deviation sqrt(2), of the mean over 400
    sqrt(2) / 20, and depth / width = 4 / 64 adds little. Held to 5 errors.
    """
    x = normal(1, 1, 5, 5)
    for he, factor in ((True, 1), (False, 0.5**depth)):
        make = [wide_fully_connected((1, 5, 5), 1, (64,) * depth, he) for _ in range(400)]
        with torch.no_grad():
            mean = sum(float(net(x)) ** 2 for net in make) / 400
        expected = factor * float(x.square().mean())
        assert mean == pytest.approx(expected, rel=5 * (2 + 6 * depth * 5 / 64) ** 0.5 / 20)


@pytest.mark.parametrize(
    "make, options, message",
    [
        (wide_resnet, {"base": 6}, "multiple of 4, not 6"),
        (wide_transformer, {"patch": 5}, "patches of 5 do not tile an image of 14"),
        (wide_transformer, {"heads": 5}, "5 heads do not divide 48"),
    ],
)
def test_impossible_sizes_are_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        make((1, 14, 14), 1, **options)

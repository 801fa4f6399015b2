"""common.models: shapes, sizes, and that every model is a function of its parameters."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from common.models import (
    ACTIVATIONS,
    MODELS,
    POOLINGS,
    convolutional,
    fully_connected,
    residual,
    vgg,
)


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def batch(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(1, 7, 7), (1, 28, 28), (3, 32, 32)])
@pytest.mark.parametrize("classes", [2, 10])
def test_outputs_have_one_row_per_image_and_one_column_per_class(name, shape, classes):
    assert MODELS[name](shape, classes)(batch(3, *shape)).shape == (3, classes)


@pytest.mark.parametrize("width", [(), (5,), (32, 32), (4, 5, 6)])
def test_size_of_a_fully_connected_network(width):
    layers = pairwise([3 * 4 * 4, *width, 10])
    expected = sum(inputs * outputs + outputs for inputs, outputs in layers)
    assert size(fully_connected((3, 4, 4), 10, width)) == expected


@pytest.mark.parametrize("width", [(8,), (8, 8), (3, 4, 5)])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_size_of_a_convolutional_network(width, batch_norm):
    filters = sum(9 * i * o + o for i, o in pairwise([3, *width]))
    norms = 2 * sum(width) if batch_norm else 0
    side = 20 // 2 ** len(width)  # 20, 10, 5, 2: an odd side loses its last row
    last = width[-1] * side * side * 7 + 7
    model = convolutional((3, 20, 20), 7, width, batch_norm=batch_norm)
    assert size(model) == filters + norms + last
    assert model(batch(2, 3, 20, 20)).shape == (2, 7)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation):
    functions = {
        "tanh": torch.tanh,
        "relu": torch.relu,
        "elu": nn.functional.elu,
        "silu": nn.functional.silu,
        "gelu": nn.functional.gelu,
        "softplus": nn.functional.softplus,
    }
    model, x = fully_connected((1, 2, 2), 3, (4,), activation), batch(5, 1, 2, 2)
    first, last = (layer for layer in model if isinstance(layer, nn.Linear))
    expected = last(functions[activation](first(x.flatten(1))))
    torch.testing.assert_close(model(x), expected)
    kinds = [type(layer) for layer in convolutional((1, 4, 4), 3, activation=activation)]
    assert kinds.count(ACTIVATIONS[activation]) == 2


def test_pooling_takes_the_mean_or_the_largest_of_each_block():
    x = batch(2, 1, 4, 4)
    for pooling, reduce in (("average", torch.Tensor.mean), ("max", torch.Tensor.amax)):
        model = convolutional((1, 4, 4), 3, (2,), pooling=pooling)
        features = nn.functional.elu(model[0](x))
        blocks = features.reshape(2, 2, 2, 2, 2, 2)  # image, channel, row, in, column, in
        expected = model[-1](reduce(blocks, dim=(3, 5)).flatten(1))
        torch.testing.assert_close(model(x), expected)


def test_the_order_with_batch_normalisation():
    kinds = [type(layer) for layer in convolutional((1, 4, 4), 3, (2,), batch_norm=True)]
    expected = [nn.Conv2d, nn.ELU, nn.BatchNorm2d, nn.AvgPool2d, nn.Flatten, nn.Linear]
    assert kinds == expected


def test_batch_normalisation_keeps_no_memory():
    model, x = convolutional((1, 4, 4), 3, batch_norm=True), batch(5, 1, 4, 4)
    assert [*model.buffers()] == []
    first = model(x)
    model(10 * x + 3)  # running statistics would move here
    assert torch.equal(model(x), first)
    assert torch.equal(model.eval()(x), first)


def test_batch_normalisation_normalises_by_the_batch():
    model = convolutional((1, 4, 4), 3, (2,), batch_norm=True)
    features = model[:3](batch(50, 1, 4, 4))
    mean, variance = features.mean((0, 2, 3)), features.var((0, 2, 3), unbiased=False)
    # PyTorch adds 1e-5 to the variance of the activations, which is of order 0.1
    torch.testing.assert_close(mean, torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(variance, torch.ones(2), rtol=0, atol=1e-3)


@pytest.mark.parametrize("stages", [((3,),), ((2,), (4, 4)), ((4, 4), (8, 8), (2,))])
def test_size_and_order_of_a_vgg(stages):
    model = vgg((3, 9, 9), 5, stages, activation="tanh", pooling="max")
    widths = [3, *(out for stage in stages for out in stage)]
    side = 9 // 2 ** len(stages)
    filters = sum(9 * i * o + 2 * o for i, o in pairwise(widths))
    assert size(model) == filters + widths[-1] * side**2 * 5 + 5
    expected = []
    for stage in stages:
        expected += [nn.Conv2d, nn.BatchNorm2d, nn.Tanh] * len(stage) + [nn.MaxPool2d]
    assert [type(layer) for layer in model] == [*expected, nn.Flatten, nn.Linear]
    assert [*model.buffers()] == []


def test_the_scale_of_normalised_weights_changes_the_sharpness_and_not_the_outputs():
    # f(c w) = f(w), so the gradient by the filters is c times smaller, the Hessian c^2
    x, models = batch(20, 1, 6, 6), []
    for gain in (2.0, 32.0):
        torch.manual_seed(0)
        models.append(vgg((1, 6, 6), 3, ((4,), (4,)), "tanh", conv_gain=gain))
    outputs = [model.double()(x.double()) for model in models]
    # PyTorch adds 1e-5 to the variance of the filters' outputs, which is of order 1
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-4)
    steep, flat = (
        torch.autograd.grad(y.square().sum(), model[0].weight)[0]
        for y, model in zip(outputs, models, strict=True)
    )
    assert steep.norm() > 1e-3
    torch.testing.assert_close(steep / 4, flat, rtol=1e-3, atol=1e-4 * steep.norm().item())


@pytest.mark.parametrize("gain", [1.0, 8.0])
def test_the_start_of_convolutions_with_a_gain(gain):
    torch.manual_seed(0)
    model = vgg((3, 8, 8), 2, ((32, 64),), conv_gain=gain)
    for layer in (m for m in model if isinstance(m, nn.Conv2d)):
        mean = layer.weight.square().mean() * layer.weight[0].numel() / gain
        # the standard error of a mean square of n Gaussian numbers is sqrt(2 / n)
        assert abs(mean.item() - 1) < 5 * (2 / layer.weight.numel()) ** 0.5
        assert layer.bias is None


@pytest.mark.parametrize("channels", [(3,), (2, 4), (4, 8, 8)])
@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_size_and_depth_of_a_residual_network(channels, blocks, batch_norm):
    model = residual((3, 9, 9), 5, channels, blocks, batch_norm=batch_norm)
    pairs = [(3, channels[0])]
    for before, here in pairwise([channels[0], *channels]):
        pairs += [(before, here), *[(here, here)] * (2 * blocks - 1)]
    each = 2 if batch_norm else 1  # scale and shift in place of the bias
    expected = sum(9 * i * o + each * o for i, o in pairs) + channels[-1] * 5 + 5
    assert size(model) == expected
    weighted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(weighted) == 2 + 2 * blocks * len(channels)  # ResNet-20: 3 stages of 3
    assert model(batch(2, 3, 9, 9)).shape == (2, 5)


def test_a_residual_network_by_its_formula():
    model, x = residual((1, 5, 5), 3, channels=(2, 4)), batch(6, 1, 5, 5)
    weights = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    stem, a1, b1, a2, b2, head = weights

    def conv(layer, h, stride=1):
        return nn.functional.conv2d(h, layer.weight, layer.bias, stride, padding=1)

    h = conv(stem, x)
    h = h + conv(b1, torch.tanh(conv(a1, h)))
    wide = torch.cat([h[:, :, ::2, ::2], torch.zeros(6, 2, 3, 3)], dim=1)
    h = wide + conv(b2, torch.tanh(conv(a2, h, stride=2)))
    expected = torch.tanh(h).mean((2, 3)) @ head.weight.T + head.bias
    torch.testing.assert_close(model(x), expected)


def test_the_start_of_a_residual_network():
    torch.manual_seed(0)
    model = residual((3, 8, 8), 50, channels=(32, 64), blocks=2)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            gain = 2 if isinstance(layer, nn.Conv2d) else 1
            variance = layer.weight.square().mean() * layer.weight[0].numel() / gain
            # n Gaussian weights: the standard error of their mean square is sqrt(2 / n)
            error = (2 / layer.weight.numel()) ** 0.5
            assert abs(variance.item() - 1) < 5 * error
            assert not layer.bias.any()


def test_batch_normalisation_in_a_residual_network_follows_each_convolution():
    model = residual((1, 8, 8), 2, channels=(3,), batch_norm=True)
    kinds = [type(m) for m in model.modules() if not isinstance(m, nn.Sequential)]
    pair = [nn.Conv2d, nn.BatchNorm2d]
    assert kinds[:2] == pair and kinds[3:8] == [*pair, nn.Tanh, *pair]
    x = batch(5, 1, 8, 8)
    first = model(x)
    # normalised by the batch alone: the scale of the images is gone (up to 1e-5)
    torch.testing.assert_close(model(10 * x), first, rtol=0, atol=1e-3)
    assert [*model.buffers()] == []


@pytest.mark.parametrize("bad", [{"blocks": 0}, {"channels": (8, 4)}, {"channels": ()}])
def test_residual_networks_that_cannot_be_are_refused(bad):
    with pytest.raises(ValueError, match="at least one block|must not fall"):
        residual((1, 8, 8), 2, **bad)


@pytest.mark.parametrize(
    "make, option, valid",
    [
        (residual, "activation", ACTIVATIONS),
        (fully_connected, "activation", ACTIVATIONS),
        (convolutional, "activation", ACTIVATIONS),
        (convolutional, "pooling", POOLINGS),
        (vgg, "activation", ACTIVATIONS),
        (vgg, "pooling", POOLINGS),
    ],
)
def test_an_unknown_choice_is_refused_with_the_valid_ones(make, option, valid):
    with pytest.raises(ValueError, match=f"unknown {option} 'swish'") as refusal:
        make((1, 4, 4), 3, **{option: "swish"})
    assert [name for name in valid if name not in str(refusal.value)] == []

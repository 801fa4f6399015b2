"""The networks of paper 003 in the tangent kernel's parameterisation.

Every weight starts from N(0, 1), every layer divides by the root of its fan-in, and there
are no biases: z = W a / sqrt(fan_in). So at initialisation the outputs and the tangent
kernel K = J J^T have a limit as the width grows, and the wider the network, the less K
moves below the critical step size ("neural tangent kernel", paper 003). `relu` multiplies
by sqrt(2), which keeps the second moment of the signal from layer to layer, unless a
network says `he=False`; `gain` multiplies the output, and so K by its square: a small gain
leaves the network more to learn by moving its features.

The paper gives no widths; those here are the repository's own.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Module):
    """a -> gain W a / sqrt(inputs), W [outputs, inputs] from N(0, 1).

    Args:
        inputs: Fan-in.
        outputs: Units.
        gain: Factor of the result.
    """

    def __init__(self, inputs: int, outputs: int, gain: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.scale = gain / inputs**0.5

    def forward(self, a: Tensor) -> Tensor:
        """Outputs [..., outputs] from inputs [..., inputs]."""
        return self.scale * F.linear(a, self.weight)


class Conv(nn.Module):
    """A convolution without bias, divided by sqrt(inputs kernel^2); zeros around it.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        kernel: Side of the filter, odd.
        stride: Step between its places.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.scale = (inputs * kernel**2) ** -0.5
        self.stride, self.padding = stride, kernel // 2

    def forward(self, a: Tensor) -> Tensor:
        """Maps [n, outputs, side', side'] from maps [n, inputs, side, side]."""
        return self.scale * F.conv2d(a, self.weight, None, self.stride, self.padding)


class ReLU(nn.Module):
    """max(z, 0), times sqrt(2) if `he`: then E[a^2] = E[z^2] for a symmetric z."""

    def __init__(self, he: bool = True):
        super().__init__()
        self.scale = 2**0.5 if he else 1.0

    def forward(self, z: Tensor) -> Tensor:
        """Elementwise."""
        return self.scale * F.relu(z)


def wide_fully_connected(
    shape: Sequence[int],
    classes: int,
    width: Sequence[int] = (256,) * 4,
    he: bool = True,
    gain: float = 1.0,
) -> nn.Module:
    """A fully connected ReLU net: by default the paper's 5-layer FCN.

    With one hidden layer and he=False it is the shallow net of papers 000 and 003,
    f(x) = gain sum_i v_i relu(u_i . x) / sqrt(m d).

    Args:
        shape: Shape of one input, of d numbers.
        classes: Number of outputs.
        width: Units of each hidden layer.
        he: Factor sqrt(2) after each ReLU.
        gain: Factor of the output.

    Returns:
        The network.

    Example:
        >>> net = wide_fully_connected((1, 10, 10), 1, width=(1024,), he=False)
        >>> sum(p.numel() for p in net.parameters()) == 1024 * (100 + 1)
        True
    """
    sizes = [math.prod(shape), *width]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(sizes):
        layers += [Linear(inputs, outputs), ReLU(he)]
    return nn.Sequential(*layers, Linear(sizes[-1], classes, gain))


def wide_convolutional(
    shape: Sequence[int],
    classes: int,
    channels: int = 48,
    strides: Sequence[int] = (2, 2, 2, 1),
    he: bool = True,
    gain: float = 1.0,
) -> nn.Module:
    """The 5-layer CNN: 3x3 convolutions with strides, and a linear layer on all pixels.

    With average pooling instead of all pixels, the few numbers left make the network
    narrow, and it diverges where this one catapults.

    Args:
        shape: Shape of one image, (channels, size, size).
        classes: Number of outputs.
        channels: Of each convolution.
        strides: Of each convolution.
        he: Factor sqrt(2) after each ReLU.
        gain: Factor of the output.

    Returns:
        The network.

    Example:
        >>> net = wide_convolutional((1, 14, 14), 1)
        >>> sum(p.numel() for p in net.parameters()) == 9 * 48 * (1 + 3 * 48) + 4 * 48
        True
    """
    inputs, size, _ = shape
    layers: list[nn.Module] = []
    for stride in strides:
        layers += [Conv(inputs, channels, stride=stride), ReLU(he)]
        inputs, size = channels, -(-size // stride)
    return nn.Sequential(*layers, nn.Flatten(), Linear(inputs * size**2, classes, gain))


class Residual(nn.Module):
    """a -> skip(a) + conv(relu(norm(conv(relu(norm(a)))))), the block of a wide ResNet.

    Normalisation is by groups of channels within a sample: by the batch, there would be
    no gradient of one sample's output alone, and so no tangent kernel.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        stride: Of the first convolution.
        he: Factor sqrt(2) after each ReLU.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, he: bool):
        super().__init__()
        self.first = nn.Sequential(*_normalised(inputs, he))
        self.skip = Conv(inputs, outputs, 1, stride)
        self.rest = nn.Sequential(
            Conv(inputs, outputs, 3, stride),
            *_normalised(outputs, he),
            Conv(outputs, outputs),
        )

    def forward(self, a: Tensor) -> Tensor:
        """Maps [n, outputs, side', side'] from maps [n, inputs, side, side]."""
        a = self.first(a)
        return self.skip(a) + self.rest(a)


def wide_resnet(
    shape: Sequence[int],
    classes: int,
    base: int = 8,
    factor: int = 2,
    blocks: int = 3,
    he: bool = True,
    gain: float = 1.0,
) -> nn.Module:
    """A small wide ResNet: a convolution, blocks, normalisation, mean over pixels, linear.

    Args:
        shape: Shape of one image, (channels, size, size).
        classes: Number of outputs.
        base: Channels of the first convolution, a multiple of 4.
        factor: How much wider the first block is; each further one has twice the channels
            and half the side.
        blocks: Their number.
        he: Factor sqrt(2) after each ReLU.
        gain: Factor of the output.

    Returns:
        The network.

    Raises:
        ValueError: If base is not a multiple of 4, the number of groups.

    Example:
        >>> sum(p.numel() for p in wide_resnet((3, 32, 32), 1).parameters())
        75544
    """
    if base % GROUPS:
        raise ValueError(f"base must be a multiple of {GROUPS}, not {base}")
    widths = [base, *(base * factor * 2**i for i in range(blocks))]
    layers: list[nn.Module] = [Conv(shape[0], base)]
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        layers.append(Residual(inputs, outputs, 1 if i == 0 else 2, he))
    last = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), Linear(widths[-1], classes, gain)]
    return nn.Sequential(*layers, *_normalised(widths[-1], he), *last)


class Attention(nn.Module):
    """Self-attention of `heads` heads: softmax(q k^T / sqrt(dim / heads)) v, mixed.

    Args:
        dim: Numbers per token.
        heads: Number of heads.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads, self.scale = heads, (dim / heads) ** -0.5
        self.qkv, self.mix = Linear(dim, 3 * dim), Linear(dim, dim)

    def forward(self, a: Tensor) -> Tensor:
        """Tokens [n, tokens, dim] from tokens.

        Written out, since the fused kernels have no second forward derivative.
        """
        n, tokens, dim = a.shape
        parts = self.qkv(a).view(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind()
        weights = (self.scale * q @ k.transpose(-2, -1)).softmax(-1)
        return self.mix((weights @ v).transpose(1, 2).reshape(n, tokens, dim))


class Block(nn.Module):
    """A transformer block: a + attention(norm(a)), then a + mlp(norm(a)).

    Args:
        dim: Numbers per token; the hidden layer has twice as many units.
        heads: Number of heads.
        he: Factor sqrt(2) after the ReLU.
    """

    def __init__(self, dim: int, heads: int, he: bool):
        super().__init__()
        norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.attend = nn.Sequential(norm, Attention(dim, heads))
        hidden = Linear(dim, 2 * dim)
        self.mlp = nn.Sequential(norm, hidden, ReLU(he), Linear(2 * dim, dim))

    def forward(self, a: Tensor) -> Tensor:
        """Tokens [n, tokens, dim] from tokens."""
        a = a + self.attend(a)
        return a + self.mlp(a)


class Patches(nn.Module):
    """Cuts an image into patches, one token each: a linear map of each, and where it is.

    Args:
        shape: Shape of one image, (channels, size, size).
        patch: Side of a patch.
        dim: Numbers per token.
    """

    def __init__(self, shape: Sequence[int], patch: int, dim: int):
        super().__init__()
        self.patch = patch
        self.embed = Linear(shape[0] * patch**2, dim)
        self.place = nn.Parameter(torch.randn((shape[1] // patch) ** 2, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [n, tokens, dim] of images [n, channels, size, size]."""
        patches = F.unfold(x, self.patch, stride=self.patch).transpose(1, 2)
        return self.embed(patches) + self.place


class MeanToken(nn.Module):
    """The mean over the tokens [n, tokens, dim]."""

    def forward(self, a: Tensor) -> Tensor:
        """Means [n, dim]."""
        return a.mean(1)


def wide_transformer(
    shape: Sequence[int],
    classes: int,
    patch: int = 7,
    dim: int = 48,
    blocks: int = 4,
    heads: int = 4,
    he: bool = True,
    gain: float = 1.0,
) -> nn.Module:
    """A small vision transformer (ViT-4): patches, blocks, mean over the tokens, linear.

    Args:
        shape: Shape of one image, (channels, size, size).
        classes: Number of outputs.
        patch: Side of a patch.
        dim: Numbers per token.
        blocks: Their number.
        heads: Of the attention.
        he: Factor sqrt(2) after each ReLU.
        gain: Factor of the output.

    Returns:
        The network.

    Raises:
        ValueError: If patches do not tile the image, or heads do not divide dim.

    Example:
        >>> sum(p.numel() for p in wide_transformer((3, 32, 32), 1, patch=8).parameters())
        83760
    """
    if shape[1] % patch:
        raise ValueError(f"patches of {patch} do not tile an image of {shape[1]} pixels")
    if dim % heads:
        raise ValueError(f"{heads} heads do not divide {dim} numbers per token")
    body = [Block(dim, heads, he) for _ in range(blocks)]
    norm = nn.LayerNorm(dim, elementwise_affine=False)
    last = [norm, MeanToken(), Linear(dim, classes, gain)]
    return nn.Sequential(Patches(shape, patch, dim), *body, *last)


GROUPS = 4  # of channels, each normalised by itself


def _normalised(channels: int, he: bool) -> list[nn.Module]:
    return [nn.GroupNorm(GROUPS, channels, affine=False), ReLU(he)]

"""The architectures of the papers, each a few lines.

They start from PyTorch's default initialisation, except the residual network and the VGG,
whose depth and normalisation need one that keeps the size of the activations.

Every model is an ordinary `torch.nn.Module` that maps images [n, channels, size, size] to
outputs [n, classes]; `common.objective` turns any of them into a loss on a flat vector.
"""

from collections.abc import Sequence

from torch import Tensor, nn

ACTIVATIONS = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
}
POOLINGS = {"average": nn.AvgPool2d, "max": nn.MaxPool2d}


def fully_connected(
    shape: Sequence[int],
    classes: int,
    width: Sequence[int] = (32, 32),
    activation: str = "tanh",
) -> nn.Module:
    """A fully connected network (paper 001: width 200, 200).

    Args:
        shape: Shape of one image, (channels, size, size).
        classes: Number of outputs.
        width: Units of each hidden layer.
        activation: A key of `ACTIVATIONS`.

    Returns:
        The network.

    Raises:
        ValueError: If the activation is unknown.

    Example:
        >>> net = fully_connected((1, 7, 7), 10, width=(32, 32))
        >>> sum(p.numel() for p in net.parameters())
        2986
    """
    act = _choose("activation", activation, ACTIVATIONS)
    sizes = [shape[0] * shape[1] * shape[2], *width]
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(fan_in, fan_out), act()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))


def convolutional(
    shape: Sequence[int],
    classes: int,
    width: Sequence[int] = (8, 8),
    activation: str = "elu",
    pooling: str = "average",
    batch_norm: bool = False,
) -> nn.Module:
    """A plain CNN (papers 001, 002): [3x3 convolution, activation, 2x2 pooling], linear.

    With batch normalisation the order is convolution, activation, normalisation, pooling;
    it normalises by the batch alone (no running statistics), so that the loss stays a
    function of the parameters.

    Args:
        shape: Shape of one image, (channels, size, size).
        classes: Number of outputs.
        width: Channels of each convolution.
        activation: A key of `ACTIVATIONS`.
        pooling: A key of `POOLINGS`.
        batch_norm: Whether to normalise after each activation.

    Returns:
        The network.

    Raises:
        ValueError: If the activation or the pooling is unknown.

    Example:
        >>> net = convolutional((1, 14, 14), 10)
        >>> sum(p.numel() for p in net.parameters())
        1394
    """
    act = _choose("activation", activation, ACTIVATIONS)
    pool = _choose("pooling", pooling, POOLINGS)
    channels, size, _ = shape
    layers: list[nn.Module] = []
    for out in width:
        layers += [nn.Conv2d(channels, out, kernel_size=3, padding=1), act()]
        if batch_norm:
            layers.append(nn.BatchNorm2d(out, track_running_stats=False))
        layers.append(pool(2))
        channels, size = out, size // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size * size, classes))


def vgg(
    shape: Sequence[int],
    classes: int,
    stages: Sequence[Sequence[int]] = ((8, 8), (16, 16)),
    activation: str = "relu",
    pooling: str = "average",
    conv_gain: float = 2.0,
) -> nn.Module:
    """A VGG with batch normalisation (paper 001): stages of convolutions, then linear.

    Each convolution (3x3, without bias) is followed by its normalisation, by the batch
    alone, and the activation, each stage by 2x2 pooling. Normalised, a convolution's
    output does not depend on the scale of its weights, but the sharpness does: shorter
    weights start from the same function in a sharper place.

    Args:
        shape: Shape of one image, (channels, size, size).
        classes: Number of outputs.
        stages: Channels of the convolutions of each stage.
        activation: A key of `ACTIVATIONS`.
        pooling: A key of `POOLINGS` (the original: max).
        conv_gain: The convolutions start from N(0, conv_gain / fan_in).

    Returns:
        The network.

    Raises:
        ValueError: If the activation or the pooling is unknown.

    Example:
        >>> deep = ((64,), (128,), (256, 256), (512, 512), (512, 512))  # VGG-11
        >>> net = vgg((3, 32, 32), 10, deep, pooling="max")
        >>> sum(p.numel() for p in net.parameters())
        9228362
    """
    act = _choose("activation", activation, ACTIVATIONS)
    pool = _choose("pooling", pooling, POOLINGS)
    channels, size, _ = shape
    layers: list[nn.Module] = []
    for stage in stages:
        for out in stage:
            layers += [*_convolution(channels, out, 1, True), act()]
            channels = out
        layers.append(pool(2))
        size //= 2
    head = nn.Linear(channels * size * size, classes)
    return _start(nn.Sequential(*layers, nn.Flatten(), head), {nn.Conv2d: conv_gain})


class ResidualBlock(nn.Module):
    """h + conv(act(conv(h))): two 3x3 convolutions beside a shortcut without parameters.

    Where the stride is 2, the shortcut takes every other pixel; where channels are added,
    it fills them with zeros ("option A" of He et al., arXiv:1512.03385).

    Args:
        inputs: Channels of h.
        outputs: Channels of the result, at least as many.
        stride: Of the first convolution and of the shortcut.
        activation: The activation between the convolutions.
        batch_norm: Whether to normalise after each convolution.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        activation: nn.Module,
        batch_norm: bool,
    ):
        super().__init__()
        self.stride, self.added = stride, outputs - inputs
        self.branch = nn.Sequential(
            *_convolution(inputs, outputs, stride, batch_norm),
            activation,
            *_convolution(outputs, outputs, 1, batch_norm),
        )

    def forward(self, h: Tensor) -> Tensor:
        """Shortcut and branch [n, outputs, size / stride, size / stride]."""
        shortcut = h[:, :, :: self.stride, :: self.stride]
        shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, 0, self.added))
        return shortcut + self.branch(h)


def residual(
    shape: Sequence[int],
    classes: int,
    channels: Sequence[int] = (8, 16, 32),
    blocks: int = 1,
    activation: str = "tanh",
    batch_norm: bool = False,
) -> nn.Module:
    """A residual network (paper 000): convolution, stages of blocks, average, linear.

    Each stage but the first halves the size of the images. Its depth is 2 + 2 blocks
    len(channels): ResNet-8 by default, ResNet-20 with three blocks of (16, 32, 64)
    channels. The blocks have no activation at their ends, so that without normalisation
    the shortcuts carry h on unchanged; one follows the last block. Convolutions start from
    N(0, 2 / fan_in), the last layer from N(0, 1 / fan_in), biases from zero. The paper says
    no more than "ResNet20": this form trains without normalisation.

    Args:
        shape: Shape of one image, (channels, size, size).
        classes: Number of outputs.
        channels: Channels of each stage, not falling.
        blocks: Blocks of each stage.
        activation: A key of `ACTIVATIONS`.
        batch_norm: Whether to normalise after each convolution, by the batch alone.

    Returns:
        The network.

    Raises:
        ValueError: If the activation is unknown, blocks < 1, or there are no channels or
            falling ones.

    Example:
        >>> net = residual((3, 32, 32), 10, (16, 32, 64), blocks=3, batch_norm=True)
        >>> sum(p.numel() for p in net.parameters())  # 0.27 million in He et al., table 6
        269722
    """
    act = _choose("activation", activation, ACTIVATIONS)
    if blocks < 1:
        raise ValueError(f"a stage needs at least one block, not {blocks}")
    if not channels or list(channels) != sorted(channels):
        raise ValueError(f"channels must not fall from stage to stage: {(*channels,)}")
    layers = _convolution(shape[0], channels[0], 1, batch_norm)
    inputs = channels[0]
    for stage, outputs in enumerate(channels):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(ResidualBlock(inputs, outputs, stride, act(), batch_norm))
            inputs = outputs
    model = nn.Sequential(*layers, act(), Average(), nn.Linear(inputs, classes))
    return _start(model, {nn.Conv2d: 2, nn.Linear: 1})


class Average(nn.Module):
    """Global average pooling: [n, channels, size, size] to [n, channels]."""

    def forward(self, h: Tensor) -> Tensor:
        """The mean over all pixels."""
        return h.mean((2, 3))


def _convolution(
    inputs: int, outputs: int, stride: int, batch_norm: bool
) -> list[nn.Module]:
    """A 3x3 convolution, and its normalisation, which makes a bias superfluous."""
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=not batch_norm)
    return [conv] + batch_norm * [nn.BatchNorm2d(outputs, track_running_stats=False)]


def _start(model: nn.Module, gains: dict[type[nn.Module], float]) -> nn.Module:
    """Layers of these types from N(0, gain / fan_in), their biases from zero."""
    for module in model.modules():
        if type(module) in gains:
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=(gains[type(module)] / fan_in) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


MODELS = {
    "fully_connected": fully_connected,
    "convolutional": convolutional,
    "vgg": vgg,
    "residual": residual,
}


def _choose(what: str, name: str, choices: dict):
    if name not in choices:
        raise ValueError(f"unknown {what} {name!r}; choose one of {sorted(choices)}")
    return choices[name]

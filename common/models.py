"""The architectures of the papers, each a few lines, with PyTorch's default initialisation.

Every model is an ordinary `torch.nn.Module` that maps images [n, channels, size, size] to
outputs [n, classes]; `common.objective` turns any of them into a loss on a flat vector.
"""

from collections.abc import Sequence

from torch import nn

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


MODELS = {"fully_connected": fully_connected, "convolutional": convolutional}


def _choose(what: str, name: str, choices: dict):
    if name not in choices:
        raise ValueError(f"unknown {what} {name!r}; choose one of {sorted(choices)}")
    return choices[name]

"""A loss on a flat parameter vector w [P]: the one interface that everything else uses.

An `Objective` is a function w -> loss. A `Point` is an objective at one w: its loss,
gradient, Hessian products and third derivatives, all from one graph that is built once.
A `Problem` names a data set, a model and a loss; with a seed it becomes an objective.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from common import DEVICE
from common.data import Images, load
from common.models import MODELS

LOSSES = ("mse", "cross_entropy")


class Point:
    """An objective at one parameter vector; every graph is built at most once.

    Args:
        objective: The objective.
        w: Parameters [P].
        curvature: Build the graph for Hessian products along with the gradient. Ask for
            it when products follow: the gradient is then computed once instead of twice.

    Example:
        >>> point = Objective(lambda w: (w**4).sum()).at(torch.tensor([1.0, 2.0]))
        >>> point.gradient
        tensor([ 4., 32.])
        >>> point.hessian_product(torch.tensor([1.0, 1.0]))
        tensor([12., 48.])
    """

    def __init__(self, objective: "Objective", w: Tensor, curvature: bool = False):
        self.objective, self.w = objective, w.detach()
        self._curvature = curvature

    @cached_property
    def _forward(self) -> tuple[Tensor, Tensor]:
        """(w, loss), with the graph of one gradient."""
        w = self.w.clone().requires_grad_()
        return w, self.objective.loss(w)

    @cached_property
    def _graph(self) -> tuple[Tensor, Tensor, Tensor]:
        """(w, loss, gradient), differentiable."""
        w, loss = self._forward
        return w, loss, torch.autograd.grad(loss, w, create_graph=True)[0]

    @cached_property
    def _value(self) -> tuple[Tensor, Tensor]:
        if self._curvature or "_graph" in self.__dict__:
            return self._graph[1].detach(), self._graph[2].detach()
        w, loss = self._forward
        del self.__dict__["_forward"]  # its graph is used up
        return loss.detach(), torch.autograd.grad(loss, w)[0]

    @property
    def loss(self) -> float:
        """Training loss; alone, it costs no gradient."""
        known = (
            self.__dict__.get("_value") or self.__dict__.get("_graph", self._forward)[1:]
        )
        return float(known[0].detach())

    @property
    def gradient(self) -> Tensor:
        """Gradient of the loss [P]."""
        return self._value[1]

    def hessian_product(self, v: Tensor) -> Tensor:
        """H v [P], by a second backward pass through the retained gradient graph."""
        w, _, gradient = self._graph
        return _grad(gradient, w, v)

    def curvature_gradients(self, vectors: Tensor) -> Tensor:
        """Gradients of the curvatures u_i^T H(w) u_j, the vectors held fixed.

        For the top eigenvector u, grad (u^T H u) is the gradient of the sharpness
        (paper 002, "self-stabilization": the cubic term of the Taylor expansion).

        Args:
            vectors: u_1 ... u_k as columns [P, k].

        Returns:
            Gradients [P, k, k], symmetric in the last two axes.
        """
        w, _, gradient = self._graph
        k = vectors.shape[1]
        result = vectors.new_zeros(len(self.w), k, k)
        for j in range(k):
            product = _grad(gradient, w, vectors[:, j], create_graph=True)
            for i in range(j + 1):
                result[:, i, j] = result[:, j, i] = _grad(product, w, vectors[:, i])
        return result


def _grad(outputs: Tensor, w: Tensor, v: Tensor, create_graph: bool = False) -> Tensor:
    """v^T d(outputs)/dw; zero where the outputs do not depend on w (a linear loss)."""
    if not outputs.requires_grad:
        return torch.zeros_like(w)
    (result,) = torch.autograd.grad(
        outputs,
        w,
        v,
        retain_graph=True,
        create_graph=create_graph,
        materialize_grads=True,
    )
    return result


@dataclass(frozen=True)
class Objective:
    """A loss on a flat parameter vector.

    Args:
        loss: Maps w [P] to a scalar tensor, twice differentiable.
        outputs: Maps w to the network outputs [n, classes], where there is a network.
        labels: Class of each sample [n], where there are classes.
        batch: Maps indices of samples [size] to the objective on these alone, where there
            are samples.
        function: Maps w and inputs [m, ...] to outputs [m, classes], where there is a
            network: for derivatives sample by sample, by the inputs, or elsewhere.
        inputs: The inputs x [n, ...], where there is a network.
        targets: What the outputs are to reach, y [n, classes], where the loss is their
            squared error.
    """

    loss: Callable[[Tensor], Tensor]
    outputs: Callable[[Tensor], Tensor] | None = None
    labels: Tensor | None = None
    batch: "Callable[[Tensor], Objective] | None" = None
    function: Callable[[Tensor, Tensor], Tensor] | None = None
    inputs: Tensor | None = None
    targets: Tensor | None = None

    def at(self, w: Tensor, curvature: bool = False) -> Point:
        """The objective at w [P]; see `Point`."""
        return Point(self, w, curvature)

    def accuracy(self, w: Tensor) -> float:
        """Share of the samples classified correctly; one output decides by its sign."""
        with torch.no_grad():
            outputs = self.outputs(w)
        single = outputs.shape[1] == 1
        chosen = (outputs[:, 0] > 0).long() if single else outputs.argmax(1)
        return float((chosen == self.labels).double().mean())


def network(model: nn.Module, images: Images, loss: str) -> tuple[Objective, Tensor]:
    """The training loss of a network as a function of its flattened parameters.

    "mse" is 1/2 sum over outputs of (f - y)^2, mean over samples, y the targets or one-hot
    (paper 001; every step size and threshold of this repository refers to that convention).
    "cross_entropy" is the mean over samples.

    Args:
        model: Any module that maps images to outputs.
        images: Images and labels.
        loss: "mse" or "cross_entropy".

    Returns:
        The objective and the model's present parameters w [P].

    Raises:
        ValueError: If the loss is unknown, or cross-entropy meets targets.
    """
    if loss not in LOSSES:
        raise ValueError(f"unknown loss {loss!r}; choose one of {LOSSES}")
    if loss == "cross_entropy" and images.targets is not None:
        raise ValueError("cross-entropy needs classes: targets go with 'mse'")
    dtype = images.x.dtype
    model = deepcopy(model).to(DEVICE, dtype)  # the caller's own stays as it is
    x = images.x.to(DEVICE)
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)  # faster convolutions
    labels = images.y.to(DEVICE) if images.classes else None
    if images.targets is None:
        y = nn.functional.one_hot(labels, len(images.classes)).to(dtype)
    else:
        y = images.targets.to(DEVICE, dtype)
    tensors, places = _detach_parameters(model)
    shapes, sizes = [p.shape for p in tensors], [p.numel() for p in tensors]
    w = torch.cat([p.reshape(-1) for p in tensors])

    def function(w: Tensor, x: Tensor) -> Tensor:
        """The outputs at inputs x."""
        parts = [
            part.view(shape) for part, shape in zip(w.split(sizes), shapes, strict=True)
        ]
        for module, name, index in places:
            setattr(module, name, parts[index])
        return model(x)

    return supervised(function, x, y if loss == "mse" else None, labels), w


def supervised(
    function: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    targets: Tensor | None,
    labels: Tensor | None,
) -> Objective:
    """The loss of a function of parameters and inputs on samples; see `network`.

    Args:
        function: Maps w [P] and inputs [m, ...] to outputs [m, outputs].
        x: Inputs [n, ...].
        targets: What the outputs are to reach [n, outputs], for the squared error; None
            for cross-entropy.
        labels: Class of each sample [n], where there are classes.
    """

    def outputs(w: Tensor) -> Tensor:
        return function(w, x)

    def squared_error(w: Tensor) -> Tensor:
        return (outputs(w) - targets).square().sum() / (2 * len(x))

    def cross_entropy(w: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs(w), labels)

    def batch(rows: Tensor) -> Objective:
        parts = [None if part is None else part[rows] for part in (targets, labels)]
        return supervised(function, x[rows], *parts)

    loss = cross_entropy if targets is None else squared_error
    return Objective(loss, outputs, labels, batch, function, x, targets)


def _detach_parameters(model: nn.Module) -> tuple[list[Tensor], list[tuple]]:
    """Make plain attributes of a module's parameters, to be set before each call.

    The same as torch.func.functional_call without its bookkeeping, which is a quarter of
    a small network's gradient.

    Returns:
        The parameters, each once, and (module, name, index of the parameter) for each place
        where one is used: several for tied weights.
    """
    order: dict[Tensor, int] = {}
    places = []
    for module in list(model.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            places.append((module, name, order.setdefault(parameter, len(order))))
            delattr(module, name)
    return [parameter.detach() for parameter in order], places


@dataclass(frozen=True)
class Problem:
    """What is trained: a data set, a model and a loss, by name; a seed makes it concrete.

    Args:
        data: Name of a data set (`common.data.load`), or a function that returns `Images`.
        n: Number of training images (None: all).
        classes: Number of classes.
        size: Image size after average pooling (None: the original).
        model: A key of `common.models.MODELS`, or a function (shape, classes, **options)
            that returns a module.
        options: Keyword arguments of the model.
        loss: "mse" or "cross_entropy".
        dtype: "float32" or "float64".
        signed: Two classes as one output with the targets -1 and +1.
        split: "train" or "test".

    Example:
        >>> problem = Problem(n=20, classes=4, size=7, model="fully_connected")
        >>> objective, w = problem.build(seed=0)
        >>> w.shape, objective.outputs(w).shape
        (torch.Size([2788]), torch.Size([20, 4]))
    """

    data: str | Callable[[], Images] = "fashion_mnist"
    n: int | None = None
    classes: int = 10
    size: int | None = None
    model: str | Callable[..., nn.Module] = "convolutional"
    options: dict[str, Any] = field(default_factory=dict)
    loss: str = "mse"
    dtype: str = "float32"
    signed: bool = False
    split: str = "train"

    def build(self, seed: int) -> tuple[Objective, Tensor]:
        """The objective and its initial parameters.

        Args:
            seed: Seed of the initialisation; the data do not depend on it.

        Returns:
            The objective and w_0 [P].

        Raises:
            ValueError: If the data set, model, loss or dtype is unknown.
        """
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"unknown dtype {self.dtype!r}: use 'float32' or 'float64'")
        if isinstance(self.model, str) and self.model not in MODELS:
            raise ValueError(f"unknown model {self.model!r}; choose one of {[*MODELS]}")
        images = self._images()
        make = MODELS[self.model] if isinstance(self.model, str) else self.model
        count = len(images.classes) if images.targets is None else images.targets.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = make(images.x.shape[1:], count, **self.options)
        return network(model, images, self.loss)

    def _images(self) -> Images:
        if callable(self.data):
            return self.data()
        images = load(
            self.data,
            n=self.n,
            classes=self.classes,
            size=self.size,
            split=self.split,
            dtype=getattr(torch, self.dtype),
        )
        return images.signed() if self.signed else images

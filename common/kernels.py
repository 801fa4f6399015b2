"""The tangent kernel K = J J^T of a network, exactly, and what it says about stability.

J [n C, P] is the Jacobian of the n C outputs F(w) by the parameters (paper 003, "neural
tangent kernel"). Rows of K are ordered as F(w).flatten(): sample by sample, and within a
sample output by output. For the loss of this repository, L = 1/(2n) |F - y|^2, gradient
descent on the linearised network is F - y -> (1 - eta K / n) (F - y), so it is stable
below (paper 003, "linear training dynamics", where the loss has no 1/n)

    eta_crit = 2 / lambda_max(K / n),

for the training set and, from the same K, for every batch in it. `tangent_kernel` has two
ways to the same K, which the tests hold against each other: Jacobians sample by sample
(any network), and one forward and one backward pass, from which each layer's share of K is
a product of two small Gram matrices (no Jacobian; most networks).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.func import jacrev, vjp, vmap
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from common.curvature import Eigenpairs, top_eigenpairs, warm_start
from common.objective import Objective
from common.training import Step

METHODS = ("auto", "layers", "jacobian")
BUDGET = 2**26  # numbers that an intermediate result may hold: 256 MiB in float32
TOLERANCE = 1e-13  # estimated relative error of an eigenvalue of a large K
DENSE = 320  # up to this size a full eigen-decomposition is faster than a few pairs


class Unsupported(ValueError):
    """The network does something that the layer products have no rule for."""


@dataclass(frozen=True)
class TangentKernel:
    """K at one w, its eigenspaces and what follows from them; NaN where K is not finite.

    Args:
        matrix: K [n C, n C].
        outputs: F(w) [n, C].

    Example:
        >>> diagonal, outputs = torch.tensor([8.0, 2.0]), torch.tensor([[3.0], [1.0]])
        >>> K = TangentKernel(torch.diag(diagonal), outputs)
        >>> K.eta_crit(), K.eta_crit(torch.tensor([1]))
        (0.5, 1.0)
        >>> K.loss_parts(torch.zeros(2, 1), s=1)  # of L = (9 + 1) / 4
        (2.25, 0.25)
    """

    matrix: Tensor
    outputs: Tensor

    def top(self, s: int) -> tuple[Tensor, Tensor]:
        """The s largest eigenvalues [s], descending, and eigenvectors [n C, s].

        Raises:
            ValueError: If s does not lie in 1 ... n C.
        """
        size = len(self.matrix)
        if not 1 <= s <= size:
            raise ValueError(f"s must lie in 1 ... {size}, not {s}")
        if size <= DENSE:
            values, vectors = self._decomposition
            return values[:s], vectors[:, :s]
        pairs = _top(self.matrix, s)
        return pairs.values, pairs.vectors.to(self.matrix)

    @cached_property
    def _decomposition(self) -> tuple[Tensor, Tensor]:
        """All eigenvalues, descending, and their vectors."""
        if not self.matrix.isfinite().all():
            nan = torch.full_like(self.matrix, torch.nan)
            return nan[0], nan
        values, vectors = torch.linalg.eigh(self.matrix)
        return values.flip(0), vectors.flip(1)

    @cached_property
    def lambda_max(self) -> float:
        """The largest eigenvalue of K, the |K| of paper 003."""
        if "_decomposition" in self.__dict__:
            return float(self._decomposition[0][0])
        return largest_eigenvalue(self.matrix)

    @property
    def trace(self) -> float:
        """The sum of the eigenvalues: sum over samples and outputs of |grad f|^2."""
        return float(self.matrix.trace())

    @property
    def frobenius(self) -> float:
        """The Frobenius norm of K."""
        return float(self.matrix.norm())

    def eta_crit(self, rows: Tensor | None = None) -> float:
        """2 / lambda_max(K / n): the largest stable step size of the linearised network.

        Args:
            rows: Samples of a batch [size] (None: all): then of the batch's own loss, from
                its block of K.
        """
        n, outputs = self.outputs.shape
        if rows is None:
            return 2 * n / self.lambda_max if self.lambda_max else torch.inf
        places = rows[:, None] * outputs + torch.arange(outputs, device=rows.device)
        places = places.flatten()
        largest = largest_eigenvalue(self.matrix[places[:, None], places])
        return 2 * len(rows) / largest if largest else torch.inf

    def loss_parts(self, targets: Tensor, s: int) -> tuple[float, float]:
        """(PL_s, PL_perp): the loss in the top-s eigenspace of K, and outside; see `split`.

        Args:
            targets: y [n, C].
            s: Dimension of the eigenspace (paper 003: 5).
        """
        return split(self.outputs - targets, self.top(s)[1])


def split(residual: Tensor, vectors: Tensor) -> tuple[float, float]:
    """The loss within a subspace and outside it; their sum is the loss.

    With R = F - y and the projector P on the subspace, PL = 1/(2n) |P R|^2 and
    PL_perp = 1/(2n) |R - P R|^2 (paper 003, "loss decomposition based on the tangent
    kernel", in this repository's convention of the loss: half of that there).

    Args:
        residual: R [n, C].
        vectors: Orthonormal basis of the subspace [n C, s].

    Returns:
        (PL, PL_perp).
    """
    r = residual.flatten()
    inside = vectors @ (vectors.T @ r)
    parts = inside.square().sum(), (r - inside).square().sum()
    return tuple(float(part) / (2 * len(residual)) for part in parts)


def largest_eigenvalue(matrix: Tensor) -> float:
    """The largest eigenvalue of a symmetric matrix; NaN if it is not finite."""
    if not matrix.isfinite().all():
        return torch.nan
    if len(matrix) <= DENSE:
        return float(torch.linalg.eigvalsh(matrix)[-1])
    return float(_top(matrix, 1).values[0])


def _top(matrix: Tensor, s: int) -> Eigenpairs:
    """The s largest eigenpairs; as exact as vectors have to be, unlike for a sharpness."""
    matrix = matrix.double()
    start = warm_start(len(matrix), s, like=matrix)
    return top_eigenpairs(lambda v: matrix @ v, start, s, TOLERANCE)


def tangent_kernel(objective: Objective, w: Tensor, method: str = "auto") -> TangentKernel:
    """The tangent kernel of a network at w; see the module's docstring.

    Args:
        objective: Of a network (`common.objective.network`), or a batch of one.
        w: Parameters [P].
        method: "layers" (layer products), "jacobian", or "auto": the first where it can.

    Returns:
        The kernel.

    Raises:
        ValueError: If the method is unknown, the objective has no network, or the outputs
            of one sample depend on others (batch normalisation); with "layers" also if
            there is no rule for something in the network.

    Example:
        >>> from common.objective import Problem
        >>> problem = Problem(n=4, classes=2, size=7, model="fully_connected")
        >>> objective, w = problem.build(seed=0)
        >>> tangent_kernel(objective, w).matrix.shape
        torch.Size([8, 8])
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {METHODS}")
    if objective.function is None:
        raise ValueError("a tangent kernel needs an objective with a network")
    w = w.detach()
    if method != "jacobian":
        try:
            return _by_layers(objective, w)
        except Unsupported:
            if method == "layers":
                raise
    return _by_jacobians(objective, w)


class KernelProbe:
    """For `common.training.train`: the tangent kernel of the training set at w_t.

    Columns: `kernel_norm` (lambda_max(K), the |K| of paper 003), `kernel_trace`,
    `kernel_frobenius` and `eta_crit`; with targets `top_loss` (PL_s) and `rest_loss`
    (PL_perp). For a `common.stochastic.MiniBatch` also, of the batch that the step from w_t
    is on, `batch_eta_crit`, `batch_loss` before the step and `batch_loss_after` it.

    Args:
        every: Steps between measurements.
        s: Dimension of the top eigenspace.
        method: See `tangent_kernel`.

    Raises:
        ValueError: When first called, if samples turn out to depend on each other.
    """

    def __init__(self, every: int = 1, s: int = 5, method: str = "auto"):
        self.every, self.s, self.method = every, s, method
        self._checked = False

    def __call__(self, step: Step) -> dict[str, float]:
        """Measure."""
        objective, w = step.point.objective, step.point.w
        K = tangent_kernel(objective, w, self.method)
        if not self._checked:
            self._check(objective, w, K)
        row = {}
        if objective.targets is not None:  # first: its eigenvectors bring all eigenvalues
            row["top_loss"], row["rest_loss"] = K.loss_parts(objective.targets, self.s)
        row |= {"kernel_norm": K.lambda_max, "eta_crit": K.eta_crit()}
        row |= {"kernel_trace": K.trace, "kernel_frobenius": K.frobenius}
        if hasattr(step.optimizer, "rows"):
            rows = step.optimizer.rows(step.state).to(w.device)
            batch = objective.batch(rows)
            row["batch_eta_crit"] = K.eta_crit(rows)
            with torch.no_grad():
                row["batch_loss"] = float(batch.loss(w))
                row["batch_loss_after"] = float(batch.loss(step.after))
        return row

    def _check(self, objective: Objective, w: Tensor, K: TangentKernel) -> None:
        """Hold the first sample's outputs and block against those of it alone."""
        x = objective.inputs[:1]
        J = jacobian(objective, w, x)
        with torch.no_grad():
            alone = objective.function(w, x)
        pairs = (K.outputs[:1], alone), (K.matrix[: len(J), : len(J)], J @ J.T)
        if any((a - b).norm() > 1e-3 * b.norm() for a, b in pairs):
            raise ValueError(
                "no tangent kernel: the outputs of one sample depend on others"
            )
        self._checked = True


# ---------------------------------------------------------------- Jacobians


def jacobian(objective: Objective, w: Tensor, x: Tensor) -> Tensor:
    """J [m C, P], the Jacobian of the outputs at inputs x [m, ...], sample by sample."""

    def one(w: Tensor, x: Tensor) -> Tensor:
        return objective.function(w, x[None])[0]

    chunk = max(1, BUDGET // (8 * len(w)))
    return vmap(jacrev(one), (None, 0), chunk_size=chunk)(w, x).flatten(0, 1)


def _by_jacobians(objective: Objective, w: Tensor) -> TangentKernel:
    """K in blocks of samples, so that two blocks of J at a time are in memory."""
    x = objective.inputs
    with torch.no_grad(), _Watch():
        outputs = objective.function(w, x)
    n, classes = outputs.shape
    size = max(1, min(n, BUDGET // (classes * len(w))))
    blocks = x.split(size)
    K = outputs.new_empty(n * classes, n * classes)
    for i in range(len(blocks)):
        J = jacobian(objective, w, blocks[i])
        here = slice(i * size * classes, i * size * classes + len(J))
        K[here, here] = J @ J.T
        for j in range(i):
            there = slice(j * size * classes, (j + 1) * size * classes)
            K[here, there] = J @ jacobian(objective, w, blocks[j]).T
            K[there, here] = K[here, there].T
    return TangentKernel(K, outputs)


# ---------------------------------------------------------------- layer products


class _Watch(TorchFunctionMode):
    """Sees every function that a network calls, and refuses normalisation by the batch."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (F.batch_norm, torch.batch_norm):
            raise ValueError("no tangent kernel: batch normalisation mixes the samples")
        return function(*args, **(kwargs or {}))


@dataclass(frozen=True)
class _Use:
    """One call with parameters: z = function(*args, **kwargs), z [n, ...].

    Args:
        function: What is called.
        args: Its arguments.
        kwargs: Its keyword arguments.
        places: Which of them are parameters: indices of args and keys of kwargs.
        z: The result.
    """

    function: Callable
    args: tuple
    kwargs: dict
    places: list[int | str]
    z: Tensor

    def __getitem__(self, place: int | str) -> Any:
        return (self.args if isinstance(place, int) else self.kwargs)[place]

    def argument(self, index: int, name: str, default: Any = None) -> Any:
        """An argument, given by its place or by its name."""
        if index < len(self.args):
            return self.args[index]
        return self.kwargs.get(name, default)

    def is_parameter(self, value: Any) -> bool:
        """Whether an argument is one of the parameters."""
        return any(self[place] is value for place in self.places)

    def others(self, batched: bool) -> dict[int | str, Tensor]:
        """The arguments [n, ...] that depend on the samples, or other tensors."""
        given = [*enumerate(self.args), *self.kwargs.items()]
        pairs = ((place, value) for place, value in given if place not in self.places)
        tensors = {place: value for place, value in pairs if isinstance(value, Tensor)}
        return {p: v for p, v in tensors.items() if v.requires_grad == batched}


class _Recorder(_Watch):
    """Notes each call in which a part of w meets the samples.

    A part of w is any tensor in its storage: split, view and transpose keep it there. What
    depends on the samples is what requires a gradient, since the inputs do and w does not.

    Args:
        w: Parameters [P].
        n: Number of samples; the first axis of all that depends on the samples.
    """

    def __init__(self, w: Tensor, n: int):
        super().__init__()
        self.n, self.size, self.storage = n, len(w), w.untyped_storage().data_ptr()
        self.uses: list[_Use] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if kwargs.get("inplace"):
            kwargs = kwargs | {"inplace": False}  # z has to be kept
        z = super().__torch_function__(function, types, args, kwargs)
        given = [*enumerate(args), *kwargs.items()]
        places = [place for place, value in given if self._holds_part(value)]
        if not places or not _tensors(z) or self._holds_part(z):
            return z
        use = _Use(function, args, kwargs, places, z)
        fine = isinstance(z, Tensor) and z.shape[:1] == (self.n,) and z.requires_grad
        fine = fine and all(isinstance(use[place], Tensor) for place in places)
        batched = use.others(batched=True).keys()
        if not fine or not (batched & {0, "input"} if function in RULES else batched):
            raise Unsupported(f"no rule for {function} with these parameters")
        self.uses.append(use)
        return z

    def _holds_part(self, value: Any) -> bool:
        return any(t.untyped_storage().data_ptr() == self.storage for t in _tensors(value))

    def check(self) -> None:
        """Refuse what would make the sum over layers wrong."""
        spans = []
        for use in self.uses:
            if use.z._version:
                raise Unsupported(f"the result of {use.function} is changed in place")
            for part in map(use.__getitem__, use.places):
                sizes = list(zip(part.shape, part.stride(), strict=True))
                if any(size > 1 and not stride for size, stride in sizes):
                    raise Unsupported("expanded parameters")
                first = part.storage_offset()
                spans.append((first, first + sum((m - 1) * step for m, step in sizes)))
        spans.sort()
        if any(before[1] >= after[0] for before, after in pairwise(spans)):
            raise Unsupported("parameters that are used twice")
        if sum(use[place].numel() for use in self.uses for place in use.places) < self.size:
            raise Unsupported("parameters whose use was not seen")


def _tensors(value: Any) -> list[Tensor]:
    """The tensors (no scalars) in a value: itself, or those in a list or tuple."""
    if isinstance(value, Tensor):
        return [value] if value.dim() else []
    items = value if isinstance(value, tuple | list) else ()
    return [tensor for item in items for tensor in _tensors(item)]


def _by_layers(objective: Objective, w: Tensor) -> TangentKernel:
    """K as a sum over the uses of parameters, each with its rule."""
    x = objective.inputs.detach().requires_grad_()
    recorder = _Recorder(w, len(x))
    with torch.enable_grad(), recorder:
        outputs = objective.function(w, x)
    recorder.check()
    zs = [use.z for use in recorder.uses]
    backwards = [  # of sums over the samples: they do not meet, so each keeps its own
        torch.autograd.grad(total, zs, retain_graph=True, materialize_grads=True)
        for total in outputs.sum(0)
    ]
    outputs = outputs.detach()
    K = outputs.new_zeros(outputs.numel(), outputs.numel())
    with torch.no_grad():
        for use, *B in zip(recorder.uses, *backwards, strict=True):
            B = torch.stack(B, 1) if len(B) > 1 else B[0][:, None]  # [n, C, ...]
            RULES.get(use.function, _any_function)(K, use, B)
    return TangentKernel(K, outputs)


def _linear(K: Tensor, use: _Use, B: Tensor) -> None:
    """Add the share of z = W a + b, a [n, ..., i]; B = df/dz [n, C, ..., o]."""
    A, W, b = (use.argument(*place) for place in ((0, "input"), (1, "weight"), (2, "bias")))
    A, B = A.reshape(len(A), -1, A.shape[-1]), B.reshape(*B.shape[:2], -1, B.shape[-1])
    _products(K, A, B, use.is_parameter(W), use.is_parameter(b))


def _conv2d(K: Tensor, use: _Use, B: Tensor) -> None:
    """Add the share of a convolution, a linear layer on patches; B [n, C, o, y, x]."""
    A, W, b = (use.argument(*place) for place in ((0, "input"), (1, "weight"), (2, "bias")))
    stride, padding = use.argument(3, "stride", 1), use.argument(4, "padding", 0)
    special = _pair(use.argument(5, "dilation", 1)) != (1, 1)
    special |= use.argument(6, "groups", 1) != 1 or isinstance(padding, str)
    if special:
        return _any_function(K, use, B)
    A = _patches(A, W.shape[2:], _pair(stride), _pair(padding))
    B = B.flatten(3).transpose(2, 3)
    return _products(K, A, B, use.is_parameter(W), use.is_parameter(b))


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _patches(A: Tensor, kernel: tuple, stride: tuple, padding: tuple) -> Tensor:
    """What a filter sees at each place [n, T, kernel^2 channels].

    As `torch.nn.functional.unfold` with the channels last, where whole runs of them are
    copied: several times faster.
    """
    (high, wide), (down, right) = kernel, padding
    A = F.pad(A.permute(0, 2, 3, 1), (0, 0, right, right, down, down)).contiguous()
    views = A.unfold(1, high, stride[0]).unfold(2, wide, stride[1])
    return views.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(1, 2)


def _products(K: Tensor, A: Tensor, B: Tensor, weight: bool, bias: bool) -> None:
    """Add the inner products of the gradients sum_t B_t A_t^T and sum_t B_t.

    They are sum_ts (A_t . A_s + 1) (B_t . B_s): for one position t, the usual fully
    connected layer, the elementwise product of two Gram matrices. With many positions it
    is cheaper to build the gradients.

    Args:
        K: What to add to [n C, n C].
        A: Inputs of a layer [n, T, i].
        B: Derivatives of the C outputs by what the layer puts out [n, C, T, o].
        weight: Whether the weight is a parameter.
        bias: Whether the bias is one.
    """
    n, C, T, o = B.shape
    i, rows = A.shape[-1], n * C
    if bias:
        total = B.sum(2).view(rows, o)
        K += total @ total.T
    if not weight:
        return
    grams = (n * T) ** 2 * i + (rows * T) ** 2 * (o + ELEMENTWISE)
    if grams <= rows * i * o * (T + rows) and (rows * T) ** 2 <= BUDGET:
        flat_A, flat_B = A.reshape(n * T, i), B.reshape(rows * T, o)
        product = (flat_B @ flat_B.T).view(n, C, T, n, C, T)
        product *= (flat_A @ flat_A.T).view(n, 1, T, n, 1, T)
        K += product.sum((2, 5)).view(rows, rows)
        return
    for part in B.split(max(1, BUDGET // (rows * i)), dim=3):  # some outputs at a time
        G = part.transpose(2, 3).reshape(n, -1, T) @ A  # [n, C o, i]
        G = G.view(rows, -1)
        K += G @ G.T


def _any_function(K: Tensor, use: _Use, B: Tensor) -> None:
    """Add the share of any function that works sample by sample, by its own vjp."""

    def one(samples: dict, cotangents: Tensor) -> tuple[Tensor, ...]:
        """Gradients [C, ...] by each parameter, for one sample."""

        def call(*parameters: Tensor) -> Tensor:
            new = {place: value[None] for place, value in samples.items()}
            new |= dict(zip(use.places, parameters, strict=True))
            args = [new.get(place, value) for place, value in enumerate(use.args)]
            kwargs = {key: new.get(key, value) for key, value in use.kwargs.items()}
            return use.function(*args, **kwargs)[0]

        return vmap(vjp(call, *map(use.__getitem__, use.places))[1])(cotangents)

    if any(value.shape[:1] == B.shape[:1] for value in use.others(batched=False).values()):
        raise Unsupported(f"{use.function} with what may be samples without a gradient")
    samples = {p: value.detach() for p, value in use.others(batched=True).items()}
    try:
        gradients = vmap(one)(samples, B)
    except RuntimeError as error:
        raise Unsupported(f"{use.function} does not work sample by sample") from error
    for G in gradients:
        G = G.reshape(len(K), -1)
        K += G @ G.T


ELEMENTWISE = 8  # one elementwise product in units of one multiply-add of matrices
RULES = {F.linear: _linear, torch.conv2d: _conv2d}

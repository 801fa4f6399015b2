"""The ways to measure the top Hessian eigenvalues that `make bench` compares.

Each is a function (place, setting, memory) -> (values [k], number of products). `memory`
is a dictionary of its own for each run along a trajectory, for those that start warm.
Peers are called as their documentation does, with what was kind to them: no data loader
for the published protocol, no check of determinism for curvlinops (but in its default).
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor, nn

from common.curvature import TOLERANCE, Curvature
from common.objective import Point


@dataclass
class Place:
    """One checkpoint: what each method is given, made before the clock starts."""

    point: Callable[[], Point]  # a fresh point of ours, without any graph
    module: nn.Module  # the same weights in an ordinary module, for the peers
    data: tuple[Tensor, Tensor]
    k: int
    seed: int

    def start(self) -> np.ndarray:
        """The random vector that cold scipy starts from."""
        rng = np.random.default_rng(self.seed)
        return rng.standard_normal(self.size, dtype=np.float32)

    @property
    def size(self) -> int:
        """Number of parameters P."""
        return sum(p.numel() for p in self.module.parameters())


class SquaredError(nn.Module):
    """The squared error of `common.objective`: 1/2 sum over outputs, mean over samples."""

    reduction = "mean"  # over samples; curvlinops asks

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss."""
        return (outputs - targets).square().sum() / (2 * len(outputs))


criterion = SquaredError()


class Counted(LinearOperator):
    """A product of torch vectors, as scipy wants it, that counts its calls."""

    def __init__(self, product: Callable[[Tensor], Tensor], size: int, dtype=np.float32):
        super().__init__(dtype, (size, size))
        self.product, self.calls = product, 0

    def _matvec(self, v: np.ndarray) -> np.ndarray:
        self.calls += 1
        return self.product(torch.from_numpy(v).reshape(-1)).numpy()


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """One vector of several tensors."""
    return torch.cat([x.reshape(-1) for x in tensors])


def top(operator: LinearOperator, k: int, **options) -> tuple[np.ndarray, np.ndarray]:
    """The k largest eigenvalues by scipy, in descending order, and the vectors."""
    try:
        values, vectors = eigsh(operator, k, which="LA", **options)
    except ArpackNoConvergence as failure:  # what it has, so that the error shows it
        values = np.append(failure.eigenvalues, [np.nan] * k)[:k]
        return values, np.zeros((operator.shape[0], k))
    return values[::-1], vectors[:, ::-1]


def reference(point: Point, k: int) -> np.ndarray:
    """The truth [k]: cold Lanczos to a residual of 1e-10, at a float64 point."""
    v0 = np.random.default_rng(1).standard_normal(len(point.w))
    operator = Counted(point.hessian_product, len(point.w), np.float64)
    return top(operator, k, v0=v0, tol=1e-10)[0]


# ---- the methods: (place, setting, memory) -> values [k], number of products


def gradient(place: Place, setting, memory: dict) -> tuple[np.ndarray, int]:
    """The unit of cost: one gradient and nothing else."""
    place.point().gradient  # noqa: B018 (computed when asked for)
    return np.full(place.k, np.nan), 0


def ours(place: Place, tolerance: float, memory: dict):
    """The tracker of `common.curvature`, with its warm start."""
    tracker = memory.setdefault("tracker", Curvature(place.k, tolerance))
    pairs = tracker(place.point())
    return pairs.values.numpy(), pairs.products


def scipy_warm(place: Place, tolerance: float, memory: dict):
    """Scipy's eigsh on retained products, from the sum of the last eigenvectors."""
    point, k = place.point(), place.k
    operator = Counted(point.hessian_product, len(point.w))
    v0 = memory["v0"] if memory else place.start()
    values, vectors = top(operator, k, v0=v0, tol=tolerance, ncv=2 * k + 4)
    memory["v0"] = vectors.sum(1)
    return values, operator.calls


def scipy_cold(place: Place, tolerance: float, memory: dict):
    """Scipy's eigsh on retained products, from a random vector."""
    point = place.point()
    operator = Counted(point.hessian_product, len(point.w))
    return top(operator, place.k, v0=place.start(), tol=tolerance)[0], operator.calls


def published(place: Place, tolerance: float, memory: dict):
    """The protocol of locuslab/edge-of-stability: a new gradient graph for each product."""
    parameters = list(place.module.parameters())
    x, y = place.data

    def product(v: Tensor) -> Tensor:
        loss = criterion(place.module(x), y)
        grads = torch.autograd.grad(loss, parameters, create_graph=True)
        dot = flat(grads) @ v
        return flat(torch.autograd.grad(dot, parameters))

    operator = Counted(product, place.size)
    return top(operator, place.k, v0=place.start(), tol=tolerance)[0], operator.calls


def curvlinops(place: Place, setting: float | None, memory: dict):
    """Curvlinops' operator in eigsh; None: as in its documentation, float64 and checks."""
    from curvlinops import HessianLinearOperator

    options = {} if setting is None else {"check_deterministic": False}
    dtype = np.float64 if setting is None else np.float32
    parameters = list(place.module.parameters())
    H = HessianLinearOperator(place.module, criterion, parameters, [place.data], **options)
    inner = H.to_scipy(dtype)

    def product(v: Tensor) -> Tensor:
        return torch.from_numpy(inner.matvec(v.numpy()))

    operator = Counted(product, H.shape[0], dtype)
    v0 = place.start().astype(dtype)
    return top(operator, place.k, v0=v0, tol=setting or 0)[0], operator.calls


def pyhessian(place: Place, setting: tuple[int, float], memory: dict):
    """PyHessian's power iteration: (most iterations, relative change)."""
    from pyhessian import hessian

    module, calls = sys.modules["pyhessian.hessian"], []
    original = module.hessian_vector_product
    module.hessian_vector_product = lambda *a: calls.append(1) or original(*a)
    torch.manual_seed(place.seed)  # its start vectors come from torch's global generator
    try:
        place.module.zero_grad(set_to_none=True)  # it adds to the gradients that it finds
        solver = hessian(place.module, criterion, data=place.data, cuda=False)
        values, _ = solver.eigenvalues(*setting, top_n=place.k)
    finally:
        module.hessian_vector_product = original
        place.module.zero_grad(set_to_none=True)  # breaks the cycle that holds its graph
    return np.sort(values)[::-1], len(calls)


def eigenthings(place: Place, setting: int | None, memory: dict):
    """The Lanczos of hessian-eigenthings: number of iterations; None: its default, 2k."""
    from hessian_eigenthings import HessianOperator, lanczos, supervised_loss

    H = HessianOperator(place.module, [place.data], supervised_loss(criterion))
    steps = setting and max(setting, 2 * place.k)
    pairs = lanczos(H, k=place.k, max_iter=steps, which="LA", seed=place.seed)
    return pairs.eigenvalues.numpy(), pairs.iterations


@dataclass(frozen=True)
class Method:
    """A way to measure, its settings, and the one that is its default."""

    name: str
    measure: Callable
    settings: tuple
    default: object
    warm: bool = False  # remembers the last checkpoint


POWER = ((100, 1e-3), (200, 1e-4), (500, 1e-5), (1000, 1e-6))
METHODS = (
    Method("gradient", gradient, ("-",), "-"),
    Method("ours", ours, (8e-6, 5e-6, 3e-6, 2e-6), TOLERANCE, warm=True),
    Method("published protocol", published, (0.0,), 0.0),
    Method("curvlinops + eigsh", curvlinops, (1e-2, 1e-3, None), None),
    Method("PyHessian", pyhessian, POWER, POWER[0]),
    Method("hessian-eigenthings", eigenthings, (None, 20, 30), None),
    Method("eigsh, retained, cold", scipy_cold, (1e-2, 1e-3), None),
    Method("eigsh, retained, warm", scipy_warm, (1e-2, 1e-3), None, warm=True),
)

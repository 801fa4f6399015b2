"""What a measurement of the top Hessian eigenvalues costs, side by side: `make bench`.

Gradient descent is run into the edge of stability; every 5 steps in a window there, all
methods measure the same weights, one after the other in random order. A method's error is
the largest over its k eigenvalues, as a share of the largest eigenvalue; the truth is a
cold float64 Lanczos. CPU seconds hold the whole measurement, its gradient graph too.

Tolerances mean different things in different packages, so each method has a short list of
settings, and the one that is compared is the cheapest whose worst error, over every
checkpoint of every seed of a net, is within `BOUND`. A setting that misses the bound is
measured no further on that net, unless it is what the package does by default; after the
first seed, neither is one that costs more than another that meets a tenth of the bound.
"""

from common import ROOT  # first of all: it sets one thread, which numpy must find

# isort: split
import argparse
import platform
import random
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from common.curvature import Curvature
from common.data import DataError, Images
from common.models import MODELS
from common.objective import Point, Problem
from common.optimizers import GradientDescent

HERE = Path(__file__).parent
CSV = HERE / "sharpness.csv"
BOUND = 2e-5  # worst error of a setting that is compared
SPACING = 5  # steps between measurements
SEEDS = (0, 1, 2)
K = (1, 4)
PACKAGES = ("torch", "scipy", "curvlinops-for-pytorch", "pyhessian", "hessian-eigenthings")


@dataclass(frozen=True)
class Net:
    """A problem and the window of its trajectory: `start`, then every `SPACING` steps."""

    name: str
    problem: Problem
    eta: float
    start: int
    checkpoints: int  # the first one is cold and not counted


def _net(name, data, n, size, model, width, activation, *window) -> Net:
    options = {"width": width, "activation": activation}
    return Net(name, Problem(data, n, 10, size, model, options), *window)


FC, CNN = "fully_connected", "convolutional"
NETS = (
    _net("FC 49-32-32-10", "fashion_mnist", 128, 7, FC, (32, 32), "tanh", 0.25, 300, 11),
    _net("CNN 8-8", "fashion_mnist", 64, 14, CNN, (8, 8), "elu", 0.1, 440, 11),
    _net("FC 3072-200-200-10", "cifar10", 1000, 32, FC, (200, 200), "tanh", 0.025, 240, 4),
)


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
        size = sum(p.numel() for p in self.module.parameters())
        return np.random.default_rng(self.seed).standard_normal(size).astype(np.float32)


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
    v0 = memory.get("v0", place.start())
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

    operator = Counted(product, len(place.start()))
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
    Method("ours", ours, (3e-3, 2e-3, 1.5e-3, 1e-3), 1.5e-3, warm=True),
    Method("published protocol", published, (0.0,), 0.0),
    Method("curvlinops + eigsh", curvlinops, (1e-2, 1e-3, None), None),
    Method("PyHessian", pyhessian, POWER, POWER[0]),
    Method("hessian-eigenthings", eigenthings, (None, 20, 30), None),
    Method("eigsh, retained, cold", scipy_cold, (1e-2, 1e-3), None),
    Method("eigsh, retained, warm", scipy_warm, (1e-2, 1e-3), None, warm=True),
)


@dataclass
class Runner:
    """One method with one setting and one k on one seed: its memory and its records."""

    method: Method
    setting: object
    k: int
    memory: dict = field(default_factory=dict)
    records: list[tuple[int, float, float]] = field(default_factory=list)

    def key(self) -> tuple:
        """What is dropped when it misses the bound."""
        return self.method.name, self.setting, self.k

    def seconds(self) -> float:
        """Median CPU seconds; infinite without records."""
        return np.median([x[1] for x in self.records]) if self.records else np.inf

    def worst(self) -> float:
        """Largest error."""
        return max(x[2] for x in self.records)

    def __call__(self, place: Place, truth: np.ndarray, counts: bool) -> float:
        """Measure; return the error."""
        begin = time.process_time()
        values, products = self.method.measure(place, self.setting, self.memory)
        seconds = time.process_time() - begin
        error = np.abs(np.asarray(values) - truth[: self.k]).max() / truth[0]
        if counts:
            self.records.append((products, seconds, float(error)))
        return error


def trajectory(net: Net, seed: int) -> list[Tensor]:
    """The weights at the checkpoints."""
    objective, w = net.problem.build(seed)
    rule, kept = GradientDescent(net.eta), []
    state = rule.init(w)
    last = net.start + SPACING * (net.checkpoints - 1)
    for step in range(last + 1):
        if step >= net.start and (step - net.start) % SPACING == 0:
            kept.append(w)
        w, state = rule.step(objective.at(w), state)
    return kept


def ordinary(problem: Problem) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """The network as an ordinary module, and its inputs and one-hot targets."""
    images: Images = problem._images()
    make = MODELS[problem.model]
    module = make(images.x.shape[1:], len(images.classes), **problem.options)
    x = images.x.contiguous(memory_format=torch.channels_last)  # as ours has it
    targets = nn.functional.one_hot(images.y, len(images.classes)).to(x.dtype)
    return module.to(x.dtype), (x, targets)


def run_seed(net: Net, seed: int, methods: tuple[Method, ...], dropped: set) -> list[dict]:
    """Measure one seed of a net: a row for each method, setting and k.

    Args:
        net: The net and its window.
        seed: Seed of the initialisation, and of the random order.
        methods: What is measured; `gradient` must be among them.
        dropped: Keys of the runners that are left out; grows.
    """
    objective, _ = net.problem.build(seed)
    exact, _ = replace(net.problem, dtype="float64").build(seed)
    module, data = ordinary(net.problem)
    runners = [Runner(m, s, k) for m in methods for s in m.settings for k in K]
    order, edge = random.Random(seed), []
    for index, w in enumerate(trajectory(net, seed)):
        truth = reference(exact.at(w.double(), curvature=True), max(K))
        edge.append(truth[0] * net.eta / 2)
        vector_to_parameters(w, module.parameters())
        order.shuffle(runners)
        for runner in runners:
            if runner.key() in dropped or not (index or runner.method.warm):
                continue

            def point(w=w, graph=runner.method.measure is not gradient):
                return objective.at(w, curvature=graph)

            place = Place(point, module, data, runner.k, 1000 * seed + index)
            error = runner(place, truth, counts=index > 0)
            if not error <= BOUND and index and runner.setting != runner.method.default:
                dropped.add(runner.key())
    unit = next(r for r in runners if r.method.measure is gradient)
    unit = np.median([seconds for _, seconds, _ in unit.records])
    rows = []
    for runner in sorted((r for r in runners if r.records), key=lambda r: str(r.key())):
        products, seconds, errors = map(np.array, zip(*runner.records, strict=True))
        row = {"net": net.name, "parameters": len(w), "k": runner.k, "seed": seed}
        row |= {"method": runner.method.name, "setting": str(runner.setting)}
        row |= {"default": runner.setting == runner.method.default}
        row |= {"checkpoints": len(errors), "of": net.checkpoints - 1}
        for name, values in (("products", products), ("cpu", seconds)):
            row |= {f"{name}_median": np.median(values)}
            row |= {f"{name}_min": values.min(), f"{name}_max": values.max()}
        row |= {"gradients": np.median(seconds) / unit}
        row |= {"error_median": np.median(errors), "error_max": errors.max()}
        row |= {"edge_min": min(edge[1:]), "edge_max": max(edge[1:])}
        rows.append(row)
    for runner in runners:
        rivals = [r for r in runners if r.records and r.method is runner.method]
        rivals = [r for r in rivals if r.k == runner.k and r.worst() <= BOUND / 10]
        if any(r.seconds() < runner.seconds() for r in rivals):
            dropped.add(runner.key())
    return rows


def machine() -> dict[str, str]:
    """What the numbers depend on besides the code."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    versions = [f"{name} {version(name)}" for name in PACKAGES]
    date = datetime.now(UTC).date().isoformat()
    threads = f"{cpu}, {torch.get_num_threads()} thread"
    return {"machine": threads, "versions": "; ".join(versions), "date": date}


def main() -> None:
    """Measure, write the csv, renew the table in README.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="one small net, writes nothing"
    )
    parser.add_argument("--table", action="store_true", help="only renew the table")
    options = parser.parse_args()
    if options.table:
        return update_readme(ROOT / "README.md", pd.read_csv(CSV))
    nets = [replace(NETS[0], start=60, checkpoints=3)] if options.quick else NETS
    rows = []
    for net in nets:
        dropped: set = set()
        for seed in SEEDS[: 1 if options.quick else None]:
            begin = time.process_time()
            try:
                rows += run_seed(net, seed, METHODS, dropped)
            except DataError as error:
                print(f"{net.name}: skipped, {error}", flush=True)
                break
            took = time.process_time() - begin
            print(f"{net.name}, seed {seed}: {took:.0f} CPU s", flush=True)
            if not options.quick:
                table = pd.DataFrame(rows).assign(**machine())
                table.to_csv(CSV, index=False, float_format="%.4g", lineterminator="\n")
    if options.quick:
        print(pd.DataFrame(rows).drop(columns=["net", "parameters"]).to_string())
    else:
        update_readme(ROOT / "README.md", pd.read_csv(CSV))


if __name__ == "__main__":
    main()

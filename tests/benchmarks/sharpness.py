"""What a measurement of the top Hessian eigenvalues costs, side by side: `make bench`.

Gradient descent is run into the edge of stability; every 5 steps in a window there, all
methods measure the same weights, one after the other in random order. A method's error is
the largest over its k eigenvalues, as a share of the largest eigenvalue; the truth is a
cold float64 Lanczos. CPU seconds hold the whole measurement, its gradient graph too.

Tolerances mean different things in different packages, so each method has a short list of
settings, and the one that is compared is the cheapest whose worst error, over every
checkpoint of every seed of a net, is within `BOUND`. A setting that misses the bound is
measured no further on that net, unless it is what the package does by default; after the
first seed, neither is one that costs twice as much as another within a tenth of the bound.
"""

from common import ROOT  # first of all: it sets one thread, which numpy must find

# isort: split
import argparse
import platform
import random
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from common.data import DataError, Images
from common.models import MODELS
from common.objective import Problem
from common.optimizers import GradientDescent
from tests.benchmarks.methods import METHODS, Method, Place, gradient, reference
from tests.benchmarks.table import BOUND, CSV, read, update_readme

SPACING = 5  # steps between measurements
SEEDS = (20, 21, 22)  # never looked at while the tracker was made
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
    _net("FC 3072-200-200-10", "cifar10", 1000, 32, FC, (200, 200), "tanh", 0.025, 240, 6),
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
        if any(2 * r.seconds() < runner.seconds() for r in rivals):
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
    threads = f"{cpu}, threads: {torch.get_num_threads()}"
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
        return update_readme(ROOT / "README.md", read())
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
        update_readme(ROOT / "README.md", read())


if __name__ == "__main__":
    main()

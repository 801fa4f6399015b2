"""What does it cost to see the sharpness at every step? Error against cost, two places.

Along edge-of-stability runs of the networks of notebook 01 the largest Hessian eigenvalue
is measured at every step, with several tolerances, at the iterates w_t and at the step
midpoints (w_t + w_{t+1}) / 2, and compared with a float64 reference at the same weights.
Writes `figures/bench/sharpness/every_step.csv` and `.png`; takes about five CPU minutes,
with `--quick` a few seconds.
"""

import argparse
from itertools import islice
from time import process_time

import numpy as np
import pandas as pd
import torch

from common.curvature import Curvature
from common.figures import BLACK, BLUE, ORANGE, Figures, panels
from common.objective import Objective, Problem
from common.optimizers import GradientDescent
from common.training import trajectory
from tests.benchmarks.methods import Counted, top

FC = {"width": (32, 32), "activation": "tanh"}
CNN = {"width": (8, 8), "activation": "elu"}
NETS = {  # network of notebook 01: problem, step size
    "FC": (Problem(n=128, size=7, model="fully_connected", options=FC), 0.25),
    "CNN": (Problem(n=64, size=14, model="convolutional", options=CNN), 0.1333),
}
TOLERANCES = (1e-2, 1e-3, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)
MISS = 0.02  # relative error that counts as a miss


def visited(problem: Problem, eta: float, seed: int, steps: int, wait: int) -> list:
    """Weights of `steps` + 1 iterates from `wait` steps past the crossing on, float32."""
    objective, w = problem.build(seed)
    rule, tracker = GradientDescent(eta), Curvature()
    path = trajectory(objective, rule, w)
    for step in path:
        if step.index % 10 == 0 and tracker(step.point).values[0] > 2 / eta:
            break
    return [step.point.w for step in islice(path, wait, wait + steps + 1)]


def reference(objective: Objective, w: torch.Tensor, start: np.ndarray) -> tuple:
    """Largest eigenvalue and vector in float64, to a residual far below every tolerance."""
    point = objective.at(w.double(), curvature=True)
    operator = Counted(point.hessian_product, len(w), np.float64)
    values, vectors = top(operator, 2, v0=start, tol=1e-6)
    return values[0], vectors.sum(1)


def cost_of_a_gradient(objective: Objective, w: torch.Tensor, repeats: int = 50) -> float:
    """CPU seconds."""
    start = process_time()
    for _ in range(repeats):
        objective.at(w).gradient  # noqa: B018
    return (process_time() - start) / repeats


def measure(name: str, seed: int, steps: int, wait: int, tolerances) -> pd.DataFrame:
    """One row per place, tolerance and step."""
    problem, eta = NETS[name]
    objective, _ = problem.build(seed)
    exact, _ = Problem(**{**vars(problem), "dtype": "float64"}).build(seed)
    weights = visited(problem, eta, seed, steps, wait)
    gradient, rows = cost_of_a_gradient(objective, weights[0]), []
    places = {
        "iterate": weights[:-1],
        "midpoint": [(a + b) / 2 for a, b in zip(weights, weights[1:], strict=False)],
    }
    start = np.random.default_rng(0).standard_normal(len(weights[0]))
    for place, points in places.items():
        truth = []
        for w in points:
            value, start = reference(exact, w, start)
            truth.append(value)
        for tolerance in tolerances:
            tracker = Curvature(tolerance=tolerance)
            for step, w in enumerate(points):
                began = process_time()
                pairs = tracker(objective.at(w, curvature=True))
                seconds = process_time() - began
                if place == "iterate":
                    seconds -= gradient  # training takes this gradient anyway
                row = dict(net=name, seed=seed, place=place, tolerance=tolerance)
                row |= dict(step=step, products=pairs.products)
                row |= dict(gradients=seconds / gradient, estimate=float(pairs.errors[0]))
                row["error"] = abs(float(pairs.values[0]) / truth[step] - 1)
                rows.append(row)
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Cost and error over all seeds; the cold first steps (two) are left out."""
    warm = table[table.step > 1].assign(miss=lambda t: t.error > MISS)
    groups = warm.groupby(["net", "place", "tolerance"], sort=False)
    return groups.agg(
        points=("error", "size"),
        products=("products", "mean"),
        gradients=("gradients", "mean"),
        median=("error", "median"),
        q95=("error", lambda e: e.quantile(0.95)),
        q99=("error", lambda e: e.quantile(0.99)),
        worst=("error", "max"),
        misses=("miss", "sum"),
    ).reset_index()


def main() -> None:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="seconds; nothing written")
    options = parser.parse_args()
    steps, seeds = (6, [0]) if options.quick else (100, [0, 1, 2])
    parts = [measure(net, seed, steps, 60, TOLERANCES) for net in NETS for seed in seeds]
    table = summary(pd.concat(parts))
    print(table.to_string(index=False, float_format=lambda x: f"{x:.2g}"))
    if not options.quick:
        draw(table)


def draw(table: pd.DataFrame) -> None:
    """The frontier: error against products a step."""
    fig, axes = panels(1, 2, height=3.4, sharey=True)
    colors = {"iterate": BLUE, "midpoint": ORANGE}
    for ax, (net, part) in zip(axes, table.groupby("net", sort=False), strict=True):
        for place, curve in part.groupby("place", sort=False):
            look = dict(color=colors[place])
            ax.loglog(curve.products, curve.q95, "o-", label=f"{place}s", **look)
            ax.loglog(curve.products, curve.worst, alpha=0.3, **look)
        ax.axhline(MISS, color=BLACK, ls="--", lw=1)
        ax.set(title=f"{net}: sharpness at every step", xlabel="Hessian products a step")
        ax.set_xticks([4, 5, 6, 7, 8], [4, 5, 6, 7, 8])
        ax.minorticks_off()
    axes[0].set_ylabel("relative error: 95 % (faint: worst)")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    Figures("sharpness", "bench").save(fig, "every_step", table)


if __name__ == "__main__":
    main()

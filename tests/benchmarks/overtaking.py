"""How often is an eigenvalue missed that overtakes the first? A synthetic worst case.

The operator has fixed eigenvectors that do not interact, and one eigenvalue rises through
the largest at a constant rate: the tracked eigenvector stays exact for ever, so that its
residual says nothing. Writes `figures/bench/sharpness/overtaking.csv`; four minutes.
"""

import argparse
from types import SimpleNamespace

import pandas as pd
import torch

from common import ROOT
from common.curvature import TOLERANCE, Curvature

SIZE, STEPS, TOP = 2000, 400, 1.6
RATES = (0.002, 0.01, 0.05)  # rise a measurement, as a share of the largest eigenvalue
TOLERANCES = (1e-5, TOLERANCE)
MISS = 0.02  # relative error that counts as a miss


def measure(rate: float, tolerance: float, seed: int, steps: int = STEPS) -> dict:
    """Follow one rise: the products a measurement, and the number of misses."""
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator))[0]
    first = torch.tensor([0.0, 1.0, 0.8, 0.6, 0.5])
    values = torch.cat([first, torch.linspace(0.4, -0.1, SIZE - len(first))])
    tracker, missed = Curvature(tolerance=tolerance), 0
    begin = max(0.0, 1 - rate * steps / 2)  # so that it passes 1 half-way, at the latest
    for step in range(steps):
        values[0] = min(begin + rate * step, TOP)
        point = SimpleNamespace(
            w=values, hessian_product=lambda v: Q @ (values * (Q.T @ v))
        )
        found = float(tracker(point).values[0])
        missed += abs(found / float(values.max()) - 1) > MISS
    row = dict(rate=rate, tolerance=tolerance, seed=seed, measurements=steps)
    return row | dict(products=tracker.products / steps, missed=missed)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="seconds; nothing written")
    options = parser.parse_args()
    seeds, steps = ((0,), 20) if options.quick else (range(5), STEPS)
    table = pd.DataFrame(
        measure(rate, tolerance, seed, steps)
        for rate in RATES
        for tolerance in TOLERANCES
        for seed in seeds
    )
    groups = table.groupby(["rate", "tolerance"], as_index=False)
    print(groups.agg({"measurements": "sum", "products": "mean", "missed": "sum"}))
    if not options.quick:
        path = ROOT / "figures/bench/sharpness/overtaking.csv"
        table.to_csv(path, index=False, float_format="%.4g", lineterminator="\n")


if __name__ == "__main__":
    main()

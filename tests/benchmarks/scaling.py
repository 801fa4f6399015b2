"""How the cost of looking grows: gradient, Hessian product and measurement against n and P.

Fully connected and convolutional networks on random images over two decades of the number
of samples n and of parameters P, one thread. A measurement is one warm-started sharpness
two steps of gradient descent after the last one. Also the share of the
machine's matrix-product peak that gradient and Hessian product reach. Writes
`figures/bench/sharpness/scaling.csv` and `.png`; takes about three CPU minutes.
"""

import argparse
from time import process_time

import numpy as np
import pandas as pd
import torch

from common.curvature import Curvature
from common.data import Images
from common.figures import BLUE, GREEN, ORANGE, Figures, panels
from common.objective import Problem

SIDE, CLASSES = 16, 10
NETS = {
    "FC": ("fully_connected", "tanh", lambda m: (m, m)),
    "CNN": ("convolutional", "elu", lambda m: (m, m)),
}
SAMPLES = {"FC": (32, 100, 320, 1000, 3200), "CNN": (10, 32, 100, 320, 1000)}
WIDTHS = {"FC": (10, 32, 80, 200, 500), "CNN": (4, 8, 16, 32, 64)}
BASE = {"FC": (320, 80), "CNN": (64, 8)}  # (n, width) of the other sweep
QUANTITIES = {"gradient": ORANGE, "product": BLUE, "measurement": GREEN}


def images(n: int) -> Images:
    """Random images: the cost does not depend on what they show."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 1, SIDE, SIDE, generator=generator)
    return Images(x, torch.arange(n) % CLASSES, tuple(range(CLASSES)))


def seconds(work, least: float = 0.3) -> float:
    """CPU seconds of a call: the best of several rounds."""
    work()
    rounds, best = 0.0, np.inf
    while rounds < least:
        start = process_time()
        work()
        best = min(best, process_time() - start)
        rounds += process_time() - start
    return best


def flops(net: str, n: int, width: int) -> float:
    """Of one gradient: forward, and backward to weights and (not in layer one) inputs."""
    if net == "FC":
        first, rest = SIDE**2 * width, width * width + width * CLASSES
    else:
        first = SIDE**2 * 9 * width
        rest = (SIDE // 2) ** 2 * 9 * width**2 + (SIDE // 4) ** 2 * width * CLASSES
    return 2 * n * (2 * first + 3 * rest)


def peak() -> float:
    """Matrix-product rate of this machine, one thread, float32 [1/s]."""
    a = torch.randn(1024, 1024)
    return 2 * 1024**3 / seconds(lambda: a @ a)


def measure(net: str, n: int, width: int) -> dict[str, float]:
    """Costs of one network [CPU s]."""
    model, activation, shape = NETS[net]
    options = {"width": shape(width), "activation": activation}
    problem = Problem(data=lambda: images(n), model=model, options=options)
    objective, w = problem.build(0)
    gradient = seconds(lambda: objective.at(w).gradient)
    point, v = objective.at(w, curvature=True), torch.randn_like(w)
    product = seconds(lambda: point.hessian_product(v))
    tracker, spent, products = Curvature(), [], []
    for _ in range(6):
        start = process_time()
        pairs = tracker(objective.at(w, curvature=True))
        spent.append(process_time() - start)
        products.append(pairs.products)
        for _ in range(2):
            w = w - 0.5 / float(pairs.values[0]) * objective.at(w).gradient
    row = {"gradient": gradient, "product": product, "measurement": np.median(spent[1:])}
    return row | {"products": np.median(products[1:]), "P": len(w)}


def main() -> None:
    """Measure, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="seconds; nothing written")
    options = parser.parse_args()
    best, rows = peak(), []
    for net, (n0, width0) in BASE.items():
        cases = [("n", n, width0) for n in SAMPLES[net]]
        cases += [("P", n0, width) for width in WIDTHS[net]]
        for sweep, n, width in cases[:1] if options.quick else cases:
            row = measure(net, n, width)
            share = {
                f"{what} share of peak": times * flops(net, n, width) / row[what] / best
                for what, times in (("gradient", 1), ("product", 1))
            }
            rows.append(dict(net=net, sweep=sweep, n=n, width=width) | row | share)
    table = pd.DataFrame(rows)
    print(f"matrix-product peak {best / 1e9:.0f} GF/s")
    print(table.to_string(index=False, float_format=lambda x: f"{x:.3g}"))
    if not options.quick:
        draw(table)


def draw(table: pd.DataFrame) -> None:
    """The four panels, with the slope of the upper half of each curve."""
    fig, axes = panels(2, 2, height=2.9)
    for row, net in zip(axes, NETS, strict=True):
        for ax, sweep in zip(row, ("n", "P"), strict=True):
            part = table[(table.net == net) & (table.sweep == sweep)]
            for what, color in QUANTITIES.items():
                slope = np.polyfit(np.log(part[sweep][-3:]), np.log(part[what][-3:]), 1)[0]
                label = f"{what}, slope {slope:.2f}"
                ax.loglog(part[sweep], 1e3 * part[what], "o-", color=color, label=label)
            fixed = f"width {BASE[net][1]}" if sweep == "n" else f"n = {BASE[net][0]}"
            name = "samples $n$" if sweep == "n" else "parameters $P$"
            ax.set(title=f"{net}, {fixed}", xlabel=name, ylabel="CPU ms")
            ax.set_ylim(top=20 * part.measurement.max() * 1e3)  # room for the legend
            ax.legend(loc="upper left")
    Figures("sharpness", "bench").save(fig, "scaling", table)


if __name__ == "__main__":
    main()

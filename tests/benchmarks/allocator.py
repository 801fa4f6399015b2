"""What the allocator setting of `common/__init__.py` saves: a wide CNN with and without it.

Each case is a process of its own. Writes `figures/bench/sharpness/allocator.csv`; a minute.
"""

import argparse
import json
import os
import subprocess
import sys

import pandas as pd

from common import ROOT

CASE = """
import ctypes, json, sys, time, torch
def refuse(*_): raise OSError
real, ctypes.CDLL = ctypes.CDLL, ctypes.CDLL if sys.argv[1] == "set" else refuse
import common
ctypes.CDLL = real
from common.objective import Problem
options = {"width": (32, 32), "activation": "tanh"}
objective, w = Problem(n=int(sys.argv[2]), size=28, options=options).build(0)
v = torch.ones_like(w)
for _ in range(6):
    begin = time.process_time()
    point = objective.at(w, curvature=True)
    point.gradient
    middle = time.process_time()
    point.hessian_product(v)
    times = middle - begin, time.process_time() - middle
    print(json.dumps(times), flush=True)
"""


def measure(setting: str, n: int) -> list[dict]:
    """CPU ms of the gradient and of the product, five times after the first."""
    env = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    command = [sys.executable, "-c", CASE, setting, str(n)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()][1:]
    return [dict(setting=setting, gradient=1e3 * g, product=1e3 * p) for g, p in rows]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="seconds; nothing written")
    options = parser.parse_args()
    rounds, n = (1, 10) if options.quick else (3, 500)
    cases = [c for _ in range(rounds) for c in ("set", "not set")]
    table = pd.DataFrame([row for case in cases for row in measure(case, n)])
    print(table.groupby("setting").agg(["median", "min", "max"]).round(1))
    if not options.quick:
        path = ROOT / "figures/bench/sharpness/allocator.csv"
        table.to_csv(path, index=False, float_format="%.4g", lineterminator="\n")


if __name__ == "__main__":
    main()

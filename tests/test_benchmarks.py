"""The benchmark's own pieces: its truth, its choice of settings, its table."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from torch.autograd.functional import hessian

from common import ROOT
from common.objective import Problem
from tests.benchmarks import allocator, every_step, overtaking, scaling, sharpness, table
from tests.benchmarks.methods import METHODS, Counted, criterion, reference

TINY = Problem("fashion_mnist", 12, 3, 2, "fully_connected", {"width": (6,)})
ALONE = [m for m in METHODS if m.name.startswith(("grad", "ours", "publ", "eigsh"))]


def test_the_truth_agrees_with_a_dense_float64_hessian():
    exact = Problem(
        "fashion_mnist", 12, 3, 2, "fully_connected", TINY.options, dtype="float64"
    )
    objective, w = exact.build(0)
    truth = torch.linalg.eigvalsh(hessian(objective.loss, w)).flip(0)[:4]
    np.testing.assert_allclose(reference(objective.at(w, True), 4), truth, rtol=1e-10)


def test_the_peers_loss_is_ours():
    objective, w = TINY.build(0)
    module, (x, y) = sharpness.ordinary(TINY)
    torch.nn.utils.vector_to_parameters(w, module.parameters())
    assert criterion(module(x), y).item() == pytest.approx(objective.at(w).loss, rel=1e-6)


def test_products_are_counted():
    operator = Counted(lambda v: 2 * v, 3)
    assert operator.matvec(np.ones(3, np.float32)).tolist() == [2, 2, 2]
    assert operator.calls == 1


def test_methods_that_need_no_peer_measure_the_same():
    net = sharpness.Net("tiny", TINY, 0.1, 5, 3)
    rows = pd.DataFrame(sharpness.run_seed(net, 0, tuple(ALONE), set()))
    rows = rows[rows.method != "gradient"]
    assert set(rows.method) == {m.name for m in ALONE} - {"gradient"}
    assert rows.groupby(["method", "k"]).error_max.min().max() <= table.BOUND
    assert (rows.products_median >= 1).all() and (rows.cpu_median > 0).all()


def test_the_cheapest_setting_within_the_bound_is_compared():
    rows = pd.DataFrame(
        [
            ("loose", 0, 2, 2, 1.0, 9, 1e-3),
            ("dropped", 0, 1, 2, 2.0, 9, 1e-6),
            ("good", 0, 2, 2, 3.0, 10, 1e-5),
            ("dear", 0, 2, 2, 4.0, 10, 1e-9),
        ],
        columns=["setting", "seed", "checkpoints", "of"]
        + ["cpu_median", "products_median", "error_max"],
    )
    part, error = table.compared(rows)
    assert part.setting.tolist() == ["good"] and error == 1e-5
    assert table.compared(rows[:1]) == (None, 1e-3)


def test_the_readme_holds_the_table_of_the_csv():
    text = (ROOT / "README.md").read_text()
    found = re.search(f"{table.BEGIN}\n(.*)\n{table.END}", text, re.S)
    assert found.group(1) == table.render(table.read())


# ---------------------------------------------------- every step, and the scaling


def test_the_truth_of_every_step_agrees_with_a_dense_float64_hessian():
    objective, w = Problem(**{**vars(TINY), "dtype": "float64"}).build(0)
    truth = torch.linalg.eigvalsh(hessian(objective.loss, w))[-1].item()
    value, vector = every_step.reference(objective, w.float().double(), np.ones(len(w)))
    assert value == pytest.approx(truth, rel=1e-6)  # the weights are rounded to float32
    assert np.isfinite(vector).all()


def test_the_summary_counts_misses_and_leaves_out_the_cold_steps():
    rows = pd.DataFrame({"step": range(6), "error": [1, 1, 0.01, 0.03, 0, 0.5]})
    keys = {"net": "FC", "place": "iterate", "tolerance": 0.1}
    rows = rows.assign(**keys, products=[9, 9, 2, 4, 3, 3], gradients=1.0)
    line = every_step.summary(rows).iloc[0]
    assert (line.points, line.misses, line.products, line.worst) == (4, 2, 3, 0.5)


@pytest.mark.parametrize("net", scaling.NETS)
def test_flops_of_a_gradient(net):
    # one layer of each kind by hand: forward, weights, and inputs but for the first layer
    n, m = 3, 4
    if net == "FC":
        layers = [256 * m, m * m, m * 10]
    else:
        layers = [256 * 9 * m, 64 * 9 * m * m, 16 * m * 10]
    assert scaling.flops(net, n, m) == 2 * n * (3 * sum(layers) - layers[0])


def test_a_larger_net_costs_more():
    small, large = (scaling.measure("FC", 32, width) for width in (4, 400))
    assert large["P"] > 100 * small["P"] > 0
    for what in scaling.QUANTITIES:
        assert large[what] > small[what]


def test_an_overtaking_eigenvalue_and_one_that_is_missed(monkeypatch):
    assert overtaking.measure(0.05, 3e-6, seed=0, steps=30)["missed"] == 0
    monkeypatch.setattr("common.curvature.NOISE", 0)
    monkeypatch.setattr("common.curvature.GUARD", 0)
    monkeypatch.setattr("common.curvature.SPARE", 0)  # the trap of a plain warm start
    assert overtaking.measure(0.05, 3e-6, seed=0, steps=30)["missed"] > 5


def test_the_allocator_is_measured_in_both_settings():
    for setting in ("set", "not set"):
        rows = allocator.measure(setting, n=10)
        assert len(rows) == 5 and all(0 < r["gradient"] and 0 < r["product"] for r in rows)

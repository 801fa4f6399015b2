"""common.flow_runs: gradient flow to a loss against closed forms and finer integration."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from common.data import load
from common.flow_runs import at_loss, rise_of_means, run_flow, with_permuted_labels
from common.flows import PATIENCE
from common.kernels import tangent_kernel
from common.objective import Problem

SMALL = Problem("fashion_mnist", 20, 4, 7, "fully_connected", {"width": (8, 8)})
EXACT = Problem(
    "fashion_mnist", 12, 3, 7, "fully_connected", {"width": (6,)}, dtype="float64"
)


def test_the_sharpness_at_the_start_is_the_largest_eigenvalue_of_the_hessian():
    objective, w = EXACT.build(0)
    hessian = torch.autograd.functional.hessian(objective.loss, w)
    found = run_flow(EXACT, 0, level=0.1, steps=1).sharpness[0]
    assert found == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-3)


def test_a_linearised_network_follows_the_exponential_of_its_kernel():
    table = run_flow(EXACT, 0, level=1e-9, steps=20, stride=0.2, linearised=True)
    objective, w = EXACT.build(0)
    K = tangent_kernel(objective, w).matrix / 12
    rest = (objective.outputs(w) - objective.targets).reshape(-1)
    for _, row in table.iterrows():
        residual = torch.linalg.matrix_exp(-row.time * K) @ rest
        loss = float(residual.square().sum()) / 24
        assert row.loss == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(table.sharpness, table.sharpness[0], rtol=1e-3)


def test_half_the_stride_ends_at_the_same_sharpness():
    full, half = (run_flow(SMALL, 0, level=0.1, stride=s) for s in (1.5, 0.75))
    for level in (0.2, 0.1):
        coarse, fine = at_loss(full, level), at_loss(half, level)
        assert coarse == pytest.approx(fine, rel=0.01)  # line between two measurements
    assert at_loss(full, 0.1, "time") == pytest.approx(at_loss(half, 0.1, "time"), rel=0.01)


def test_it_stops_at_the_level_or_after_the_steps():
    table = run_flow(SMALL, 1, level=0.2)
    assert table.loss.iloc[-1] <= 0.2 < table.loss.iloc[-2]
    assert (table.step % PATIENCE == 0).all() and table.sharpness.notna().all()
    assert table.cpu_seconds.iloc[-1] > 0
    assert run_flow(SMALL, 1, level=0.2, steps=12).step.iloc[-1] == 10


@pytest.mark.parametrize("bad", [{"level": 0}, {"level": 0.1, "stride": -1}])
def test_settings_without_sense_are_refused(bad):
    with pytest.raises(ValueError, match="must be positive"):
        run_flow(SMALL, 0, **bad)


def test_at_loss_reads_a_line_in_the_logarithm():
    table = pd.DataFrame({"loss": [1.0, 0.1, 0.01], "sharpness": [2.0, 4.0, 8.0]})
    assert at_loss(table, 0.1) == 4.0
    assert at_loss(table, 10**-1.5) == pytest.approx(6.0)
    assert at_loss(table, 2.0) == 2.0  # there from the start
    assert np.isnan(at_loss(table, 0.001))


def test_permuted_labels_keep_the_images_and_the_classes():
    make = partial(with_permuted_labels, "fashion_mnist", 50, 5, 7)
    true, some, all_ = load("fashion_mnist", n=50, classes=5, size=7), make(0.4), make(1.0)
    assert torch.equal(make(0).y, true.y)
    for images in (some, all_):
        assert torch.equal(images.x, true.x)
        assert torch.equal(images.y.bincount(), true.y.bincount())
    assert 0 < (some.y != true.y).sum() <= 20 < (all_.y != true.y).sum()
    assert torch.equal(make(0.4).y, some.y) and not torch.equal(make(0.4, seed=1).y, some.y)
    with pytest.raises(ValueError, match="from 0 to 1"):
        make(1.5)


def test_the_rise_of_means_leaves_out_each_run():
    values = pd.DataFrame([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [4.0, 2.0, 6.0]])
    np.testing.assert_allclose(rise_of_means(values), [4 / 5, 4 / 5, 3 / 2])
    for few in (values[:1], values[[0]]):
        with pytest.raises(ValueError, match="at least two"):
            rise_of_means(few)

"""common.toys: the valley against autograd, its runs against the rules written out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from common.phases import phases
from common.toys import ToySetting, Valley, run_toy

DTYPE = {"dtype": torch.float64}
RNG = torch.Generator().manual_seed(0)
W = torch.randn(5, 3, 2, generator=RNG, **DTYPE)
C = torch.tensor([0.0, 0.3, 2.0], **DTYPE)


def one(table, setting, seed):
    rows = table[(table.setting == setting) & (table.seed == seed)]
    return rows.reset_index(drop=True)


def test_sharpness_is_the_largest_eigenvalue():
    found = Valley(C).sharpness(W)
    for i in range(5):
        for k in range(3):
            H = torch.autograd.functional.hessian(Valley(C[k]).loss, W[i, k])
            top = torch.linalg.eigvalsh(H)[-1]
            # float64: eigvalsh is good to some roundings of the norm
            torch.testing.assert_close(found[i, k], top, rtol=1e-13, atol=1e-13)


def test_gradient_of_all_is_that_of_each():
    x, y = W.unbind(-1)
    expected = [x * (-y).exp(), -(x**2) * (-y).exp() / 2 + C * y.exp()]
    found = Valley(C).objective.at(W).gradient
    torch.testing.assert_close(found, torch.stack(expected, -1), rtol=1e-14, atol=1e-14)


def test_grad_S_points_down_in_y_on_the_floor():
    w = torch.tensor([0.0, -1.0], **DTYPE, requires_grad=True)
    (gradient,) = torch.autograd.grad(Valley(1e-3).sharpness(w), w)
    # S = e^-y there
    torch.testing.assert_close(gradient, torch.tensor([0, -np.e], **DTYPE))


def test_run_written_out():
    eta, beta_x, beta_y, rise = 0.5, 0.6, 0.3, 0.01
    setting = ToySetting(3.0, 0.1, beta_x, beta_y, rise, eta=eta)
    table = run_toy({"a": setting}, [0], 50)
    c = rise * (1 - beta_y) / eta
    x = before_x = 0.1
    y = before_y = -np.log(3.0)
    for row in table.itertuples():
        assert row.x == pytest.approx(x, rel=1e-9, abs=1e-12)  # roundings, 50 steps
        assert row.y == pytest.approx(y, rel=1e-9)
        assert row.loss == pytest.approx(x**2 * np.exp(-y) / 2 + c * np.exp(y), rel=1e-9)
        assert row.mss == pytest.approx(2 * (1 + beta_x) / eta)
        pull = c * np.exp(y) - x**2 * np.exp(-y) / 2
        new_x = x - eta * x * np.exp(-y) + beta_x * (x - before_x)
        new_y = y - eta * pull + beta_y * (y - before_y)
        before_x, before_y, x, y = x, y, new_x, new_y
    assert table.cpu_seconds.notna().sum() == 1


@pytest.mark.parametrize("beta, eta", [(0.0, 1.0), (0.9, 1.0), (0.8, 0.1)])
def test_the_sharpness_rises_as_said(beta, eta):
    S0, rise = 1 / eta, 2e-3 / eta
    table = run_toy({"a": ToySetting(S0, 1e-9, beta, beta, rise, eta=eta)}, [0], 200)
    late = table.sharpness[100:]  # past the 1 / (1 - beta) steps that momentum needs
    # ln S is followed in steps of rise / S <= 0.2 %: the rate is right to about that,
    # and lags by 1 / (1 - beta) steps of a rate that falls by 0.2 % in each
    np.testing.assert_allclose(np.diff(late), rise, rtol=0.03)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("share, grows", [(0.98, False), (1.02, True)])
def test_mss_is_where_x_starts_to_grow(beta, share, grows):
    S0 = share * 2 * (1 + beta)
    table = run_toy({"a": ToySetting(S0, 1e-9, beta, beta)}, [0], 300)
    assert (table.x[200:].abs().max() > 1e-9) == grows


def test_a_run_does_not_depend_on_its_neighbours():
    a = ToySetting(1.9, (1e-4, 1e-2), rise=5e-3, noise=1e-6)
    b = replace(a, S0=3.6, beta_x=0.9, beta_y=0.9)
    many = run_toy({"a": a, "b": b}, [3, 1, 2], 100)
    alone = run_toy({"b": b}, [2], 100)
    pair = one(many, "b", 2), one(alone, "b", 2)
    for name in ("x", "y", "loss", "sharpness"):
        np.testing.assert_allclose(pair[0][name], pair[1][name], rtol=1e-12)
    starts = many[many.step == 0].pivot(index="seed", columns="setting", values="x")
    assert (starts.a == starts.b).all() and starts.a.nunique() == 3
    assert starts.a.between(1e-4, 1e-2).all()
    assert one(many, "a", 1).x[1] != one(many, "a", 3).x[1]


def test_noise_has_its_size():
    table = run_toy({"a": ToySetting(1.0, 1e-12, noise=1e-3)}, [0], 2000)
    # eta S = 1: x forgets itself in each step, but for the drift of S by noise (4 %)
    assert table.x[1:].std() == pytest.approx(
        1e-3, rel=0.1
    )  # 4 standard errors, 1.6 % each
    assert np.diff(table.y).std() == pytest.approx(1e-3, rel=0.1)


def test_heavy_ball_catapults_further():
    settings = {
        name: ToySetting(2 * (1 + beta) - 0.25, 1e-4, beta, beta, rise, 1e-7)
        for name, beta, rise in [("gd", 0, 3e-3), ("hb", 0.9, 3e-3), ("level", 0.9, 0.0)]
    }
    table = run_toy(settings, [0], 400)
    found = {name: phases(one(table, name, 0)) for name in settings}
    assert [len(found[name]) for name in settings] == [4, 4, 0]
    low = table.groupby("setting").sharpness.min() / table.groupby("setting").mss.first()
    assert low["hb"] < 0.7 * low["gd"]


@pytest.mark.parametrize(
    "wrong",
    [{"S0": 0}, {"x0": 0}, {"x0": (1e-2, 1e-3)}, {"rise": -1}, {"eta": 0}],
)
def test_a_setting_out_of_range(wrong):
    with pytest.raises(ValueError, match="must be positive"):
        ToySetting(**{"S0": 1.0, "x0": 1e-3} | wrong)


@pytest.mark.parametrize("settings, seeds, steps", [({}, [0], 1), (1, [], 1), (1, [0], 0)])
def test_nothing_to_run(settings, seeds, steps):
    with pytest.raises(ValueError, match="nothing to run"):
        run_toy({"a": ToySetting(1.0, 0.1)} if settings else {}, seeds, steps)


def test_momentum_and_noise_are_checked():
    for wrong, message in (({"beta_x": 1.0}, "momentum"), ({"noise": -1.0}, "noise")):
        with pytest.raises(ValueError, match=message):
            run_toy({"a": ToySetting(1.0, 0.1, **wrong)}, [0], 1)

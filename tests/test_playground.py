"""The paths behind the sliders against the recursion of heavy ball and its roots."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from common.playground import heavy_ball_figure, heavy_ball_paths


@pytest.mark.parametrize("eta, beta", [(1.0, 0.0), (1.0, 0.5), (0.8, 0.0)])
def test_the_paths_are_those_of_heavy_ball(eta, beta):
    table = heavy_ball_paths(eta, beta, steps=40)
    walk = table[table.on == "quadratic"]
    assert (walk.mss == 2 * (1 + beta) / eta).all()
    roots = np.roots(
        [1, -(1 + beta - 2.2 * eta), beta]
    )  # z^2 - (1 + beta - eta S) z + beta
    grows = abs(roots).max() > 1
    assert grows == (walk.sharpness.iloc[0] > walk.mss.iloc[0])
    assert (walk.x.abs().iloc[-1] > walk.x.abs().iloc[0]) == grows
    x = walk.x.to_numpy()
    step = x[1:-1] * (1 - 2.2 * eta) + beta * (x[1:-1] - x[:-2])
    assert x[2:] == pytest.approx(step, rel=1e-12)
    plt.close(heavy_ball_figure(table))


def test_a_diverging_run_ends():
    table = heavy_ball_paths(1.6, 0.0)
    assert table[table.on == "quadratic"].step.max() < 200
    assert np.isfinite(table[["x", "y"]]).all(axis=None)

"""common.quadratic: closed forms, and the thresholds of all rules that have a formula."""

import pytest
import torch

from common.adaptive import Preconditioned
from common.optimizers import GradientDescent, HeavyBall
from common.quadratic import distances, divergence_scale

DTYPE = {"dtype": torch.float64}
RNG = torch.Generator().manual_seed(0)
Q = torch.linalg.qr(torch.randn(6, 6, generator=RNG, **DTYPE))[0]
H = Q * torch.linspace(0.2, 1, 6, **DTYPE) @ Q.T
P = torch.tensor([0.01, 3.0, 0.2, 1.0, 0.5, 0.03], **DTYPE)
W = torch.randn(6, generator=RNG, **DTYPE)


def test_distances_in_closed_form():
    H, w = torch.diag(torch.tensor([1.0, 3.0], **DTYPE)), torch.tensor([2.0, -1.0], **DTYPE)
    scales = torch.tensor([0.5, 2.0], **DTYPE)
    found = distances(GradientDescent(0.2), H, scales, w, steps=7)
    factor = 1 - 0.2 * scales[:, None] * H.diag()
    expected = [(w * factor**t).norm(dim=1) for t in range(8)]
    # float64: a few rounding errors in seven steps
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-13, atol=0)


def test_each_scale_is_a_run_of_its_own():
    rule, scales = Preconditioned(0.01, P, 0.9), torch.tensor([1.0, 40.0, 1e3], **DTYPE)
    together = distances(rule, H, scales, W, steps=20)
    for i in range(3):
        alone = distances(rule, H, scales[i : i + 1], W, steps=20)[:, 0]
        torch.testing.assert_close(together[:, i], alone, rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    "rule",
    [
        GradientDescent(0.1),
        HeavyBall(0.1, 0.5),
        HeavyBall(0.1, 0.9),
        *(Preconditioned(0.01, P, beta1) for beta1 in (0.0, 0.5, 0.9, 0.95)),
    ],
    ids=lambda rule: f"{type(rule).__name__}",
)
def test_the_divergence_scale_is_the_threshold(rule):
    root = getattr(rule, "P", torch.ones_like(P)).rsqrt()
    top = torch.linalg.eigvalsh(root[:, None] * H * root)[-1].item()
    scale = divergence_scale(rule, H, W, low=1e-2, high=1e4)
    # two rounds leave a ratio of 1e6^(1/63^2) = 1.0035; the rest is the finite length
    assert scale * top == pytest.approx(rule.max_stable_sharpness(0), rel=0.01)


@pytest.mark.parametrize(
    "low, high, verb", [(0.1, 1.0, "converges"), (50.0, 100.0, "diverges")]
)
def test_a_bracket_without_the_threshold_is_refused(low, high, verb):
    with pytest.raises(ValueError, match=f"{verb} at every scale from {low} to {high}"):
        divergence_scale(GradientDescent(0.1), H, W, low, high)

"""Gradient descent at a multiple of eta_crit, with the tangent kernel along the way.

The critical step size is that of the linearised network at the start (paper 003, "linear
training dynamics"): eta_crit = 2 / lambda_max(K(w_0) / n), K = J J^T. Below it a wide
network follows its linear model; above it the linear model diverges, and the network
*catapults*: the loss rises, K shrinks until eta < eta_crit(K), and the loss comes back.
`run_at` holds one step size, `run_raised` raises it again after each catapult, and
`catapults` finds those in the table of either.
"""

from itertools import islice
from time import process_time

import pandas as pd
import torch
from torch import Tensor

from common.kernels import KernelProbe, split, tangent_kernel
from common.objective import Problem
from common.optimizers import GradientDescent
from common.taylor import frozen_gates, taylor
from common.training import BLOW_UP, Step, train, trajectory

MODELS = ("network", "linear", "quadratic", "frozen")  # places 1, 2: order of Taylor's
RISE, BACK = 1.5, 1.1  # what makes a rise of the loss a catapult: see `catapults`


class References:
    """What the residual F(w_t) - y is held against: the linear model, a random subspace.

    The linear model's residual is r_t = (I - eta K / n)^t r_0, of K and r_0 = F - y at the
    start (paper 003). Columns: `linear_gap`, |F(w_t) - y - r_t| / |r_t|, and `random_loss`,
    the loss in a random subspace that stays the same, a control for PL_s.

    Args:
        K: The kernel at the start [n C, n C].
        residual: r_0 [n, C].
        eta: Step size.
        s: Dimension of the random subspace.
        seed: Of its draw.
    """

    every = 1

    def __init__(self, K: Tensor, residual: Tensor, eta: float, s: int, seed: int):
        self.K, self.r = K.double(), residual.flatten().double()
        self.rate = eta / len(residual)
        generator = torch.Generator().manual_seed(seed)
        draw = torch.randn(len(K), s, generator=generator, dtype=torch.float64)
        self.basis = torch.linalg.qr(draw)[0].to(K.device)

    def __call__(self, step: Step) -> dict[str, float]:
        """Measure, and take the linear model's own step."""
        objective = step.point.objective
        with torch.no_grad():
            residual = (objective.outputs(step.point.w) - objective.targets).double()
        gap = (residual.flatten() - self.r).norm() / self.r.norm()
        self.r = self.r - self.rate * (self.K @ self.r)
        inside, _ = split(residual, self.basis)
        return {"linear_gap": float(gap), "random_loss": inside}


def run_at(
    problem: Problem,
    seed: int,
    fac: float,
    steps: int,
    model: str = "network",
    s: int = 5,
    every: int = 1,
) -> pd.DataFrame:
    """Gradient descent with the constant step size eta = fac eta_crit(K(w_0)).

    Args:
        problem: Data and network, with squared error.
        seed: Of the initialisation and of the random subspace.
        fac: Step size in units of the critical one of the start.
        steps: Number of steps; a run that diverges ends there.
        model: What is trained: the "network", its "linear" or "quadratic" Taylor model
            around w_0, or it with the gates of w_0, "frozen", which with one hidden layer
            of ReLUs is the quadratic one, several times faster.
        s: Dimension of the top eigenspace.
        every: Steps between measurements of the kernel.

    Returns:
        The table of `common.training.train` with `eta`, the columns of `References` and, of
        the kernel at w_t, those of `common.kernels.KernelProbe`, among them `kernel_norm`
        (lambda_max(K)), `eta_crit`, `top_loss` (PL_s) and `rest_loss` (PL_perp). Of the
        linear model's kernel, which stays, only the first two. The last row holds
        `cpu_seconds`.

    Raises:
        ValueError: If fac <= 0, the model is unknown, or the loss no squared error.
    """
    if not fac > 0:
        raise ValueError(f"the step size must be positive: fac = {fac}")
    if model not in MODELS:
        raise ValueError(f"unknown model {model!r}; choose one of {MODELS}")
    _check(problem)
    began = process_time()
    objective, w = problem.build(seed)
    trained = objective
    if model == "frozen":
        trained = frozen_gates(objective, w)
    elif model != "network":
        trained = taylor(objective, w, order=MODELS.index(model))
    K = tangent_kernel(objective, w)
    eta = fac * K.eta_crit()
    probes = [References(K.matrix, K.outputs - objective.targets, eta, s, seed)]
    if model != "linear":
        probes.append(KernelProbe(every, s))
    table, _ = train(trained, GradientDescent(eta), w, steps, probes)
    if model == "linear":
        table = table.assign(kernel_norm=K.lambda_max, eta_crit=K.eta_crit())
    table["eta"] = eta
    table.loc[len(table) - 1, "cpu_seconds"] = process_time() - began
    return table


def run_raised(
    problem: Problem,
    seed: int,
    fac: float,
    steps: int,
    first: float = 0.9,
    hold: int = 6,
    raises: int = 3,
    s: int = 5,
) -> pd.DataFrame:
    """Gradient descent whose step size goes to fac eta_crit(K) again after each catapult.

    Paper 003, "multiple catapults with increasing learning rates"; when and how far it is
    raised is not said there.

    Args:
        problem: Data and network, with squared error.
        seed: Of the initialisation.
        fac: The step size after a raise, in units of the critical one there and then.
        steps: Number of steps; a run that diverges ends there.
        first: The same for the first step size.
        hold: Steps before the first raise and from the end of a catapult to the next one.
        raises: How many, at most.
        s: Dimension of the top eigenspace.

    Returns:
        One row per step: `step`, `loss`, `eta`, `raised` (whether `eta` is new), `diverged`
        and the columns of `common.kernels.KernelProbe`, among them `kernel_norm`,
        `eta_crit`, `top_loss` and `rest_loss`. The last row holds `cpu_seconds`.

    Raises:
        ValueError: If a factor is not positive, a length negative, or the loss no squared
            error.
    """
    if not (fac > 0 and first > 0 and hold >= 0 and raises >= 0 and steps >= 1):
        raise ValueError("factors must be positive, and lengths not negative")
    _check(problem)
    began, rows, probe = process_time(), [], KernelProbe(s=s)
    objective, w = problem.build(seed)
    eta = first * tangent_kernel(objective, w).eta_crit()

    def schedule(step: int) -> float:
        return eta

    watch, since, raised = _Watch(RISE, BACK), 0, False
    for step in islice(trajectory(objective, GradientDescent(schedule), w), steps + 1):
        row = {"step": step.index, "loss": step.point.loss, "eta": eta, "raised": raised}
        rows.append(row)
        row["diverged"] = not row["loss"] <= BLOW_UP * rows[0]["loss"]
        if row["diverged"]:
            break
        row |= probe(step)
        if watch(row) is not None:
            since = step.index
        ready = since is not None and not watch.risen
        raised = ready and raises > 0 and step.index - since >= hold
        if raised:
            eta, since, raises = fac * row["eta_crit"], None, raises - 1
    table = pd.DataFrame(rows)
    table.loc[len(table) - 1, "cpu_seconds"] = process_time() - began
    return table


def _check(problem: Problem) -> None:
    if problem.loss != "mse":
        raise ValueError(f"the critical step size is that of 'mse', not {problem.loss!r}")


def catapults(table: pd.DataFrame, rise: float = RISE, back: float = BACK) -> pd.DataFrame:
    """The catapults of a run: eta is beyond critical, the loss rises, and comes back.

    A catapult begins where eta > eta_crit(K_t). It counts if the loss then rises above
    `rise` times its lowest value since, and ends where it is below `back` times that value
    again. If eta <= eta_crit(K_t) before the loss has risen so far, there is none. One ends
    before the next begins.

    Args:
        table: One run; rows without a measurement of the kernel are passed over.
        rise: Factor by which the loss has to rise, above 1.
        back: Factor above its lowest value before at which it is back.

    Returns:
        One row per catapult: `begin`, `peak` and `end` (steps), `height` (loss at the peak
        in units of that lowest value), `kernel_ratio` (lambda_max(K) at the end / at the
        beginning), `top_share` (of the rise of the loss, what is PL_s) and `raised`
        (whether eta was raised within its beginning and its peak).

    Raises:
        ValueError: Unless 0 < back <= rise and rise > 1.

    Example:
        >>> loss, norm = [2, 1, 1, 3, 9, 2, 1], [4, 6, 6, 6, 5, 3, 3]
        >>> run = {"step": range(7), "loss": loss, "kernel_norm": norm, "top_loss": loss}
        >>> run = pd.DataFrame(run).assign(eta=1, eta_crit=[5 / k for k in norm])
        >>> catapults(run)[["begin", "peak", "end", "height", "kernel_ratio"]]
           begin  peak  end  height  kernel_ratio
        0      1     4    6     9.0           0.5
    """
    if not 0 < back <= rise > 1:
        raise ValueError(f"a catapult needs 0 < back <= rise > 1, not {back} and {rise}")
    watch = _Watch(rise, back)
    rows = table.dropna(subset="eta_crit").to_dict("records")
    events = [event for row in rows if (event := watch(row)) is not None]
    return pd.DataFrame(events, columns=list(EVENT))


EVENT = ("begin", "peak", "end", "height", "kernel_ratio", "top_share", "raised")


class _Watch:
    """Takes one row after the other, and returns a catapult where one ends.

    `risen` says whether one is on its way: the loss has risen and is not back.
    """

    def __init__(self, rise: float, back: float):
        self.rise, self.back = rise, back
        self.begin: dict | None = None
        self.risen = self.raised = False

    def __call__(self, row: dict) -> dict | None:
        beyond = row["eta"] > row["eta_crit"]
        if self.begin is None:
            if not beyond:
                return None
            self.begin = self.low = self.peak = row
            self.raised = False
        if not self.risen or row["loss"] > self.peak["loss"]:
            self.raised |= bool(row.get("raised", False))
        if row["loss"] > self.peak["loss"]:
            self.peak = row
        lowest = self.low["loss"]
        self.risen = self.peak["loss"] > self.rise * lowest
        if not self.risen:
            if not beyond:
                self.begin = None
            elif row["loss"] < lowest:
                self.low = self.peak = row
            return None
        if row["loss"] >= self.back * lowest:
            return None
        begin, self.begin, self.risen = self.begin, None, False
        gain = self.peak["loss"] - lowest
        top = self.peak["top_loss"] - self.low["top_loss"]
        ratio = row["kernel_norm"] / begin["kernel_norm"]
        values = begin["step"], self.peak["step"], row["step"], self.peak["loss"] / lowest
        return dict(zip(EVENT, (*values, ratio, top / gain, self.raised), strict=True))


def summary(table: pd.DataFrame) -> pd.Series:
    """What one run with a constant step size did, as numbers.

    Args:
        table: Of `run_at`.

    Returns:
        `growth` (largest L(t+1) / L(t); at most 1 if the loss only falls), `peak` and `end`
        (largest and last loss / first loss; infinite where the loss is no number),
        `linear_gap` (its largest), `kernel_ratio` (lambda_max(K), last / first),
        `kernel_drift` (largest |lambda_max(K_t) / lambda_max(K_0) - 1|), and of the top
        eigenspace `identity` (largest relative error of L = PL_s + PL_perp), `top_share`
        (of the rise from the start to the peak, what is PL_s; NaN without a rise) and
        `rest_peak` (largest PL_perp / first). `random_share` and `random_rest_peak` are the
        last two of the random subspace.

    Example:
        >>> run = pd.DataFrame({"loss": [1.0, 4.0, 0.5], "kernel_norm": [9.0, 6.0, 3.0]})
        >>> summary(run.assign(linear_gap=0.0))[["growth", "peak", "end", "kernel_drift"]]
        growth          4.000000
        peak            4.000000
        end             0.500000
        kernel_drift    0.666667
        dtype: float64
    """
    loss, norm = table.loss.fillna(torch.inf), table.kernel_norm.dropna()
    ratio = norm / norm.iloc[0]
    result = {"growth": (loss / loss.shift()).max(), "peak": loss.max() / loss[0]}
    result |= {"end": loss.iloc[-1] / loss[0], "linear_gap": table.linear_gap.max()}
    result |= {"kernel_ratio": ratio.iloc[-1], "kernel_drift": (ratio - 1).abs().max()}
    if "top_loss" in table:
        rows = table.dropna(subset="top_loss")
        loss, top, rest, random = (rows[c] for c in LOSSES)
        result["identity"] = ((top + rest) / loss - 1).abs().max()
        peak, outside = loss.idxmax(), loss - random
        rise = loss[peak] - loss[0] or torch.nan
        result["top_share"] = (top[peak] - top[0]) / rise
        result["rest_peak"] = rest.max() / rest[0]
        result["random_share"] = (random[peak] - random[0]) / rise
        result["random_rest_peak"] = outside.max() / outside[0]
    return pd.Series(result)


LOSSES = ["loss", "top_loss", "rest_loss", "random_loss"]

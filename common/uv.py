"""Heavy ball with label noise on two weights, L = 1/2 (u v - y)^2 (paper 004).

Written with mu = 1 - beta and the paper's update, without dampening. The label of the only
sample is redrawn at every step, y = 1 + eps xi with xi ~ N(0, 1):

    r = u v - y,  pi' = beta pi - (r v, r u),  w' = w + eta pi'.

The minima of the loss without noise are the hyperbola u v = 1, on which the Hessian has the
one eigenvalue tr H = u^2 + v^2, least at u = v. The drift along it makes the imbalance
D = u^2 - v^2 decay at the rate (eps eta / mu)^2 wherever on the hyperbola the weights are.

Many runs are one array [etas, mus, chains]; the noise of a chain is the same for all mu.
"""

from collections.abc import Sequence
from time import perf_counter, process_time

import numpy as np
import pandas as pd
import torch

from common.noisy_valley import step_size
from common.scaling import RelaxationTimes


def gradient(u: np.ndarray, v: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The gradient (r v, r u) of 1/2 (u v - y)^2."""
    r = u * v - y
    return r * v, r * u


def trace(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The trace u^2 + v^2 of the Hessian at u v = y; 2 at its least."""
    return u * u + v * v


class Batch:
    """Runs side by side, from u v = 1 at rest.

    Args:
        eta: Step sizes.
        mu: 1 - beta; broadcasts with eta to the shape of the runs.
        imbalance: u / v at the start.
        chains: Runs of every (eta, mu): the last axis.
        ema: Momentum as an average.

    Raises:
        ValueError: If eta, mu, the imbalance or the number of chains are not positive.
    """

    def __init__(
        self,
        eta: np.ndarray,
        mu: np.ndarray,
        imbalance: float = 9.0,
        chains: int = 1,
        ema: bool = False,
    ):
        if imbalance <= 0 or chains < 1:
            raise ValueError(f"imbalance {imbalance} and chains {chains} must be positive")
        eta, mu = np.broadcast_arrays(step_size(eta, mu, ema), np.asarray(mu, float))
        self.eta, self.beta = eta[..., None], 1 - mu[..., None]
        shape = (*eta.shape, chains)
        self.u = np.full(shape, imbalance**0.5)
        self.v = np.full(shape, imbalance**-0.5)
        self.pu, self.pv = np.zeros(shape), np.zeros(shape)  # eta pi

    def run(self, labels: np.ndarray) -> None:
        """Take a step for every entry of labels [steps, ...], in place: 11 passes a step.

        It is the update above with eta pi for pi; nothing is allocated.
        """
        u, v, pu, pv, eta, beta = self.u, self.v, self.pu, self.pv, self.eta, self.beta
        r, product = np.empty_like(u), np.empty_like(u)
        with np.errstate(over="ignore", invalid="ignore"):  # runs may diverge
            for y in labels:
                np.multiply(u, v, out=r)
                r -= y
                r *= eta
                pu *= beta
                pu -= np.multiply(r, v, out=product)
                pv *= beta
                pv -= np.multiply(r, u, out=product)
                u += pu
                v += pv

    def keep(self, rows: np.ndarray) -> None:
        """Go on with some rows of the first axis only."""
        for name in ("u", "v", "pu", "pv"):
            setattr(self, name, np.ascontiguousarray(getattr(self, name)[rows]))
        self.eta, self.beta = self.eta[rows], self.beta[rows]


def run_uv(
    etas: Sequence[float],
    mus: Sequence[float] | Sequence[Sequence[float]],
    seed: int,
    eps: float = 0.15,
    chains: int = 32,
    imbalance: float = 9.0,
    c: float = 6.0,
    every: int = 5,
    ema: bool = False,
    most: int = 200_000,
) -> pd.DataFrame:
    """Integral relaxation times of the trace over a grid, all runs as one batch.

    A step size leaves the batch when its self-consistent window is complete.

    Args:
        etas: Step sizes.
        mus: 1 - beta: the same for every eta [M], or by eta [E, M].
        seed: Of the noise; every eta has noise of its own.
        eps: Standard deviation of the label noise.
        chains: Runs of every cell.
        imbalance: u / v at the start.
        c: Length of the window in units of the smallest time of a row.
        every: Steps between records.
        ema: Momentum as an average.
        most: Steps that are taken at most.

    Returns:
        A row per eta, mu and chain: `eta`, `mu`, `chain`, `T`, `window`; the last row holds
        `cpu_seconds` and the number of steps of single runs, `run_steps`.

    Raises:
        ValueError: If a window is not complete within `most` steps.
    """
    start, E = process_time(), len(etas)
    grid = np.broadcast_to(np.array(mus, float), (E, np.shape(mus)[-1]))
    batch = Batch(np.array(etas, float)[:, None], grid, imbalance, chains, ema)
    rngs = np.random.default_rng(seed).spawn(E)
    first, times = trace(batch.u, batch.v)[0, 0, 0], RelaxationTimes(every, c)
    times.add(np.ones_like(batch.u))
    active, run_steps = np.arange(E), 0
    T, K = np.empty(batch.u.shape), np.empty(E)
    while len(active):
        if times.steps >= most:
            raise ValueError(f"no window in {most} steps at eta = {np.take(etas, active)}")
        noise = [rngs[e].standard_normal((every, 1, chains)) for e in active]
        batch.run(1 + eps * np.stack(noise, 1))
        run_steps += every * batch.u.size
        with np.errstate(over="ignore", invalid="ignore"):
            done = times.add((trace(batch.u, batch.v) - 2) / (first - 2))
        if done.any():
            T[active[done]], K[active[done]] = times.T[done], times.K[done]
            times.keep(~done)
            batch.keep(~done)
            active = active[~done]
    axes = np.broadcast_arrays(
        np.array(etas, float)[:, None, None], grid[..., None], np.arange(chains)
    )
    columns = dict(zip(("eta", "mu", "chain"), (a.ravel() for a in axes), strict=True))
    columns |= {"T": T.ravel(), "window": np.repeat(K, T[0].size)}
    table = pd.DataFrame(columns)
    table.loc[len(table) - 1, ["cpu_seconds", "run_steps"]] = (
        process_time() - start,
        run_steps,
    )
    return table


def run_uv_paths(
    eta: float,
    mus: Sequence[float],
    seed: int,
    steps: int,
    every: int = 1,
    eps: float = 0.15,
    chains: int = 1,
    imbalance: float = 9.0,
    ema: bool = False,
) -> pd.DataFrame:
    """Follow the weights themselves at one step size.

    Returns:
        A row per mu, chain and record: `mu`, `chain`, `step`, `u`, `v`.
    """
    start = process_time()
    batch = Batch(np.full(len(mus), eta), np.array(mus), imbalance, chains, ema)
    rng, kept = np.random.default_rng(seed), [(batch.u.copy(), batch.v.copy())]
    for _ in range(steps // every):
        batch.run(1 + eps * rng.standard_normal((every, 1, chains)))
        kept.append((batch.u.copy(), batch.v.copy()))
    axes = [list(mus), range(chains), range(0, every * len(kept), every)]
    index = pd.MultiIndex.from_product(axes, names=["mu", "chain", "step"])
    u, v = (np.stack(part, -1).ravel() for part in zip(*kept, strict=True))
    table = pd.DataFrame({"u": u, "v": v}, index).reset_index()
    table.loc[len(table) - 1, "cpu_seconds"] = process_time() - start
    return table


def speed(runs: int = 6000, steps: int = 2000, loop_steps: int = 2000) -> dict[str, float]:
    """Steps of single runs per second: `Batch`, and a Python loop of torch.optim.SGD.

    Returns:
        `batched`, `loop` and their `ratio`.
    """
    batch = Batch(np.full(runs, 0.01), np.full(runs, 0.1))
    labels = 1 + 0.15 * np.random.default_rng(0).standard_normal((steps, 1, 1))
    start = perf_counter()
    batch.run(labels)
    batched = runs * steps / (perf_counter() - start)
    w = torch.tensor([3.0, 1 / 3], requires_grad=True)
    rule = torch.optim.SGD([w], lr=0.01, momentum=0.9)
    start = perf_counter()
    for y in labels[:loop_steps].ravel().tolist():
        rule.zero_grad()
        ((w[0] * w[1] - y) ** 2 / 2).backward()
        rule.step()
    loop = min(loop_steps, steps) / (perf_counter() - start)
    return {"batched": batched, "loop": loop, "ratio": batched / loop}

"""Label noise along a valley: how long tr H takes to relax, for many momenta at once.

Phase 1 ends on Gamma; phase 2 is heavy ball with fresh label noise at every step (paper
004, equation 1), without dampening: pi <- beta pi - grad L, w <- w + eta pi, mu = 1 - beta.
All mu see the same noise (common random numbers), all step sizes and problems their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import process_time

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common.curvature import Curvature
from common.interpolators import (
    ImageNet,
    Interpolator,
    MatrixSensing,
    TeacherStudent,
    drift,
    flattest,
    interpolate,
)
from common.objective import Objective, Problem, supervised
from common.scaling import CAP, RelaxationTimes, integral_times

SYSTEMS = {
    "matrix sensing": MatrixSensing,
    "teacher-student": TeacherStudent,
    "images": ImageNet,
}
LEVELS = (0.5, 0.35, 0.2)  # of the gap, at which runs are compared at equal convergence


class Bundle:
    """Phase 2 of D problems from one point each: M momenta times S noise seeds, R = M S.

    Args:
        system: D problems.
        w: One point of each.
        eta: Step sizes [D].
        mus: 1 - beta [M].
        eps: Noise scales [D].
        noises: S.
        seed: Of the noise; problem i draws from seed + i.
        ema: Momentum as an average, pi <- beta pi - mu grad L: the control.
    """

    def __init__(
        self,
        system: Interpolator,
        w: Tensor,
        eta: Tensor,
        mus: Sequence[float],
        eps: Tensor,
        noises: int,
        seed: int,
        ema: bool = False,
    ):
        self.system, self.noises, self.momenta = system, noises, len(mus)
        self.eps = eps.to(w.dtype)[:, None, None]
        self.w = system.repeat(w, noises * len(mus))
        self.velocity = torch.zeros_like(self.w)
        mu = torch.as_tensor(list(mus), dtype=w.dtype).repeat_interleave(noises)
        self.beta = system.per_run((1 - mu)[None])
        rate = eta[:, None] * (mu if ema else torch.ones_like(mu))
        self.rate = system.per_run(rate.to(w.dtype))
        self.draws = [torch.Generator().manual_seed(seed + i) for i in range(len(w))]

    def advance(self, steps: int) -> None:
        """Take steps."""
        n = self.system.y.shape[1:].numel()
        size = (steps, n, self.noises)
        signs = [torch.randint(2, size, generator=g) for g in self.draws]
        noise = (torch.stack(signs, 1) * 2 - 1) * self.eps
        for xi in noise:  # [D, n, S]
            xi = xi[:, :, None].expand(-1, -1, self.momenta, -1).flatten(2)
            self.velocity.mul_(self.beta).sub_(self.system.gradient(self.w, xi))
            self.w.addcmul_(self.rate, self.velocity)

    def keep(self, which: Tensor) -> None:
        """Go on with some of the problems only [D]."""
        self.system, self.w = self.system.only(which), self.w[which]
        self.velocity, self.rate = self.velocity[which], self.rate[which]
        self.eps = self.eps[which]
        self.draws = [g for g, kept in zip(self.draws, which.tolist(), strict=True) if kept]

    def by_momentum(self, values: Tensor) -> Tensor:
        """[D, R] as [D, M, S]."""
        return values.unflatten(1, (self.momenta, self.noises))


def prepared(
    name: str,
    seed: int,
    problems: int,
    lift: float,
    options: dict,
    search: int,
    dtype: torch.dtype = torch.float32,
) -> tuple[Interpolator, Tensor, pd.DataFrame]:
    """Problems after phase 1, and the scales that everything is measured in.

    Returns:
        The problems, a point on Gamma of each, and one row for each: `sharpness`
        (lambda_max), `trace` (tr H), `least` (that of the flattest point), `ref`.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in SYSTEMS:
        raise ValueError(f"unknown system {name!r}; choose one of {[*SYSTEMS]}")
    system, w = SYSTEMS[name].draw(seed, problems, **options)
    w = interpolate(system, w)
    trace, least = system.trace(w)[:, 0], system.trace(flattest(system, w, search))[:, 0]
    scales = {"sharpness": system.sharpness(w), "trace": trace, "least": least}
    scales["ref"] = least + lift * (trace - least)
    return (
        system.to(dtype),
        w.to(dtype),
        pd.DataFrame({k: v.numpy() for k, v in scales.items()}),
    )


def run_relaxation(
    name: str,
    seed: int,
    shares: Sequence[float],
    mus: Sequence[float],
    eps: float | Sequence[float],
    problems: int = 1,
    noises: int = 8,
    window: float = 5.0,
    lift: float = 0.0,
    every: int = 20,
    most: int = 20_000,
    ema: bool = False,
    options: dict | None = None,
    search: int = 300,
) -> pd.DataFrame:
    """Integral relaxation times of tr H, for step sizes x momenta x noise x problems.

    With the gap g = (tr H - ref) / (tr H_0 - ref), held to [0, 2],

        T(mu) = sum over steps k < K of g_k,

    and the window is K = c min over mu of T(mu), T the geometric mean over the noise: found
    from the data, for each problem and step size, with no theory in it.

    Args:
        name: A key of `SYSTEMS`.
        seed: Of the problems and of the noise.
        shares: eta lambda_max; lambda_max that of each problem after phase 1.
        mus: 1 - beta, the same for all step sizes.
        eps: Noise scale; one number or one for each share.
        problems: D.
        noises: Noise seeds.
        window: c.
        lift: The reference lies at the least tr H, plus this share of tr H_0 - least.
        every: Steps between measurements.
        most: Steps, at most; then the window is shorter, and `ended` false.
        ema: See `Bundle`.
        options: Of the system's `draw`.
        search: Steps of the search for the flattest point.

    Returns:
        One row per problem, share, mu and noise seed: `eta`, `T`, `K`, `ended`; for each
        level l of the gap `steps_<l>`, when the median run of this mu first lay below it,
        and `test_error_<l>` there (nan: never); `test_error` at the end; the columns of
        `prepared`. The last row holds `cpu_seconds`.

    Raises:
        ValueError: If the name is unknown, or a share, mu or eps is not positive.
    """
    start = process_time()
    eps = [eps] * len(shares) if isinstance(eps, float) else list(eps)
    if len(eps) != len(shares) or min(*shares, *mus, *eps) <= 0 or max(mus) > 1:
        raise ValueError(
            "shares, mus and eps must be positive, mu at most 1; one eps, or one a share"
        )
    system, w, scales = prepared(name, seed, problems, lift, options or {}, search)
    pairs = pd.MultiIndex.from_product([range(len(shares)), range(problems)])
    which, problem = pairs.get_level_values(0), pairs.get_level_values(1)
    units = scales.loc[problem].reset_index(drop=True)  # a problem with a step size
    units.insert(0, "problem", problem)
    units["share"], units["eps"] = np.take(shares, which), np.take(eps, which)
    units["eta"] = units.share / units.sharpness
    rows = torch.tensor(problem.to_list())
    eta, scale = (torch.tensor(units[k].to_list()) for k in ("eta", "eps"))
    bundle = Bundle(
        system.only(rows), w[rows], eta, mus, scale, noises, 1000 * seed + 10**6, ema
    )
    axes = pd.MultiIndex.from_product([list(mus), range(noises)], names=["mu", "noise"])
    tables = [
        pd.DataFrame(columns, axes).reset_index().assign(**units.loc[i])
        for i, columns in _relax(bundle, units, window, every, most).items()
    ]
    table = pd.concat(tables).astype({"problem": int})
    table = table.sort_values(["problem", "share", "mu", "noise"], ignore_index=True)
    table.loc[len(table) - 1, "cpu_seconds"] = process_time() - start
    return table


def _relax(
    bundle: Bundle, units: pd.DataFrame, c: float, every: int, most: int
) -> dict[int, dict[str, np.ndarray]]:
    """Follow a bundle until all windows have ended: row of `units` -> columns [M S]."""
    left = torch.arange(len(bundle.w))
    first, ref = (torch.tensor(units[k].to_list()) for k in ("trace", "ref"))
    shape = (len(left), len(LEVELS), bundle.momenta)
    steps = torch.full(shape, torch.nan)
    errors = torch.full((*shape, bundle.noises), torch.nan)
    clock, done = RelaxationTimes(every, c), {}
    for k in range(0, most + 1, every):
        if k:
            bundle.advance(every)
        gap = bundle.system.trace(bundle.w) - ref[left, None]
        gap = bundle.by_momentum(gap / (first - ref)[left, None]).nan_to_num(CAP, CAP)
        middle = gap.median(-1).values[:, None]  # over the noise
        new = (middle < torch.tensor(LEVELS)[:, None]) & steps[left].isnan()
        for i, level, m in new.nonzero().tolist():
            steps[left[i], level, m] = k
            errors[left[i], level, m] = _error(bundle, i, m)
        ended = clock.add(gap.numpy())
        over = torch.from_numpy(ended | (k + every > most))
        for i in over.nonzero()[:, 0].tolist():
            u = int(left[i])
            done[u] = {"T": clock.T[i].ravel(), "K": float(k), "ended": bool(ended[i])}
            for level, name in enumerate(LEVELS):
                reached = steps[u, level].repeat_interleave(bundle.noises)
                done[u][f"steps_{name:g}"] = reached.numpy()
                done[u][f"test_error_{name:g}"] = errors[u, level].flatten().numpy()
        if over.any():
            left = left[~over]
            bundle.keep(~over)
            clock.keep((~over).numpy())
        if not len(left):
            break
    return done


def times(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the estimators of `common.scaling` take, from a table of `run_relaxation`.

    Returns:
        eta lambda_max [E] in place of eta (the same up to a factor for each problem), mu
        [M], and the times [D, E, M, S].
    """
    axes = [np.unique(table[k]) for k in ("problem", "share", "mu", "noise")]
    ordered = table.sort_values(["problem", "share", "mu", "noise"])["T"].to_numpy()
    return axes[1], axes[2], ordered.reshape([len(a) for a in axes])


def _error(bundle: Bundle, problem: int, momentum: int) -> Tensor:
    """Test errors [S] of one momentum in one problem."""
    alone, w = bundle.system.only(slice(problem, problem + 1)), bundle.w[problem]
    runs = slice(momentum * bundle.noises, (momentum + 1) * bundle.noises)
    w = w[runs] if alone.runs_first else w[:, runs]
    return alone.test_error(w[None])[0]


def run_traces(
    name: str,
    seed: int,
    share: float,
    mus: Sequence[float],
    eps: float,
    steps: int,
    problems: int = 1,
    noises: int = 8,
    every: int = 10,
    options: dict | None = None,
    search: int = 300,
) -> pd.DataFrame:
    """The trace of H and the test error along phase 2, in the first problem of a seed.

    Args:
        name: See `run_relaxation`, also for what is not listed here.
        seed: Of the problem and of the noise.
        share: eta lambda_max.
        mus: 1 - beta.
        eps: Noise scale.
        steps: Number of steps.
        problems: Those of the seed, of which the first is followed.
        noises: Noise seeds.
        every: Steps between measurements.
        options: Of the system's `draw`.
        search: Steps of the search for the flattest point.

    Returns:
        One row per mu, noise seed and measured step: `mu`, `noise`, `step`, `trace`,
        `test_error`; and `least`, tr H of the flattest point. The last row holds
        `cpu_seconds`.
    """
    start = process_time()
    system, w, scales = prepared(name, seed, problems, 0.0, options or {}, search)
    system, w = system.only(slice(1)), w[:1]
    eta = torch.tensor([share / scales.sharpness[0]])
    bundle = Bundle(system, w, eta, mus, torch.tensor([eps]), noises, 1000 * seed + 10**6)
    axes = pd.MultiIndex.from_product([list(mus), range(noises)], names=["mu", "noise"])
    rows = []
    for step in range(0, steps + 1, every):
        if step:
            bundle.advance(every)
        row = {"trace": bundle.system.trace(bundle.w)[0].numpy()}
        row["test_error"] = bundle.system.test_error(bundle.w)[0].numpy()
        rows.append(pd.DataFrame(row, axes).assign(step=step).reset_index())
    table = pd.concat(rows, ignore_index=True).assign(least=scales.least[0])
    table.loc[len(table) - 1, "cpu_seconds"] = process_time() - start
    return table


def run_drift(
    name: str,
    seed: int,
    problems: int,
    lift: float,
    options: dict | None = None,
    search: int = 300,
) -> pd.DataFrame:
    """The gap along the noiseless drift (`common.interpolators.drift`) of all problems.

    Returns:
        One row per problem and step: `problem`, `tau`, `gap`, `sharpness`. The last row
        holds `cpu_seconds`.
    """
    start = process_time()
    double = torch.float64
    system, w, scales = prepared(name, seed, problems, lift, options or {}, search, double)
    least, ref, trace = torch.tensor(scales[["least", "ref", "trace"]].to_numpy()).T
    tau, traces = drift(system, w, least)
    gap = (traces - ref[:, None]) / (trace - ref)[:, None]
    index = pd.MultiIndex.from_product([range(problems), range(tau.shape[1])])
    table = pd.DataFrame({"tau": tau.flatten(), "gap": gap.flatten().clamp(0)}, index)
    table = table.droplevel(1).rename_axis("problem").reset_index()
    table["sharpness"] = scales.sharpness.loc[table.problem].to_numpy()
    table.loc[len(table) - 1, "cpu_seconds"] = process_time() - start
    return table


def drift_times(
    path: pd.DataFrame, eta: float, eps: float, mus: Sequence[float], K: float
) -> np.ndarray:
    """What the noiseless drift makes of T(mu) in a window of K steps, nothing fitted.

    With tau = k eps^2 eta^2 / (4 mu^2) the sum of the gap over k < K is an integral over
    tau. It holds to the right of the optimum.

    Args:
        path: One problem of `run_drift`.
        eta: Step size.
        eps: Noise scale.
        mus: 1 - beta; 1: no momentum.
        K: Steps; infinity for the whole relaxation.

    Returns:
        T [M].
    """
    tau, gap = path.tau.to_numpy(), path.gap.to_numpy()
    integral = np.append(0, np.cumsum(np.diff(tau) * (gap[1:] + gap[:-1]) / 2))
    speed = (eps * eta / np.asarray(mus)) ** 2 / 4  # d tau / dk
    return np.interp(K * speed, tau, integral) / speed


def equal_convergence(table: pd.DataFrame, less: float) -> pd.DataFrame:
    """The optimum against less momentum, when the gap first lies below the same level.

    Args:
        table: Of `run_relaxation`.
        less: Less momentum is the mu of the grid that is nearest to so many times mu*.

    Returns:
        One row per problem, share and level that both reach: `test`, the log ratio of the
        median test errors, mu* to less momentum; `steps`, how many times longer less
        momentum takes; `unequal`, the log ratio if mu* is still at the first of the levels:
        what unequal convergence looks like (nan at that level).
    """
    rows = []
    for (problem, share), unit in table.groupby(["problem", "share"]):
        by_mu = unit.groupby("mu")
        mus = np.array(list(by_mu.groups))
        best = int(by_mu["T"].agg(lambda t: np.log(t).mean()).argmin())
        other = int(np.abs(np.log(mus / (less * mus[best]))).argmin())
        middle = by_mu.median()
        fast, slow = middle.iloc[best], middle.iloc[other]
        if other == best:
            continue
        for level in LEVELS:
            steps, test = f"steps_{level:g}", f"test_error_{level:g}"
            row = {"problem": problem, "share": share, "level": level}
            row["steps"] = slow[steps] / fast[steps]
            row["test"] = np.log(fast[test] / slow[test])
            early = fast[f"test_error_{LEVELS[0]:g}"] if level < LEVELS[0] else np.nan
            rows.append(row | {"unequal": np.log(early / slow[test])})
    return pd.DataFrame(rows).dropna(subset=["steps", "test"]).reset_index(drop=True)


def run_network(
    problem: Problem,
    seed: int,
    share: float,
    mus: Sequence[float],
    eps: float,
    batch: int,
    first: int,
    steps: int,
    every: int,
    test: int | None = None,
) -> pd.DataFrame:
    """Both phases with any net on mini-batches: the way of ResNet-18 (paper profile).

    Phase 1 is heavy ball with beta = .9 and no label noise; phase 2 starts from there once
    for each mu, with the same batches and the same noise, y + eps sqrt(n) xi.

    Args:
        problem: Squared error; a net without batch statistics.
        seed: Of the net, the batches and the noise.
        share: eta lambda_max, lambda_max after phase 1; phase 1 takes 1 / lambda_max at
            the start.
        mus: 1 - beta.
        eps: Noise scale.
        batch: Samples of a mini-batch.
        first: Steps of phase 1.
        steps: Steps of phase 2.
        every: Steps between measurements.
        test: Number of test images; None: all.

    Returns:
        One row per mu and measured step: `mu`, `eta`, `step`, `loss`, `trace` (tr J^T J by
        one random probe on a batch), `test_error`, `sharpness`. The last row holds
        `cpu_seconds`.

    Raises:
        ValueError: If the loss is not the squared error.
    """
    start = process_time()
    if problem.loss != "mse":
        raise ValueError(f"label noise needs squared errors, not {problem.loss!r}")
    objective, w = problem.build(seed)
    held_out = replace(problem, split="test", n=test).build(seed)[0]
    top = Curvature(1, 1e-3)
    eta = 1 / float(top(objective.at(w, curvature=True)).values[0])
    w = _sgd(objective, w, eta, 0.1, 0.0, batch, seed, first)[-1][1]
    sharpness = float(top(objective.at(w, curvature=True)).values[0])
    eta, rows = share / sharpness, []
    for mu in mus:
        for step, at in _sgd(objective, w, eta, mu, eps, batch, seed, steps, every):
            seen = objective.batch(torch.arange(min(batch, len(objective.inputs))))
            row = {"mu": mu, "eta": eta, "step": step, "loss": objective.at(at).loss}
            row |= {"trace": _probed_trace(seen, at, seed + step), "sharpness": sharpness}
            rows.append(row | {"test_error": 1 - held_out.accuracy(at)})
    table = pd.DataFrame(rows)
    table.loc[len(table) - 1, "cpu_seconds"] = process_time() - start
    return table


def network_times(
    tables: Mapping[tuple[float, int], pd.DataFrame], window: float, lift: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Integral relaxation times of `run_network`, as `times` gives them for the others.

    The reference lies at the least trace that any run of a seed has seen, plus the share
    `lift` of the way back to the start: no penalty descent for a net of this size.

    Args:
        tables: (share, seed) -> table.
        window: c.
        lift: See above.

    Returns:
        eta lambda_max [E], mu [M], and the times [E, M, S], S the seeds.
    """
    shares, seeds = (sorted({key[i] for key in tables}) for i in (0, 1))
    least = {s: min(t.trace.min() for k, t in tables.items() if k[1] == s) for s in seeds}
    result = []
    for share in shares:
        gaps = []
        for seed in seeds:
            paths = tables[share, seed].pivot(index="mu", columns="step", values="trace")
            first = paths.iloc[:, 0].mean()
            ref = least[seed] + lift * (first - least[seed])
            gaps.append((paths.to_numpy() - ref) / (first - ref))
        every = int(paths.columns[1] - paths.columns[0])
        result.append(integral_times(np.stack(gaps, 1), every, window)[0])
    return np.array(shares), paths.index.to_numpy(), np.array(result)


def _sgd(
    objective: Objective,
    w: Tensor,
    eta: float,
    mu: float,
    eps: float,
    batch: int,
    seed: int,
    steps: int,
    every: int | None = None,
) -> list[tuple[int, Tensor]]:
    """Heavy ball on mini-batches with label noise: steps and the parameters there."""
    draw = torch.Generator().manual_seed(seed)
    y, n = objective.targets, len(objective.inputs)
    velocity, kept = torch.zeros_like(w), [(0, w)]
    for k in range(1, steps + 1):
        rows = torch.randperm(n, generator=draw)[:batch].to(w.device)
        signs = torch.randint(2, (len(rows), y.shape[1]), generator=draw) * 2 - 1
        noisy = y[rows] + eps * n**0.5 * signs.to(y)
        seen = supervised(objective.function, objective.inputs[rows], noisy, None)
        velocity = (1 - mu) * velocity - seen.at(w).gradient
        w = w + eta * velocity
        if k == steps or (every and k % every == 0):
            kept.append((k, w))
    return kept


def _probed_trace(objective: Objective, w: Tensor, seed: int) -> float:
    """Trace of J^T J of the scaled residuals: E |J^T v|^2 for random signs v, one draw."""
    at = w.detach().requires_grad_()
    f = objective.outputs(at)
    draw = torch.Generator().manual_seed(seed)
    v = (torch.randint(2, f.shape, generator=draw) * 2 - 1).to(f)
    return float(torch.autograd.grad(f, at, v)[0].square().sum() / len(f))

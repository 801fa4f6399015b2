"""What a network has learned about its inputs when it has learned its training set.

Both runs train a network (of `common.dense`) to the same training loss, by gradient descent
with a number of catapults, or by any rule on batches, and then judge it: the error on other
samples, and the alignment of its AGOP with that of the target (paper 003, "feature learning
through catapults"). Errors are mean squared errors |f - y|^2 / n as in the paper's tables,
twice the loss of this repository, to which eta, eta_crit and the target loss refer.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from time import process_time

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from common.agop import Polynomial, agop, alignment
from common.data import Images, load
from common.dense import DenseObjective, dense
from common.kernels import tangent_kernel
from common.objective import Objective, Problem
from common.optimizers import GradientDescent, Optimizer
from common.stochastic import MiniBatch
from common.training import BLOW_UP, trajectory


def run_catapults(
    problem: Problem,
    held_out: Problem,
    truth: np.ndarray,
    seed: int,
    counts: Sequence[int],
    factor: float,
    target: float,
    steps: int,
    start: float = 0.9,
    gap: int = 5,
    block: int = 0,
) -> pd.DataFrame:
    """Gradient descent with 0, 1, 2, ... catapults, each run to the same training loss.

    It starts at eta = `start` eta_crit. A catapult is induced by `factor` eta_crit(w), with
    factor > 1: the loss rises to more than 1.5 times what it was, and comes back below 1.1
    times that. `gap` steps later follows the next one. The run with k catapults goes on
    from there with the eta that it has until the training loss is below the target, so all
    runs of one seed have their beginnings in common.

    Args:
        problem: Training data, model and loss, as `common.dense.dense` takes it.
        held_out: The same with other data.
        truth: G*, the AGOP of the target [d, d].
        seed: Of the initialisation.
        counts: Numbers of catapults k, rising.
        factor: eta / eta_crit of a catapult.
        target: Training loss to reach.
        steps: Most steps of a run after its last catapult, and of a catapult.
        start: eta / eta_crit of the first steps.
        gap: Steps before each catapult.
        block: Size of the corner of the AGOP that is kept (0: none).

    Returns:
        One row per k and step: `catapults` (k), `step`, `eta`, `loss`. The last one of each
        k has `outcome` ("trained", "diverged", or "stopped" short of the target), and
        unless diverged what `judge` finds and `agop_<i>_<j>`, i <= j <= block, counted from
        1. A catapult that fails ends the table with the row of its k. `cpu_seconds` in the
        last row.

    Raises:
        ValueError: If the counts do not rise, factor <= 1, or a length is not positive.
    """
    if [*counts] != sorted({*counts}) or not len(counts) or counts[0] < 0:
        raise ValueError(f"numbers of catapults must rise, not {counts}")
    if not (factor > 1 and steps >= 1 and gap >= 1):
        raise ValueError(f"no catapult with factor {factor}, {steps} steps, gap {gap}")
    began, rows, beginning = process_time(), [], []
    objective, w = dense(problem, seed)
    others, _ = held_out.build(seed)
    eta = start * tangent_kernel(objective, w).eta_crit()
    worst = BLOW_UP * objective.at(w).loss

    def descend(w: Tensor, most: int, stop) -> tuple[Tensor, list[dict], bool]:
        """Steps until stop(loss): the last w, the rows, and whether it stopped."""
        path, done, step = [], False, None
        for step in islice(trajectory(objective, GradientDescent(eta), w), most + 1):
            path.append({"eta": eta, "loss": step.point.loss})
            done = stop(path[-1]["loss"])
            if done or not path[-1]["loss"] <= worst:
                break
        return step.point.w, path, done

    for k in range(max(counts) + 1):
        failed = False
        if k:
            w, path, _ = descend(w, gap, lambda loss: False)
            eta = factor * tangent_kernel(objective, w).eta_crit()
            beginning += path[:-1]
            w, path, done = descend(w, steps, _catapult(path[-1]["loss"]))
            beginning += path[:-1]
            failed = not done
        if k in counts or failed:
            end, path, done = (
                (w, path, False)
                if failed
                else descend(w, steps, lambda loss: loss <= target)
            )
            row = path[-1]
            row["outcome"] = "trained" if done else "stopped"
            if not row["loss"] <= worst:
                row["outcome"] = "diverged"
            else:
                row |= judge(objective, others, end, truth, block)
            own = [*beginning, *path]
            rows += [{"catapults": k, "step": i} | r for i, r in enumerate(own)]
        if failed:
            break
    table = pd.DataFrame(rows)
    table.loc[len(table) - 1, "cpu_seconds"] = process_time() - began
    return table


def _catapult(before: float):
    """Whether the loss has been above 1.5 and is back below 1.1 times what it was."""
    highest = before

    def over(loss: float) -> bool:
        nonlocal highest
        highest = max(highest, loss)
        return highest > 1.5 * before and loss < 1.1 * before

    return over


def run_to_target(
    problem: Problem,
    held_out: Problem,
    truth: np.ndarray,
    seed: int,
    rule: Optimizer,
    target: float,
    epochs: float,
    size: int | None = None,
    critical: bool = False,
    checks: int = 2,
    every: int = 0,
) -> pd.DataFrame:
    """Train with any rule, on all samples or on batches, to a given training loss.

    Args:
        problem: Training data, model and loss, as `common.dense.dense` takes it.
        held_out: The same with other data.
        truth: G*, the AGOP of the target [d, d].
        seed: Of the initialisation and of the order of the samples.
        rule: The update rule.
        target: Training loss to reach.
        epochs: Most passes over the samples.
        size: Samples of a batch; None: all.
        critical: The rule's eta is in units of eta_crit at initialisation.
        checks: How often in an epoch of batches the loss of all samples is looked at.
        every: Steps between measurements of the batch's eta_crit (0: none).

    Returns:
        One row per check: `step`, `loss`. The last one has `outcome` ("trained",
        "diverged" or "stopped" short of the target), `eta` and, unless diverged, what
        `judge` finds; with `every` also `supercritical`, the share of the measured steps
        with eta > eta_crit(batch), and its product with the steps, `catapult_steps`; and
        `cpu_seconds`.

    Raises:
        ValueError: If checks < 1, or epochs <= 0.
    """
    if checks < 1 or not epochs > 0:
        raise ValueError(f"checks and epochs must be positive, not {checks}, {epochs}")
    began, rows, above = process_time(), [], []
    objective, w = dense(problem, seed)
    others, _ = held_out.build(seed)
    n = len(objective.inputs)
    if critical:
        rule = replace(rule, eta=rule.eta * tangent_kernel(objective, w).eta_crit())
    eta = rule.eta
    batches = 1 if size is None else n // size
    if size is not None:
        rule = MiniBatch(rule, size, n, seed)
    between, most = max(1, batches // checks), int(epochs * batches)
    worst = BLOW_UP * objective.at(w).loss
    for step in islice(trajectory(objective, rule, w), most + 1):
        if every and step.index % every == 0:
            seen = objective if size is None else objective.batch(rule.rows(step.state))
            above.append(eta > tangent_kernel(seen, step.point.w).eta_crit())
        if step.index % between == 0 or step.index == most:
            loss = step.point.loss
            rows.append({"step": step.index, "loss": loss})
            if not target < loss <= worst:
                break
    row = rows[-1] | {"eta": eta}
    row["outcome"] = "trained" if loss <= target else "stopped"
    if above:
        row["supercritical"] = float(np.mean(above))
        row["catapult_steps"] = row["supercritical"] * row["step"]
    if not loss <= worst:
        row["outcome"] = "diverged"
    else:
        row |= judge(objective, others, step.point.w, truth)
    rows[-1] = row | {"cpu_seconds": process_time() - began}
    return pd.DataFrame(rows)


def judge(
    objective: DenseObjective,
    others: Objective,
    w: Tensor,
    truth: np.ndarray,
    block: int = 0,
) -> dict[str, float]:
    """What a trained network is worth.

    Args:
        objective: On the training samples.
        others: On other samples.
        w: Parameters [P].
        truth: G* [d, d].
        block: Size of the corner of the AGOP that is kept.

    Returns:
        `alignment` of the AGOP at the training inputs with G*, and `misaligned`, that with
        G* of other inputs (each index moved by d / 2, a control); `train_mse`, `test_mse`,
        where there are classes `test_error` (share of wrong signs), and `agop_<i>_<j>`.
    """
    G = agop(lambda x: objective.function(w, x), objective.inputs)
    half = (len(truth) // 2,) * 2
    row = {"alignment": alignment(G, torch.tensor(truth))}
    row["misaligned"] = alignment(G, torch.tensor(truth).roll(half, (0, 1)))
    row["train_mse"] = 2 * objective.at(w).loss
    row["test_mse"] = 2 * others.at(w).loss
    if others.labels is not None:
        row["test_error"] = 1 - others.accuracy(w)
    corner = range(1, block + 1)
    pairs = ((i, j) for i in corner for j in corner if i <= j)
    return row | {f"agop_{i}_{j}": float(G[i - 1, j - 1]) for i, j in pairs}


def run_rate(
    estimated: Polynomial,
    truth: Polynomial,
    seed: int,
    counts: Sequence[int],
    d: int,
    draws: int,
) -> pd.DataFrame:
    """How far the AGOP at n samples is from the one of the distribution.

    Args:
        estimated: The function whose AGOP is taken at samples of x ~ N(0, I_d).
        truth: The function whose closed form it is compared with; usually the same.
        seed: Of the samples.
        counts: Numbers of samples n.
        d: Dimension of x.
        draws: Sets of samples of each size.

    Returns:
        One row per n: `n` and `error`, the root of the mean over the draws of |G_n - G*|^2
        (Frobenius); `cpu_seconds` in the last row.
    """
    began, rows = process_time(), []
    generator = torch.Generator().manual_seed(seed)
    G_true = truth.agop(d)
    for n in counts:
        squares = 0.0
        for _ in range(draws):
            x = torch.randn(n, d, generator=generator, dtype=torch.float64)
            squares += float((agop(estimated, x) - G_true).square().sum())
        rows.append({"n": n, "error": (squares / draws) ** 0.5})
    rows[-1]["cpu_seconds"] = process_time() - began
    return pd.DataFrame(rows)


def rest_of_pair(name: str, n: int, classes: tuple[int, int], size: int) -> Images:
    """The images of two classes that `Problem(name, n, classes, size)` does not train on.

    Args:
        name: Name of a data set (`common.data.load`).
        n: Number of training images, even.
        classes: Two labels.
        size: Side of the images in pixels.

    Returns:
        The other train images and all test images, with the targets -1 and +1.

    Raises:
        ValueError: If n is odd.
    """
    if n % 2:
        raise ValueError(f"half of the n images come from each class, so not n = {n}")
    parts = [load(name, None, classes, size, split=split) for split in ("train", "test")]
    train, test = parts
    order = torch.stack([train.y == c for c in (0, 1)]).long().cumsum(1)
    left = order.gather(0, train.y[None])[0] > n // 2
    x, y = torch.cat([train.x[left], test.x]), torch.cat([train.y[left], test.y])
    return Images(x, y, train.classes).signed()


def run_reference(
    name: str,
    classes: tuple[int, int],
    size: int,
    nets: int,
    epochs: int,
    width: int = 256,
    seed: int = 0,
) -> pd.DataFrame:
    """The AGOP of good networks for two classes of images, in place of a known G*.

    Each is a fully connected net of two hidden layers with dropout (0.3), trained by AdamW
    (1e-3, cosine decay, batches of 50) on all train images of the pair.

    Args:
        name: Name of a data set.
        classes: Two labels.
        size: Side of the images in pixels.
        nets: Number of networks; their AGOPs are averaged.
        epochs: Passes over the images.
        width: Units of each hidden layer.
        seed: Of all that is random.

    Returns:
        The average AGOP at the train images, one row per pixel, in the columns `g_1` ...
        `g_d`; `test_error` of each network in the first rows; `cpu_seconds` in the last.

    Raises:
        ValueError: If there are fewer than one network or epoch.
    """
    if nets < 1 or epochs < 1:
        raise ValueError(f"nets and epochs must be at least 1, not {nets} and {epochs}")
    began, errors, total = process_time(), [], 0.0
    parts = [load(name, None, classes, size, split=split) for split in ("train", "test")]
    (x, y), (other, truth) = ((p.x.flatten(1), p.signed().targets) for p in parts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(nets):
            net = nn.Sequential(
                *(nn.Linear(x.shape[1], width), nn.ReLU(), nn.Dropout(0.3)),
                *(nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.3)),
                nn.Linear(width, 1),
            )
            optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
            decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
            for _ in range(epochs):
                for rows in torch.randperm(len(x)).split(50):
                    optimizer.zero_grad()
                    (net(x[rows]) - y[rows]).square().mean().backward()
                    optimizer.step()
                decay.step()
            net.eval()
            total = total + agop(net, x) / nets
            with torch.no_grad():
                errors.append(float((net(other).sign() != truth).double().mean()))
    table = pd.DataFrame(total.numpy(), columns=[f"g_{i + 1}" for i in range(len(total))])
    table["test_error"] = pd.Series(errors)
    table.loc[len(table) - 1, "cpu_seconds"] = process_time() - began
    return table


# ---------------------------------------------------------------- reading the tables


def ends(runs: Mapping[Hashable, pd.DataFrame], *names: str) -> pd.DataFrame:
    """The rows of the runs' tables that have an `outcome`, with their keys as columns.

    Args:
        runs: What `common.sweeps.sweep` returns; keys (..., seed).
        names: Of the parts of the keys before the seed.
    """
    last = {key: table.dropna(subset="outcome") for key, table in runs.items()}
    table = pd.concat(last, names=[*names, "seed", "row"]).reset_index()
    return table.drop(columns=["row", "cpu_seconds"])


def rank_correlations(table: pd.DataFrame, x: str, y: str) -> list[float]:
    """Spearman's correlation of two columns, for each seed.

    Example:
        >>> table = pd.DataFrame({"seed": [0, 0, 0], "a": [1, 2, 5], "b": [9, 8, 1]})
        >>> [round(r, 6) for r in rank_correlations(table, "a", "b")]
        [-1.0]
    """
    return [float(spearmanr(t[x], t[y])[0]) for _, t in table.groupby("seed")]


def corner(row: pd.Series) -> np.ndarray:
    """The corner of an AGOP that a row of `run_catapults` holds.

    Returns:
        |G_ij| / max |G_ij| [block, block], between 0 and 1.

    Raises:
        ValueError: If it holds none, as after divergence.

    Example:
        >>> corner(pd.Series({"agop_1_1": 2.0, "agop_1_2": -1.0, "agop_2_2": 0.5})).tolist()
        [[1.0, 0.5], [0.5, 0.25]]
    """
    kept = row.filter(like="agop_").dropna().astype(float)
    if kept.empty:
        raise ValueError("the row holds no corner of an AGOP")
    places = [[int(part) - 1 for part in name.split("_")[1:]] for name in kept.index]
    G = np.zeros([1 + max(map(max, places))] * 2)
    for (i, j), value in zip(places, kept, strict=True):
        G[i, j] = G[j, i] = abs(value)
    return G / G.max()

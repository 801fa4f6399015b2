"""Self-stabilisation predicted from one point: the cubic expansion of a loss.

Around a point theta with top eigenvector u of the Hessian H, at sharpness S, and for a
displacement x u + v with v orthogonal to u, the loss to third order in x and first in v is

    L + g . v + 1/2 (S + grad S . v) x^2,    g = grad L without its part along u.

Gradient descent on it, with y = grad S . v (the part of grad S orthogonal to u), is the
dynamics of Damian, Nichani and Lee (arXiv:2209.15594; paper 001, "self-stabilization"):

    x' = (1 - eta (S + y)) x,    y' = y + eta (alpha - beta x^2 / 2),

alpha = -g . grad S (progressive sharpening) and beta = |grad S|^2. At S = 2/eta the first
is x' = -(1 + eta y) x. For small eta, `invariant` is constant along it: closed loops.
"""

from dataclasses import dataclass
from itertools import islice
from time import process_time

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common.crossing import climb
from common.curvature import TOLERANCE, Curvature
from common.objective import Point, Problem
from common.optimizers import GradientDescent
from common.training import Sharpness, passes, train, trajectory

MODELS = ("second order", "cubic", "cubic, with Hessian")


@dataclass(frozen=True)
class Expansion:
    """The cubic expansion of a loss around a point.

    Args:
        point: Where.
        u: Top eigenvector of the Hessian [P].
        S: Its eigenvalue.
        gradient: Gradient of the loss without its part along u [P].
        field: Gradient of the sharpness without its part along u [P].
    """

    point: Point
    u: Tensor
    S: float
    gradient: Tensor
    field: Tensor

    @classmethod
    def around(cls, point: Point, tolerance: float = TOLERANCE) -> "Expansion":
        """Expand around a point, S to a relative error (that of u is its root)."""
        pairs = Curvature(tolerance=tolerance)(point)
        u = pairs.vectors[:, 0]
        field = point.curvature_gradients(u[:, None])[:, 0, 0]
        across = [v - (u @ v) * u for v in (point.gradient, field)]
        return cls(point, u, float(pairs.values[0]), *across)

    @property
    def alpha(self) -> float:
        """-g . grad S: the rate of progressive sharpening."""
        return -float(self.gradient @ self.field)

    @property
    def beta(self) -> float:
        """|grad S|^2."""
        return float(self.field @ self.field)

    def predict(self, w: Tensor, eta: float, steps: int, model: str) -> pd.DataFrame:
        """Gradient descent on the expansion, from a real iterate.

        Args:
            w: Where to start [P].
            eta: Step size.
            steps: Number of steps; the table has one row more.
            model: "cubic": the two equations above; "second order": the same with the
                curvature along u held at S; "cubic, with Hessian": v itself is followed,
                and 1/2 v . H v added to the expansion.

        Returns:
            The columns `x`, `y`, `sharpness` (the curvature along u) and `loss` (what x
            adds to that of the point, and with H also what v does).

        Raises:
            ValueError: If the model is unknown.
        """
        if model not in MODELS:
            raise ValueError(f"unknown model {model!r}; choose one of {MODELS}")
        cubic, full = model != MODELS[0], model == MODELS[2]
        x, v = float(self.u @ (w - self.point.w)), w - self.point.w
        v = v - x * self.u
        y, rows = float(self.field @ v), []
        for _ in range(steps + 1):
            S, more = (self.S + y if cubic else self.S), 0.0
            force = x * x / 2 if cubic else 0.0  # x * x may overflow, x**2 may not
            if full:
                pull = self.point.hessian_product(v)
                pull -= (self.u @ pull) * self.u
                more = float((self.gradient + pull / 2) @ v)
                v = v - eta * (self.gradient + pull + force * self.field)
            loss = self.point.loss + S * x * x / 2 + more
            rows.append({"x": x, "y": y, "sharpness": S, "loss": loss})
            y = (
                float(self.field @ v)
                if full
                else y + eta * (self.alpha - force * self.beta)
            )
            x *= 1 - eta * S
        return pd.DataFrame(rows)

    def observe(self, path: Tensor) -> pd.DataFrame:
        """The same columns for real iterates w_t [T + 1, P], T rows.

        `sharpness` is u . H u at the midpoints (w_t + w_{t+1}) / 2, where it does not
        oscillate; `top`, the largest eigenvalue there, may be another direction's.
        """
        objective, tracker, rows = self.point.objective, Curvature(), []
        for w, after in zip(path, path[1:], strict=False):
            middle = objective.at((w + after) / 2, curvature=True)
            gap = w - self.point.w
            rows.append(
                {
                    "x": float(self.u @ gap),
                    "y": float(self.field @ gap),
                    "sharpness": float(self.u @ middle.hessian_product(self.u)),
                    "loss": objective.at(w).loss,
                    "top": float(tracker(middle).values[0]),
                }
            )
        return pd.DataFrame(rows)


def invariant(x, y, alpha: float, beta: float):
    """y^2 / 2 - alpha log abs(x) + beta x^2 / 4: constant where S = 2/eta and eta -> 0.

    In continuous time (log abs(x))' = y and y' = alpha - beta x^2 / 2, so this is the
    energy of a particle at log abs(x), and y its velocity; it is at rest at y = 0,
    x^2 = 2 alpha / beta.

    Example:
        >>> float(invariant(1.0, 2.0, alpha=3.0, beta=4.0))
        3.0
    """
    return y**2 / 2 - alpha * np.log(np.abs(x)) + beta * x**2 / 4


def run_stabilization(
    problem: Problem,
    eta: float,
    seed: int,
    steps: int,
    window: int,
    look_every: int = 5,
) -> pd.DataFrame:
    """The first burst beyond the edge, really and as predicted from its onset.

    Gradient descent crosses the edge and goes on for `window` steps. The onset is where the
    oscillation u . grad L (u at the crossing) leaves 0.3 % of its peak for good; there, at
    the midpoint of two iterates, the loss is expanded, and from the first of the two all
    models set off. (From the crossing on, the oscillation stays invisible for some 50 steps
    more, which leave a point of expansion there far behind.)

    Args:
        problem: Data, model and loss; smooth, since third derivatives are taken.
        eta: Step size of gradient descent.
        seed: Seed of the initialisation.
        steps: Steps within which the edge must be crossed.
        window: Steps from the crossing on.
        look_every: Steps between measurements of the sharpness before.

    Returns:
        One row per step and `model` ("real", or one of `MODELS`): `step` since the onset,
        the columns of `Expansion.observe`, and, the same in all rows, `S`, `alpha`, `beta`
        of the expansion, `crossing` and `onset` (steps since the initialisation).

    Raises:
        ValueError: If the edge was not reached.
    """
    began = process_time()
    rule = GradientDescent(eta)
    objective, w = problem.build(seed)
    until = passes(rule.max_stable_sharpness(0))
    before, w = train(objective, rule, w, steps, [Sharpness(look_every)], until)
    if not until(before.iloc[-1]):
        raise ValueError("the edge was not reached: more steps or a larger step size")
    seen = list(islice(trajectory(objective, rule, w), window + 1))
    path = torch.stack([step.point.w for step in seen])
    u = Curvature()(objective.at(w, curvature=True)).vectors[:, 0]
    start = climb(pd.Series([float(u @ step.point.gradient) for step in seen]))[0]
    path = path[start:]
    expansion = Expansion.around(objective.at((path[0] + path[1]) / 2, curvature=True))
    tables = {"real": expansion.observe(path)}
    for model in MODELS:
        tables[model] = expansion.predict(path[0], eta, len(path) - 2, model)
    table = pd.concat(tables, names=["model", "step"]).reset_index()
    crossing = len(before) - 1
    facts = {name: getattr(expansion, name) for name in ("S", "alpha", "beta")}
    facts |= {"crossing": crossing, "onset": crossing + start}
    return table.assign(**facts, cpu_seconds=process_time() - began)


def prediction_errors(table: pd.DataFrame, share: float = 0.1) -> pd.DataFrame:
    """How far the models are off, until the oscillation is down to a share of its peak.

    (Or to the end of the table, if it does not come down.)

    Args:
        table: Of `run_stabilization`.
        share: Of the peak of the real abs(x).

    Returns:
        One row per model: `peak` (of abs(x), predicted/real), `delay` (of that peak, in
        steps), and root mean square errors of `x` (of abs(x), in units of its peak), `y`
        and `loss` (in units of their range).
    """
    parts = {name: part.set_index("step") for name, part in table.groupby("model")}
    real = parts.pop("real")
    size = real.x.abs()
    top = size.idxmax()
    after = size.loc[top:]
    over = after.index[after < share * size[top]]
    last = over[0] if len(over) else size.index[-1]
    rows = {}
    for name, part in parts.items():
        grown = part.x.loc[:last].abs()
        row = {"peak": grown.max() / size[top], "delay": grown.idxmax() - top}
        for column in ("x", "y", "loss"):
            is_, was = (t[column].loc[:last] for t in (part, real))
            if column == "x":
                is_, was, scale = is_.abs(), was.abs(), size[top]
            else:
                scale = was.max() - was.min()
            row[column] = (is_ - was).pow(2).mean() ** 0.5 / scale
        rows[name] = row
    return pd.DataFrame(rows).T

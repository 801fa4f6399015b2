"""How gradient descent arrives at a minimum just below the edge: along a parabola.

Where the loss is zero the minima form a manifold, along which the sharpness S changes. Near
it (Zhu et al., arXiv:2210.03294; paper 001, "A Minimalist Example") let b be the distance
along the top eigenvector u and a the one along the manifold. With the step size eta and
delta = 2 - eta S at the end, b changes sign and shrinks by 1 - delta at every step, and
each step moves a by -eta/2 b^2 |grad S| (the cubic term of the loss; grad S along the
manifold). Summed to the end,

    a = c b^2,    c = eta |grad S| / (4 delta),

to leading order in delta. The other directions across the manifold, n - 1 of them for n
samples with one output, only converge; they are projected out.
"""

from time import process_time

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common.curvature import Curvature
from common.kernels import jacobian, tangent_kernel
from common.objective import Objective, Problem
from common.optimizers import Optimizer
from common.training import Sharpness, Step, time_of_step, train


class Tail:
    """Probe: keeps the iterates since the loss was last above a level, or last rose.

    Args:
        level: Of the loss.
        every: Steps between iterates; odd, so that both sides of a valley are seen.

    Attributes:
        kept: Step -> iterate [P].

    Raises:
        ValueError: If `every` is not odd.
    """

    def __init__(self, level: float, every: int):
        if every % 2 == 0:
            raise ValueError(f"every must be odd to see both sides, not {every}")
        self.level, self.every = level, every
        self._last = 0.0
        self.kept: dict[int, Tensor] = {}

    def __call__(self, step: Step) -> dict[str, float]:
        """Keep, or forget all."""
        loss = step.point.loss
        if loss > min(self.level, self._last):
            self.kept.clear()
        else:
            self.kept[step.index] = step.point.w
        self._last = loss
        return {}


def run_to_minimum(
    problem: Problem,
    optimizer: Optimizer,
    seed: int,
    steps: int,
    every: int = 40,
    thin: int = 9,
    level: float = 1e-5,
    tolerance: float = 1e-10,
) -> pd.DataFrame:
    """Train to a minimum of a squared error, then look back at the path that led there.

    Args:
        problem: Data, model and loss; squared error, in float64.
        optimizer: An update rule.
        seed: Seed of the initialisation.
        steps: Number of steps, at most.
        every: Steps between measurements of the sharpness.
        thin: Steps between the points of the path; odd.
        level: The path is kept since the loss was last above this, or last rose.
        tolerance: Training stops where the loss is below and the measured sharpness below
            2/eta. (Above it a minimum is unstable: the oscillation is growing, unseen.)

    Returns:
        The table of `train` with `sharpness`, also in the last row, and on the path the
        columns of `local_path`. In all rows `curve`, the predicted c; `slowest`, eta times
        the smallest eigenvalue of the tangent kernel K/n at the end, the rate at which the
        slowest residual decays; `conditioning`, smallest over largest at the start.

    Raises:
        ValueError: If the problem is not as above, or the loss did not stay below `level`.
    """
    if problem.loss != "mse" or problem.dtype != "float64":
        raise ValueError("minima are looked at for the loss 'mse' in float64")
    began = process_time()
    objective, w = problem.build(seed)
    start = _spectrum(objective, w)
    tail = Tail(level, thin)
    table, w = train(
        objective,
        optimizer,
        w,
        steps,
        [Sharpness(every, tolerance=1e-4), tail],
        lambda row: row["loss"] < tolerance and row.get("sharpness", np.inf) < row["mss"],
    )
    if not tail.kept:
        raise ValueError(f"the loss does not come to stay below {level}: more steps")
    path, S, c = local_path(objective, w, tail.kept, time_of_step(optimizer, 0))
    table.loc[table.index[-1], "sharpness"] = S
    end = _spectrum(objective, w)
    return table.join(path).assign(
        curve=c,
        slowest=time_of_step(optimizer, 0) * end[-1],
        conditioning=start[-1] / start[0],
        cpu_seconds=process_time() - began,
    )


def local_path(
    objective: Objective, end: Tensor, iterates: dict[int, Tensor], eta: float
) -> tuple[pd.DataFrame, float, float]:
    """The last part of a path to a minimum, in the coordinates of the module's docstring.

    Args:
        objective: Of a network.
        end: The minimum [P].
        iterates: Step -> iterate [P].
        eta: Step size.

    Returns:
        By step: `b`; `a`, along the first singular vector of the displacements within the
        tangent space of the manifold; `rest`, along that of the displacements without
        their part along u; the last two are positive where S is larger. Then S and c.
    """
    point = objective.at(end, curvature=True)
    pairs = Curvature(tolerance=1e-10)(point)
    u, S = pairs.vectors[:, 0], float(pairs.values[0])
    J = jacobian(objective, end, objective.inputs)
    across = torch.linalg.qr(J.T)[0]
    field = point.curvature_gradients(u[:, None])[:, 0, 0]
    field -= across @ (across.T @ field)
    D = torch.stack([w - end for w in iterates.values()])
    b = D @ u
    parts = {"a": D - (D @ across) @ across.T, "rest": D - b[:, None] * u}
    columns = {"b": b.tolist()}
    for name, part in parts.items():
        _, vectors = torch.linalg.eigh(part @ part.T)
        along = vectors[:, -1] @ part
        along /= along.norm()
        columns[name] = (part @ along * (along @ field).sign()).tolist()
    table = pd.DataFrame(columns, index=pd.Index(iterates, name="step"))
    return table, S, eta * float(field.norm()) / (4 * (2 - eta * S))


def parabola(table: pd.DataFrame, column: str = "a") -> tuple[float, float, float]:
    """Least squares a = c b^2 + a_0 on the path of `run_to_minimum`.

    Args:
        table: With the columns b and `column`.
        column: "a" or "rest".

    Returns:
        c, a_0, and R^2, the share of the variance that is explained.

    Example:
        >>> path = pd.DataFrame({"b": [-2.0, 1.0, 0.0], "a": [9.0, 3.0, 1.0]})
        >>> [round(number, 6) for number in parabola(path)]
        [2.0, 1.0, 1.0]
    """
    seen = table.dropna(subset=["b", column])
    a, square = seen[column], seen.b**2
    c, a0 = np.polyfit(square, a, 1)
    missed = (a - c * square - a0).pow(2).sum()
    return float(c), float(a0), float(1 - missed / (a - a.mean()).pow(2).sum())


def _spectrum(objective: Objective, w: Tensor) -> np.ndarray:
    """Eigenvalues of the tangent kernel K/n, descending."""
    n = len(objective.inputs)
    return (tangent_kernel(objective, w).top(n)[0] / n).cpu().numpy()

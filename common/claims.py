"""The verdict table of a notebook: what was claimed, checked, measured and controlled.

A claim holds on a seed if all its checks do: each is a number per seed that must lie in a
band. Its control is the same checks on a run for which the claim must fail; it is rejected
if on every seed at least one check fails. `Claims.show` prints only what another processor
must reproduce (verdicts and bands); `Claims.table` holds the numbers.
"""

import math
import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from common import ROOT

VERDICTS = ("reproduced", "partly", "not reproduced")
COLUMNS = (
    "id",
    "claim",
    "source",
    "criterion",
    "measured",
    "low",
    "high",
    "seeds",
    "verdict",
    "control",
)


@dataclass(frozen=True)
class Check:
    """One number per seed and the band it must lie in.

    Args:
        name: What the number is, with its unit if it has one.
        values: One per seed.
        low: Lower end of the band (included).
        high: Upper end of the band (included).
        control: The same number for the control, one per seed; None if this check has none.

    Raises:
        ValueError: If there are no values, or not as many control values.

    Example:
        >>> Check("S(end)/S(0)", [2.5, 3.1], low=2, control=[1.0, 1.0]).criterion
        'S(end)/S(0) >= 2'
    """

    name: str
    values: Sequence[float]
    low: float = -math.inf
    high: float = math.inf
    control: Sequence[float] | None = None

    def __post_init__(self):
        object.__setattr__(self, "values", [float(v) for v in self.values])
        if not self.values:
            raise ValueError(f"check {self.name!r} has no values")
        if self.control is not None:
            object.__setattr__(self, "control", [float(v) for v in self.control])
            if len(self.control) != len(self.values):
                raise ValueError(f"check {self.name!r}: as many control values as seeds")
        if self.low == -math.inf and self.high == math.inf:
            raise ValueError(f"check {self.name!r} has no band: it could not fail")

    @property
    def criterion(self) -> str:
        """The band in words."""
        if self.high == math.inf:
            return f"{self.name} >= {self.low:g}"
        if self.low == -math.inf:
            return f"{self.name} <= {self.high:g}"
        return f"{self.name} in [{self.low:g}, {self.high:g}]"

    def holds(self, value: float) -> bool:
        """Whether a value lies in the band; NaN does not."""
        return self.low <= value <= self.high

    def rejects(self, value: float) -> bool:
        """Whether a value lies outside the band; NaN, a control that failed, does not."""
        return not (math.isnan(value) or self.holds(value))

    @property
    def margin(self) -> float:
        """How far the worst seed is inside the band (negative: outside).

        In units of the band's width, or of the bound itself if the band is open.
        """
        width = self.high - self.low
        if not 0 < width < math.inf:
            width = abs(self.low if math.isfinite(self.low) else self.high) or 1.0
        gaps = [min(v - self.low, self.high - v) for v in self.values]
        return min(gaps) / width if not any(map(math.isnan, gaps)) else -math.inf


@dataclass(frozen=True)
class Claim:
    """A claim with its checks; see `Claims.add`."""

    id: str
    claim: str
    source: str
    checks: tuple[Check, ...]
    seeds: tuple[int, ...]
    expected: str = "reproduced"
    note: str = ""
    partial: bool = False

    @property
    def passed(self) -> list[bool]:
        """Whether all checks hold, for each seed."""
        return [
            all(check.holds(check.values[i]) for check in self.checks)
            for i in range(len(self.seeds))
        ]

    @property
    def verdict(self) -> str:
        """On all seeds: reproduced; on some: partly; on none: not reproduced."""
        if all(self.passed) and not self.partial:
            return "reproduced"
        return "partly" if any(self.passed) else "not reproduced"

    @property
    def control(self) -> str:
        """Rejected if a check fails for it on every seed; none without one."""
        checks = [check for check in self.checks if check.control is not None]
        if not checks:
            return "none"
        rejected = (
            any(check.rejects(check.control[i]) for check in checks)
            for i in range(len(self.seeds))
        )
        return "rejected" if all(rejected) else "not rejected"


class Claims:
    """The claims of one notebook under one profile.

    Args:
        notebook: Name of the notebook, such as "01_edge_of_stability".
        profile: Name of the profile.
        folder: Where figures go; by default `figures/`.
    """

    def __init__(self, notebook: str, profile: str, folder: Path | None = None):
        self.folder = (folder or ROOT / "figures") / profile / notebook
        self.claims: dict[str, Claim] = {}

    def add(
        self,
        id: str,
        claim: str,
        source: str,
        checks: Sequence[Check],
        seeds: Sequence[int],
        expected: str = "reproduced",
        note: str = "",
        partial: bool = False,
    ) -> None:
        """Judge a claim.

        Args:
            id: Its fixed id, such as "1.2".
            claim: The statement.
            source: Paper and figure.
            checks: What must hold on every seed; the first one is the headline.
            seeds: The seeds, in the order of the values.
            expected: The verdict that `require` insists on, at least.
            note: Said with the verdict where the claim holds only in part.
            partial: A part of the claim is known not to hold and is not among the checks;
                the note says which. The verdict is "partly" at best.

        Raises:
            ValueError: If the id is taken, the expectation is no verdict, a check does not
                have one value per seed, or a partial claim has no note.
        """
        if id in self.claims:
            raise ValueError(f"claim {id} is already judged")
        if expected not in VERDICTS:
            raise ValueError(f"unknown verdict {expected!r}; choose one of {VERDICTS}")
        if not checks:
            raise ValueError(f"claim {id} has no checks: it could not fail")
        if partial and not note:
            raise ValueError(f"claim {id} is partial: a note must say what does not hold")
        for check in checks:
            if len(check.values) != len(seeds):
                raise ValueError(
                    f"claim {id}, check {check.name!r}: {len(check.values)} values for "
                    f"{len(seeds)} seeds"
                )
        judged = Claim(
            id, claim, source, tuple(checks), tuple(seeds), expected, note, partial
        )
        order = sorted([*self.claims, id], key=_parts)  # whatever the order of the story
        self.claims = {i: judged if i == id else self.claims[i] for i in order}

    @property
    def table(self) -> pd.DataFrame:
        """One row per check: median and range over the seeds, margin, control's median."""
        rows = []
        for claim in self.claims.values():
            for check in claim.checks:
                values = pd.Series(check.values)
                row = {"id": claim.id, "check": check.criterion}
                row |= {"median": values.median(), "low": values.min()}
                row |= {"high": values.max(), "margin": check.margin}
                control = check.control
                row["control"] = pd.Series(control).median() if control else math.nan
                rows.append(row)
        return pd.DataFrame(rows).set_index(["id", "check"]).astype(float).round(3)

    @property
    def summary(self) -> pd.DataFrame:
        """One row per claim, the columns of claims.csv; the numbers are the headline's."""
        rows = []
        for claim in self.claims.values():
            values = pd.Series(claim.checks[0].values)
            text = "; ".join(check.criterion for check in claim.checks)
            numbers = [f"{v:.4g}" for v in (values.median(), values.min(), values.max())]
            row = [claim.id, claim.claim, claim.source, text, *numbers]
            row += [len(claim.seeds), claim.verdict, claim.control]
            rows.append(dict(zip(COLUMNS, row, strict=True)))
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def show(self) -> None:
        """Print verdicts and bands: text that does not depend on the processor."""
        for claim in self.claims.values():
            share = f"{sum(claim.passed)} of {len(claim.seeds)} seeds"
            if claim.verdict == "reproduced":
                share = f"all {len(claim.seeds)} seeds"
            print(f"{claim.id}  {claim.verdict.upper()} ({share}; {_control(claim)})")
            print(_wrapped(f"{claim.claim} [{claim.source}]", "     "))
            for check in claim.checks:
                print(_wrapped(check.criterion, "     - "))
            if claim.note:
                print(_wrapped(claim.note, "     ! "))

    def save(self) -> None:
        """Write claims.csv (a row per claim) and checks.csv (per check and seed)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(self.summary, self.folder / "claims.csv")
        rows = [
            {
                "id": claim.id,
                "check": check.criterion,
                "seed": seed,
                "value": f"{check.values[i]:.6g}",
                "holds": check.holds(check.values[i]),
                "control": f"{check.control[i]:.6g}" if check.control else "",
            }
            for claim in self.claims.values()
            for check in claim.checks
            for i, seed in enumerate(claim.seeds)
        ]
        _write(pd.DataFrame(rows), self.folder / "checks.csv")

    def require(self) -> None:
        """Raise unless every claim is at least as good as expected and controlled.

        Raises:
            AssertionError: Naming the claims that fell short, or whose control passed.
        """
        wrong = [
            f"{claim.id} {claim.verdict} (expected: {claim.expected})"
            for claim in self.claims.values()
            if VERDICTS.index(claim.verdict) > VERDICTS.index(claim.expected)
        ]
        wrong += [
            f"{claim.id}: the control was not rejected"
            for claim in self.claims.values()
            if claim.control == "not rejected"
        ]
        if wrong:
            raise AssertionError("; ".join(wrong))


def _parts(id: str) -> list[tuple[int, str]]:
    """For sorting: 1.9 before 1.10."""
    return [(int(part) if part.isdigit() else 0, part) for part in id.split(".")]


def _wrapped(text: str, start: str) -> str:
    return textwrap.fill(text, 96, initial_indent=start, subsequent_indent=" " * len(start))


def _control(claim: Claim) -> str:
    return "no control" if claim.control == "none" else f"control {claim.control}"


def _write(table: pd.DataFrame, path: Path) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    table.to_csv(partial, index=False)
    os.replace(partial, path)

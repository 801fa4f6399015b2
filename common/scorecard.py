"""The scorecard in README.md: every verdict in `figures/<profile>/*/claims.csv`.

`common.reproduce` renews it after each run; so does its option `--scorecard` alone.
"""

import csv
from collections import Counter
from pathlib import Path

from common import ROOT
from common.claims import VERDICTS

QUICK = "quick"
UNREJECTED = "not rejected"  # as `common.claims` writes it
SHOWS_NOTHING = "control not rejected"
BEGIN, END = "<!-- scorecard:begin -->", "<!-- scorecard:end -->"


class ScorecardError(ValueError):
    """README.md has no place for the scorecard."""


def profiles(root: Path = ROOT) -> list[str]:
    """Name the profiles: quick first, then those with a file."""
    return [QUICK, *sorted(p.stem for p in (root / "notebooks/profiles").glob("*.yml"))]


def read_claims(path: Path) -> list[dict[str, str]]:
    """Read a `claims.csv`."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def outcome(row: dict[str, str]) -> str:
    """The verdict of a claim; a check that its control passes too shows nothing.

    >>> outcome({"verdict": "reproduced", "control": "not rejected"})
    'control not rejected'
    """
    return SHOWS_NOTHING if row["control"] == UNREJECTED else row["verdict"]


def in_words(verdicts: Counter[str]) -> str:
    """Put verdicts in words.

    >>> in_words(Counter({"partly": 1, "reproduced": 8}))
    '9 claims: 8 reproduced, 1 partly'
    """
    parts = [f"{verdicts[v]} {v}" for v in (*VERDICTS, SHOWS_NOTHING) if verdicts[v]]
    total = verdicts.total()
    return f"{total} claim{'s' * (total != 1)}: {', '.join(parts) or 'none'}"


def _table(name: str, results: dict[str, list[dict[str, str]]]) -> str:
    """Lay out one notebook's claims, a verdict column for each profile."""
    by_id: dict[str, dict[str, dict[str, str]]] = {}
    for profile, rows in results.items():
        for row in rows:
            by_id.setdefault(row["id"], {})[profile] = row
    first = next(iter(results))
    head = ["id", "claim", *results, f"headline check ({first}): median [low, high]"]
    lines = [[*head, "control"], ["---"] * (len(head) + 1)]
    for key, rows in by_id.items():
        row = next(iter(rows.values()))
        verdicts = [outcome(rows[p]) if p in rows else "" for p in results]
        seeds = f"{row['seeds']} seed{'s' * (row['seeds'] != '1')}"
        headline = row["criterion"].split(";")[0]
        measured = f"{headline}: {row['measured']} [{row['low']}, {row['high']}], {seeds}"
        lines.append([key, row["claim"], *verdicts, measured, row["control"]])
    cells = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    body = "\n".join(f"| {' | '.join(line)} |" for line in cells)
    return f"**[{name}](notebooks/{name}.ipynb)**\n\n{body}"


def scorecard(root: Path = ROOT) -> str:
    """Return the scorecard, in Markdown, of every `figures/<profile>/*/claims.csv`.

    Runs that were changed with `-p` bear no profile's name and are left out.
    """
    results: dict[str, dict[str, list[dict[str, str]]]] = {}
    totals: dict[str, Counter[str]] = {}
    for profile in profiles(root):
        for path in sorted((root / "figures" / profile).glob("*/claims.csv")):
            rows = read_claims(path)
            results.setdefault(path.parent.name, {})[profile] = rows
            total = totals.setdefault(profile, Counter())
            total.update(outcome(row) for row in rows)
    if not results:
        return "No claims yet: `make figures` writes them."
    summary = "; ".join(f"{profile}: {in_words(n)}" for profile, n in totals.items())
    tables = [_table(name, results[name]) for name in sorted(results)]
    return "\n\n".join([f"**{summary}**", *tables])


def write_whole(path: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    draft = path.with_name(path.name + ".draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def update_readme(root: Path = ROOT) -> None:
    """Renew the scorecard between its two markers in README.md."""
    path = root / "README.md"
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ScorecardError(f"README.md lacks the lines '{BEGIN}' and '{END}'")
    renewed = f"{before}{BEGIN}\n{scorecard(root)}\n{END}{after}"
    if renewed != text:
        write_whole(path, renewed)

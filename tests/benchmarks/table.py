"""The table of the benchmark in README.md, made from `sharpness.csv` alone."""

from pathlib import Path

import pandas as pd

from common.scorecard import write_whole

CSV = Path(__file__).parent / "sharpness.csv"
BOUND = 2e-5  # worst error, over all checkpoints and seeds, of a setting that is compared
BEGIN, END = "<!-- bench:start -->", "<!-- bench:end -->"
OURS = "ours"
UNIT = "gradient"


def read(path: Path = CSV) -> pd.DataFrame:
    """The csv, settings as text."""
    return pd.read_csv(path, dtype={"setting": str}, keep_default_na=False, na_values=[""])


def compared(rows: pd.DataFrame) -> tuple[pd.DataFrame | None, float]:
    """The rows, one a seed, of the cheapest setting within the bound, and its worst error.

    Cheapest by products, which do not depend on the load of the machine; then by CPU time.

    Args:
        rows: All rows of one method on one net for one k.

    Returns:
        None and the smallest worst error of all settings, where none is within the bound
        on every seed.
    """
    seeds, best, cost = rows.seed.nunique(), None, (float("inf"),)
    complete = [
        part
        for _, part in rows.groupby("setting")
        if len(part) == seeds and (part.checkpoints == part.of).all()
    ]
    for part in complete:
        own = part.products_median.mean(), part.cpu_median.median()
        if part.error_max.max() <= BOUND and own < cost:
            best, cost = part.set_index("seed"), own
    if best is None:
        return None, min(part.error_max.max() for _, part in rows.groupby("setting"))
    return best, best.error_max.max()


def _ratio(peer: pd.DataFrame, ours: pd.DataFrame, column: str) -> str:
    ratio = peer[column] / ours[column]
    return f"{ratio.min():.2f} ({ratio.median():.2f})"


def _lines(head: list[str], rows: list[list[str]]) -> str:
    body = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in body)


def render(table: pd.DataFrame) -> str:
    """The two tables in Markdown, the ratios first."""
    table = table[table.method != UNIT]
    groups = {
        (net, k): {m: compared(rows) for m, rows in part.groupby("method", sort=False)}
        for (net, k), part in table.groupby(["net", "k"], sort=False)
    }
    nets = list(table.net.unique())
    groups = dict(sorted(groups.items(), key=lambda g: (nets.index(g[0][0]), g[0][1])))
    methods = sorted(table.method.unique(), key=lambda m: (m != OURS, "publ" not in m, m))
    ratios, numbers = [], []
    for method in methods:
        ratio, number = [method], [method]
        for group in groups.values():
            part, error = group[method]
            ours = group[OURS][0]
            if part is None:
                failed = f"error {error:.1e}" if error > BOUND else "not on every seed"
                ratio.append(failed)
                number.append(failed)
                continue
            if ours is None:
                ratio.append("ours misses the bound")
            else:
                costs = [_ratio(part, ours, f"{c}_median") for c in ("cpu", "products")]
                ratio.append(" · ".join(costs))
            cpu = f"{1e3 * part.cpu_median.median():.3g} ms"
            worth = f"{part.gradients.max():.3g} · {error:.1e} · {part.setting.iloc[0]}"
            number.append(f"{part.products_median.median():g} · {cpu} · {worth}")
        if method != OURS:
            ratios.append(ratio)
        numbers.append(number)
    names = [f"{net}, k = {k}" for net, k in groups]
    first = table.iloc[0]
    return "\n\n".join(
        [
            "How many times our CPU seconds · our Hessian products the others take: "
            "the worst seed for us (the median seed)",
            _lines(["", *names], ratios),
            "Products · CPU time · gradients' worth, worst seed · worst error · setting",
            _lines(["", *names], numbers),
            f"{first.machine}; {first.versions}; {first.date}.",
        ]
    )


def update_readme(path: Path, table: pd.DataFrame) -> None:
    """Renew the tables between their two markers."""
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md lacks the lines '{BEGIN}' and '{END}'")
    write_whole(path, f"{before}{BEGIN}\n{render(table)}\n{END}{after}")

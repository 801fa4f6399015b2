"""The scorecard: laid out from made-up claims, and up to date in the real README.md."""

import csv
import re

import pytest

from common import ROOT
from common.claims import COLUMNS
from common.scorecard import BEGIN, END, ScorecardError, scorecard, update_readme


def write_claims(root, profile, name, verdicts, control="rejected"):
    """A claims.csv with one row for each verdict."""
    folder = root / "figures" / profile / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "claims.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for i, verdict in enumerate(verdicts, start=1):
            numbers = ["1.05", "1.01", "1.1", "3"]
            key = f"{name[:2].lstrip('0')}.{i}"
            rows.writerow([key, f"S | {i}", "s", "k", *numbers, verdict, control])
    return folder / "claims.csv"


def test_the_scorecard_groups_by_notebook_and_counts_by_profile(tmp_path):
    (tmp_path / "notebooks/profiles").mkdir(parents=True)
    (tmp_path / "notebooks/profiles/big.yml").touch()
    assert scorecard(tmp_path) == "No claims yet: `make figures` writes them."
    write_claims(tmp_path, "quick", "01_a", ["reproduced", "partly"])
    write_claims(tmp_path, "quick", "02_b", ["not reproduced"], control="none")
    write_claims(tmp_path, "big", "01_a", ["reproduced"])
    write_claims(tmp_path, "custom", "01_a", ["partly"] * 5)
    assert scorecard(tmp_path).splitlines() == [
        "**quick: 3 claims: 1 reproduced, 1 partly, 1 not reproduced; "
        "big: 1 claim: 1 reproduced**",
        "",
        "**[01_a](notebooks/01_a.ipynb)**",
        "",
        "| id | claim | quick | big | headline check (quick): median [low, high] | "
        "control |",
        "| --- | --- | --- | --- | --- | --- |",
        "| 1.1 | S \\| 1 | reproduced | reproduced | k: 1.05 [1.01, 1.1], 3 seeds "
        "| rejected |",
        "| 1.2 | S \\| 2 | partly |  | k: 1.05 [1.01, 1.1], 3 seeds | rejected |",
        "",
        "**[02_b](notebooks/02_b.ipynb)**",
        "",
        "| id | claim | quick | headline check (quick): median [low, high] | control |",
        "| --- | --- | --- | --- | --- |",
        "| 2.1 | S \\| 1 | not reproduced | k: 1.05 [1.01, 1.1], 3 seeds | none |",
    ]


def test_a_control_that_is_not_rejected_is_not_a_reproduction(tmp_path):
    write_claims(tmp_path, "quick", "01_a", ["reproduced"], control="not rejected")
    lines = scorecard(tmp_path).splitlines()
    assert lines[0] == "**quick: 1 claim: 1 control not rejected**"
    assert "| control not rejected |" in lines[-1] and "reproduced" not in lines[-1]


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}\n{BEGIN}"])
def test_a_readme_without_markers_is_an_error(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(ScorecardError, match="README.md lacks"):
        update_readme(tmp_path)
    assert (tmp_path / "README.md").read_text() == text


def test_only_what_is_between_the_markers_is_renewed(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nThe end.\n")
    write_claims(tmp_path, "quick", "01_a", ["partly"])
    for _ in range(2):
        update_readme(tmp_path)
        expected = f"# Title\n\n{BEGIN}\n{scorecard(tmp_path)}\n{END}\n\nThe end.\n"
        assert readme.read_text() == expected
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "figures"}


def test_the_committed_scorecard_is_up_to_date():
    found = re.search(f"{BEGIN}\n(.*)\n{END}", (ROOT / "README.md").read_text(), re.S)
    assert found and found[1] == scorecard(), "run: python -m common.reproduce --scorecard"

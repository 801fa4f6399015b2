"""The README's code runs as printed, and its links exist."""

import re

import pytest

from common import ROOT

TEXT = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_there_is_a_snippet_for_optimizer_model_and_data():
    assert len(SNIPPETS) == 3


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippets_run_and_print_numbers(snippet, capsys):
    exec(compile(snippet, "README.md", "exec"), {"__name__": "readme"})
    assert re.search(r"\d", capsys.readouterr().out)


def test_snippets_are_short():
    assert all(len(s.strip().splitlines()) <= 18 for s in SNIPPETS)


def test_links_exist():
    links = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_nothing_is_left_to_fill_in():
    assert "@@" not in TEXT

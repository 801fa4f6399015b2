"""What every committed notebook keeps to, and proof that the checks can fail."""

import ast
import copy
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_output

from common import ROOT
from common.reproduce import normalise

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CHECKED = "nbval-check-output"
FOLDERS = "home root tmp work Users private opt mnt var".split()
MACHINE_PATH = re.compile(rf"(?<![\w.:/~-])/(?:{'|'.join(FOLDERS)})/|\b[A-Z]:\\\w")
LONGEST_LINE, LONGEST_FUNCTION, LARGEST_FILE = 100, 8, 2_000_000

each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code(nb: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def tagged(nb: NotebookNode, tag: str) -> list[NotebookNode]:
    return [cell for cell in nb.cells if tag in cell.metadata.get("tags", [])]


def outputs(cells: list[NotebookNode], **wanted: str) -> list[NotebookNode]:
    found = [output for cell in cells for output in cell.get("outputs", [])]
    return [o for o in found if all(o.get(k) == v for k, v in wanted.items())]


def functions(nb: NotebookNode) -> list[ast.FunctionDef]:
    trees = [ast.parse(cell.source) for cell in code(nb)]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return [n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def is_literal(statement: ast.stmt) -> bool:
    try:
        ast.literal_eval(statement.value)
    except (AttributeError, ValueError):
        return False
    return isinstance(statement, ast.Assign)


def imports(nb: NotebookNode) -> set[str]:
    nodes = [node for cell in code(nb) for node in ast.walk(ast.parse(cell.source))]
    names = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
    names += [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)]
    return {name.split(".")[0] for name in names}


def calls_require(cell: NotebookNode) -> bool:
    calls = [n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Call)]
    return "require" in [getattr(call.func, "attr", "") for call in calls]


def lines(nb: NotebookNode) -> list[str]:
    """All that a reader sees as text, save tables and links, which cannot be broken."""
    found = [line for cell in nb.cells for line in cell.source.splitlines()]
    found += [x for o in outputs(nb.cells) for x in o.get("text", "").splitlines()]
    return [line for line in found if not re.match(r"\s*\|", line) and "://" not in line]


def was_normalised(nb: NotebookNode) -> bool:
    try:
        return normalise(nb) == nb
    except ValueError:
        return False


def text_of(nb: NotebookNode) -> str:
    """Sources and textual outputs; the bytes of a picture may look like anything."""
    parts = [cell.source for cell in nb.cells]
    for output in outputs(nb.cells):
        parts += [output.get("text", ""), *output.get("traceback", [])]
        data = output.get("data", {}).items()
        parts += [str(v) for kind, v in data if not kind.startswith("image/")]
    return "\n".join(parts)


def violations(nb: NotebookNode) -> list[str]:
    """The parts of the contract that a notebook breaks, in words."""
    cells, parameters = code(nb), tagged(nb, "parameters")
    results = tagged(nb, CHECKED)
    stdout = "".join(o.text for o in outputs(results, name="stdout"))
    counts = [cell.execution_count for cell in cells]
    literals = [is_literal(s) for c in parameters for s in ast.parse(c.source).body]
    contract = {
        "executed from top to bottom": counts == [*range(1, len(cells) + 1)],
        "normalised": was_normalised(nb),
        "one cell tagged parameters": len(parameters) == 1,
        "parameters are literals": all(literals),
        "parameters hold profile = 'quick'": [
            s
            for c in parameters
            for s in c.source.splitlines()
            if re.match(r"profile = ['\"]quick['\"]", s)
        ],
        "one checked cell": len(results) == 1,
        "the checked cell prints": stdout.strip(),
        "no stderr": not outputs(nb.cells, name="stderr"),
        "no errors": not outputs(nb.cells, output_type="error"),
        "no path of a machine": not MACHINE_PATH.search(text_of(nb)),
        "short lines": all(len(line) <= LONGEST_LINE for line in lines(nb)),
        "short functions": all(
            f.end_lineno - f.lineno < LONGEST_FUNCTION for f in functions(nb)
        ),
        "imports common": "common" in imports(nb),
        "last cell requires its claims": cells and calls_require(cells[-1]),
    }
    return [rule for rule, kept in contract.items() if not kept]


def test_there_are_notebooks():
    assert PATHS, "without a notebook every other test here is empty"


@each_notebook
def test_the_contract_is_kept(path):
    assert violations(read(path)) == []
    assert path.stat().st_size < LARGEST_FILE


def test_an_independent_tool_finds_them_normalised(tmp_path):
    copies = [Path(shutil.copy(path, tmp_path)) for path in PATHS]
    keys = "metadata.papermill cell.metadata.papermill cell.metadata.execution"
    keep = ["--keep-output", "--keep-count", "--keep-id", "--extra-keys", keys]
    subprocess.run([sys.executable, "-m", "nbstripout", *keep, *copies], check=True)
    for clean, path in zip(copies, PATHS, strict=True):
        assert read(clean).cells == read(path).cells


def test_no_function_is_defined_in_two_notebooks():
    names = Counter(name for p in PATHS for name in {f.name for f in functions(read(p))})
    assert [name for name, count in names.items() if count > 1] == []


@each_notebook
def test_claims_and_the_numbers_behind_each_figure_are_committed(path):
    folder = ROOT / "figures/quick" / path.stem
    assert (folder / "claims.csv").is_file()
    figures = sorted(folder.glob("*.png"))
    assert figures
    source = "\n".join(cell.source for cell in code(read(path)))
    for figure in figures:
        assert figure.stem in source, f"{figure.name} is not made by the notebook"
        numbers = [figure.with_suffix(end) for end in (".csv", ".csv.gz")]
        assert any(file.is_file() for file in numbers), f"no csv beside {figure.name}"


@each_notebook
def test_the_index_lists_it(path):
    assert f"]({path.name})" in (ROOT / "notebooks/README.md").read_text()


# The contract is held against a notebook that keeps it, and against single breaches.


@pytest.fixture
def good(tmp_path, write_notebook) -> NotebookNode:
    """An executed notebook that keeps the contract."""
    cells = [
        ("import common\nfrom unittest.mock import Mock", ""),
        ('profile = "quick"  # folder\nsteps = [1, -2e-3]  # none', "parameters"),
        ("def f(x):\n    return x + 1", ""),
        (
            'print("1.1", "reproduced" if f(1) == 2 else "partly")\n_ = Mock().require()',
            CHECKED,
        ),
    ]
    nb = normalise(read(write_notebook(tmp_path / "01_good.ipynb", cells)))
    nb.cells[-1].outputs = [new_output("stream", name="stdout", text="1.1 reproduced\n")]
    return nb


def change_source(index, source):
    return lambda nb: nb.cells[index].update(source=source)


def add_output(kind, **content):
    return lambda nb: nb.cells[2].outputs.append(new_output(kind, **content))


HOME = "/" + "home/someone/x.py"
BREACHES = {
    "executed from top to bottom": lambda nb: nb.cells[0].update(execution_count=2),
    "normalised": lambda nb: nb.metadata.update(papermill={"duration": 1}),
    "one cell tagged parameters": lambda nb: nb.cells[1].update(metadata={}),
    "parameters are literals": change_source(1, 'profile = "quick"\nx = 2 * 3'),
    "parameters hold profile = 'quick'": change_source(1, 'profile = "paper"'),
    "one checked cell": lambda nb: nb.cells[2].metadata.update(tags=[CHECKED]),
    "the checked cell prints": lambda nb: nb.cells[-1].update(outputs=[]),
    "no stderr": add_output("stream", name="stderr", text="50 %"),
    "no errors": add_output("error", ename="E", evalue="", traceback=[]),
    "no path of a machine": add_output("stream", name="stdout", text=HOME),
    "short lines": change_source(2, "x = 1  # " + "x" * 92),
    "short functions": change_source(2, "def f(x):\n" + "    x += 1\n" * 8),
    "imports common": change_source(0, "import uncommon"),
    "last cell requires its claims": lambda nb: nb.cells.append(
        new_code_cell("1  # claims.require()", execution_count=5)
    ),
}


def test_a_good_notebook_breaks_nothing(good):
    assert violations(good) == []


@pytest.mark.parametrize("rule", BREACHES)
def test_each_breach_of_the_contract_is_found(rule, good):
    BREACHES[rule](good)
    assert rule in violations(good)


def test_injected_parameters_and_stripped_counts_are_breaches(good):
    injected, stripped = copy.deepcopy(good), copy.deepcopy(good)
    injected.cells[2].metadata["tags"] = ["injected-parameters"]
    assert "normalised" in violations(injected)
    for cell in stripped.cells:  # nbval passes over such cells in silence
        cell.execution_count = None
    assert "executed from top to bottom" in violations(stripped)


@pytest.mark.parametrize("text", [HOME, "C:" + "\\Users", "'/" + "tmp/a'"])
def test_paths_of_machines_are_recognised(text):
    assert MACHINE_PATH.search(text)


@pytest.mark.parametrize(
    "text", [f"d/{'tmp'}/x", "https://a.org/home/x", "2/eta", "E: \\x"]
)
def test_other_slashes_are_not(text):
    assert not MACHINE_PATH.search(text)


def nbval(path: Path) -> subprocess.CompletedProcess[str]:
    """Run nbval on one notebook as `make test` does."""
    env = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}
    flags = ["--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider", "-q"]
    command = [sys.executable, "-m", "pytest", *flags, "--color=no", path.name]
    return subprocess.run(
        command, cwd=path.parent, env=env, capture_output=True, text=True, timeout=300
    )


def test_nbval_passes_true_verdicts_and_fails_a_changed_one(good, tmp_path):
    good.cells[0].source = "from unittest.mock import Mock"
    path = tmp_path / "01_true.ipynb"
    nbformat.write(good, path)
    result = nbval(path)
    assert result.returncode == 0, result.stdout
    assert "4 passed" in result.stdout
    (stored,) = good.cells[-1].outputs
    stored.text = stored.text.replace("reproduced", "not reproduced")
    path = tmp_path / "01_changed.ipynb"
    nbformat.write(good, path)
    result = nbval(path)
    assert result.returncode == 1
    assert "FAILED 01_changed.ipynb::Cell 3" in result.stdout
    assert "1 failed, 3 passed" in result.stdout

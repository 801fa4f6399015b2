"""The runner on tiny notebooks of its own: one real run, and requests that stop it."""

import base64
import contextlib
import csv
import io
import os
import re
import time

import joblib
import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from common.claims import COLUMNS
from common.reproduce import (
    RequestError,
    coerce,
    defaults,
    main,
    normalise,
    notebooks,
    plan,
)
from common.scorecard import BEGIN, END, profiles, scorecard

PARAMETERS = """\
profile = "quick"  # name of the figures' folder
eta = 0.1  # step size
seeds = [0, 1]  # one run each
"""
WRITE_CLAIMS = """\
import os
from pathlib import Path
folder = Path("../figures") / profile / NAME
folder.mkdir(parents=True, exist_ok=True)
row = f"1.1,c,s,k,{eta},{eta},{eta},{len(seeds)},reproduced,rejected"
(folder / "claims.csv").write_text(HEAD + "\\n" + row + "\\n")
print(os.environ["EOS_ATLAS_JOBS"], os.environ["TQDM_DISABLE"],
      os.environ.get("MPLBACKEND"), Path.cwd().name)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory, write_notebook):
    """A repository of four notebooks: good, failing, without claims, and untouched."""
    root = tmp_path_factory.mktemp("repository")
    body = f'NAME = "01_good"\nHEAD = "{",".join(COLUMNS)}"\n{WRITE_CLAIMS}'
    bodies = {
        "01_good": body,
        "02_failing": 'raise RuntimeError("a claim does not hold")',
        "03_silent": "",
        "04_other": "",
    }
    for name, source in bodies.items():
        path = root / "notebooks" / f"{name}.ipynb"
        write_notebook(path, [(PARAMETERS, "parameters"), (source or "pass", "")])
    folder = root / "notebooks/profiles"
    folder.mkdir()
    (folder / "big.yml").write_text(
        '"01": {profile: big, eta: 1, seeds: [4, 5, 6]}\n"02":\n"03": {eta: 2e-1}\n'
    )
    (folder / "typo.yml").write_text('"01": {etaa: 1.0}\n')
    (folder / "kind.yml").write_text('"01": {seeds: 3}\n')
    (folder / "lost.yml").write_text('"09": {eta: 1.0}\n')
    (folder / "alias.yml").write_text('"01": {profile: quick}\n')
    (root / "README.md").write_text(f"# Title\n\n{BEGIN}\n{END}\n\nThe end.\n")
    return root


@pytest.fixture(scope="module")
def big(root):
    """The one real run: `--profile big`, three kernels."""
    stale = root / "figures/big/03_silent/claims.csv"
    stale.parent.mkdir(parents=True)
    row = "3.1,c,s,k,1,1,1,3,reproduced,rejected"
    stale.write_text(f"{','.join(COLUMNS)}\n{row}\n")
    long_ago = time.time() - 3600
    os.utime(stale, (long_ago, long_ago))
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as printed,
    ):
        patch.delenv("EOS_ATLAS_JOBS", raising=False)
        code = main(["--profile", "big"], root=root, build=root / "build")
    return code, printed.getvalue()


def executed(root, name):
    return nbformat.read(root / f"build/notebooks/big/{name}.ipynb", as_version=4)


def test_profile_parameters_reach_the_notebook_with_the_defaults_types(root, big):
    with (root / "figures/big/01_good/claims.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["measured"], row["seeds"]) == ("1.0", "3")


def test_notebooks_side_by_side_share_the_cores_and_keep_their_figures(root, big):
    jobs, no_bars, backend, cwd = (
        executed(root, "01_good").cells[-1].outputs[0].text.split()
    )
    assert int(jobs) == max(1, joblib.cpu_count() // 2)
    assert (no_bars, cwd) == ("1", "notebooks")
    assert os.environ["MPLBACKEND"] == "agg" and backend.endswith("backend_inline")


def test_a_failing_notebook_is_kept_and_does_not_stop_the_others(root, big):
    assert big[0] == 1
    errors = [o for c in executed(root, "02_failing").cells for o in c.get("outputs", [])]
    assert "RuntimeError" in [output.get("ename") for output in errors]
    assert executed(root, "01_good").cells[-1].execution_count


def test_the_summary_names_failures_stale_claims_and_what_was_skipped(root, big):
    _, printed = big
    assert "04_other: skipped, profile 'big' has no entry for it" in printed
    assert "FAILED 02_failing: RuntimeError: a claim does not hold" in printed
    assert "FAILED 03_silent: no claims written" in printed  # those of an hour ago
    line = next(x for x in printed.splitlines() if x.startswith("01_good "))
    assert line.endswith("1 claim: 1 reproduced  figures/big/01_good/")
    cpu = float(re.search(r"([0-9.]+) CPU s", line)[1])
    assert cpu > 0.5, "the kernel's CPU time is counted"


def test_the_scorecard_in_the_readme_follows_a_run(root, big):
    text = (root / "README.md").read_text()
    assert text.startswith("# Title") and text.endswith("The end.\n")
    assert scorecard(root) in text and "1.0 [1.0, 1.0], 3 seeds" in text


@pytest.mark.parametrize(
    "argv, named",
    [
        (
            ["--notebooks", "01_god"],
            ["'01_god'", "did you mean '01_good'", "02_failing"],
        ),
        (["--notebooks", "01,7"], ["'7'", "valid: 01_good, 02_failing"]),
        (["--profile", "bigg"], ["did you mean 'big'", "quick"]),
        (
            ["--profile", "typo"],
            ["'etaa'", "did you mean 'eta'", "profile, eta, seeds"],
        ),
        (["--profile", "kind"], ["'seeds'", "wants list like [0, 1], not int 3"]),
        (["--profile", "lost"], ["notebook in lost.yml '09'", "valid: 01"]),
        (["--profile", "alias"], ["alias.yml", "'profile' of 01 is not 'alias'"]),
        (["--profile", "big", "--notebooks", "04"], ["nothing to run", "01, 02, 03"]),
        (["-p", "etta", "1"], ["'etta'", "did you mean 'eta'"]),
        (["-p", "eta", "fast"], ["'eta'", "wants float like 0.1, not str 'fast'"]),
        (["-p", "seeds", "[0.5]"], ["'seeds'", "wants int like 0, not float 0.5"]),
        (["-p", "eta", "[1"], ["-p eta: '[1' is not YAML"]),
        (["-p", "profile", "big"], ["kept for runs without -p"]),
        (["--inplace", "--profile", "big"], ["--inplace stores the defaults"]),
        (["--inplace", "-p", "eta", "1"], ["--inplace stores the defaults"]),
    ],
)
def test_a_wrong_request_stops_before_anything_ran(root, argv, named, capsys, monkeypatch):
    monkeypatch.setattr("common.reproduce.run", None)  # a run would raise TypeError
    assert main(argv, root=root, build=root / "nowhere") == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert [text for text in named if text not in message] == []
    assert not (root / "nowhere").exists()


def test_runs_changed_by_p_never_bear_a_profiles_name(root):
    (job,), skipped = plan(["01"], given=[("eta", "1e-3")], root=root)
    assert job.parameters == {"eta": 0.001, "profile": "custom"}
    assert (job.figures, skipped) == (root / "figures/custom/01_good", [])
    given = [("profile", "mine")]
    (job,), skipped = plan(["04", "01_good"], "big", given, root=root)
    assert job.parameters == {"eta": 1.0, "seeds": [4, 5, 6], "profile": "mine"}
    assert (job.figures, skipped) == (root / "figures/mine/01_good", ["04_other"])


def test_quick_injects_nothing(root):
    jobs, skipped = plan(root=root)
    assert [job.parameters for job in jobs] == [{}] * 4 and skipped == []


def test_a_value_takes_the_type_of_its_default():
    assert coerce(None, "x") == "x"
    assert coerce([1, "a"], [2.5]) == [2.5]  # mixed: anything goes
    assert coerce([(1, 0.5)], [[2, 1]]) == [[2, 1]]
    assert coerce((0.5,), []) == []
    for default, value in [
        (1, True),
        (True, 1),
        (1, 0.5),
        ("a", 1),
        ({}, []),
        (0.1, None),
    ]:
        with pytest.raises(TypeError, match="wants"):
            coerce(default, value)


def test_the_parameters_cell_is_there_once(tmp_path, write_notebook):
    path = write_notebook(tmp_path / "01_a.ipynb", [("x = 1", "")])
    with pytest.raises(RequestError, match="0 cells tagged 'parameters'"):
        defaults(path)


@pytest.mark.parametrize("text", ["Nothing.\n", f"# Title\n{BEGIN}\n{END}\n"])
def test_the_scorecard_alone(tmp_path, text, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    if BEGIN in text:
        assert main(["--scorecard"], root=tmp_path) == 0
        assert scorecard(tmp_path) in readme.read_text()
    else:
        assert main(["--scorecard"], root=tmp_path) == 2
        assert readme.read_text() == text
        assert "README.md lacks" in capsys.readouterr().err


def test_inplace_stores_the_outputs_of_successes_only(root, monkeypatch, capsys):
    from common import reproduce

    jobs, _ = plan(["03", "04"], root=root, build=root / "build")
    before = {job.name: job.notebook.read_text() for job in jobs}

    def fake(job, *_):
        nb = nbformat.read(job.notebook, as_version=4)
        nb.cells[-1].outputs = [nbformat.v4.new_output("stream", text="fresh")]
        job.executed.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, job.executed)
        problem = "no claims written" if job.name == "04_other" else None
        return reproduce.Outcome(job, problem)

    monkeypatch.setattr(reproduce, "run", fake)
    code = main(["--inplace", "--notebooks", "03,04"], root, root / "build")
    assert code == 1 and "FAILED 04_other: no claims written" in capsys.readouterr().out
    assert "fresh" in jobs[0].notebook.read_text()
    assert jobs[1].notebook.read_text() == before["04_other"]
    jobs[0].notebook.write_text(before["03_silent"])


def test_normalise_keeps_results_and_drops_the_traces_of_a_run(write_notebook, tmp_path):
    path = write_notebook(tmp_path / "01_a.ipynb", [("x = 1", "parameters"), ("x", "")])
    nb = nbformat.read(path, as_version=4)
    ids = [cell.id for cell in nb.cells]
    nb.metadata.papermill = {"duration": 3.2}
    nb.metadata.language_info = {"name": "python", "version": "3.12.9"}
    result, stream = nbformat.v4.new_output, nbformat.v4.new_output
    for count, cell in zip([7, 9], nb.cells, strict=True):
        cell.metadata.papermill = {"start_time": "now"}
        cell.metadata.setdefault("tags", [])
        cell.execution_count = count
    nb.cells[1].outputs = [
        stream("stream", name="stdout", text="a"),
        stream("stream", name="stdout", text="b\n"),
        result("execute_result", {"text/plain": "1"}, execution_count=9),
    ]
    clean = normalise(nb)
    nbformat.validate(clean)
    assert [cell.id for cell in clean.cells] == ids
    assert [cell.metadata for cell in clean.cells] == [{"tags": ["parameters"]}, {}]
    assert [cell.execution_count for cell in clean.cells] == [1, 2]
    assert clean.metadata.kernelspec.name == "python3"
    assert "papermill" not in clean.metadata and "version" not in str(clean.metadata)
    assert [o.get("text") for o in clean.cells[1].outputs] == ["ab\n", None]
    assert clean.cells[1].outputs[1].execution_count == 2
    assert normalise(clean) == clean
    assert nb.cells[1].execution_count == 9, "the argument is left alone"
    nb.cells[0].metadata.tags = ["injected-parameters"]
    with pytest.raises(ValueError, match="injected"):
        normalise(nb)


def test_the_committed_profiles_fit_the_committed_notebooks():
    assert notebooks()
    for profile in profiles():
        assert plan(profile=profile)[0]


@pytest.mark.parametrize(
    ("count", "at_once", "expected"),
    [(1, 2, [8]), (2, 2, [4, 4]), (3, 2, [4, 4, 8]), (4, 3, [2, 2, 2, 8]), (2, 1, [8, 8])],
)
def test_the_last_notebooks_get_the_cores_that_are_free(
    count, at_once, expected, monkeypatch
):
    from common import reproduce

    monkeypatch.setattr(reproduce, "cpu_count", lambda: 8)
    monkeypatch.setattr(reproduce, "run", lambda job, workers, position: (job, workers))
    found = reproduce.run_all([*range(count)], at_once)
    assert found == list(zip(range(count), expected, strict=True))


def test_pictures_in_a_notebook_keep_256_colours(write_notebook, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    png = io.BytesIO()
    Image.fromarray(noise).save(png, "PNG")
    text = base64.b64encode(png.getvalue()).decode()
    cell = new_code_cell("1")
    cell.outputs = [new_output("display_data", {"image/png": text, "text/plain": "x"})]
    clean = normalise(new_notebook(cells=[cell]))
    kept = clean.cells[0].outputs[0].data
    picture = Image.open(io.BytesIO(base64.b64decode(kept["image/png"])))
    assert (picture.mode, picture.size, kept["text/plain"]) == ("P", (60, 40), "x")
    assert len(kept["image/png"]) < len(text)
    assert normalise(clean) == clean

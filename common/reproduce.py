"""Run the notebooks and renew the scorecard: `python -m common.reproduce --help`.

Papermill runs each notebook in a process of its own, with the parameters of a profile
(`notebooks/profiles/<profile>.yml`; `quick` stands for the defaults in the notebooks).
Whatever can be wrong with a request is found before anything runs: papermill itself
takes a misspelt parameter for a new one. Only the Makefile calls this module.
"""

import argparse
import ast
import base64
import contextlib
import copy
import difflib
import io
import os
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import yaml
from joblib import cpu_count
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from common import BUILD, ROOT, scorecard
from common.scorecard import QUICK, in_words, outcome, profiles

CUSTOM = "custom"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


class RequestError(ValueError):
    """A request that cannot be run; the message says what would be valid."""


@dataclass(frozen=True)
class Job:
    """One notebook to run: what is injected, and where its results go."""

    notebook: Path
    parameters: dict[str, Any]
    executed: Path
    figures: Path

    @property
    def name(self) -> str:
        """The file name without its ending, such as `01_edge_of_stability`."""
        return self.notebook.stem


@dataclass(frozen=True)
class Outcome:
    """What became of a job: `problem` is None for a success, times in seconds."""

    job: Job
    problem: str | None
    verdicts: Counter[str] = field(default_factory=Counter)
    cpu: float = 0.0
    wall: float = 0.0


def _unknown(kind: str, name: str, valid: Iterable[str]) -> RequestError:
    """Build the error for a name that does not exist, with the closest one that does.

    >>> print(_unknown("parameter", "lrr", ["lr", "steps"]))
    unknown parameter 'lrr', did you mean 'lr'? valid: lr, steps
    """
    valid = list(valid)
    close = difflib.get_close_matches(name, valid, n=1)
    hint = f", did you mean '{close[0]}'?" if close else ";"
    return RequestError(f"unknown {kind} '{name}'{hint} valid: {', '.join(valid)}")


def notebooks(root: Path = ROOT) -> dict[str, Path]:
    """Find the notebooks, by number: `{"01": .../01_edge_of_stability.ipynb}`."""
    found = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    return {path.stem[:2]: path for path in found}


def defaults(notebook: Path) -> dict[str, Any]:
    """Read names and values from the cell tagged `parameters`; it holds literals."""
    cells = nbformat.read(notebook, as_version=4).cells
    tagged = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise RequestError(f"{notebook.name}: {len(tagged)} cells tagged 'parameters'")
    values = {}
    for node in ast.parse(tagged[0].source).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                values[name] = ast.literal_eval(value)
    return values


def coerce(default: Any, value: Any) -> Any:
    """Return a value as the type of its default, or raise TypeError.

    An integer may stand for a float, and so may `1e-3`, which YAML reads as text. In a
    list each item is held against the default's items, if those are all of one type.

    >>> coerce(0.1, 1), coerce(0.1, "1e-3"), coerce([0.5], [1, 2])
    (1.0, 0.001, [1.0, 2.0])
    """
    if default is None:
        return value
    if isinstance(default, list | tuple) and isinstance(value, list):
        uniform = len({type(item) for item in default}) == 1
        return [coerce(default[0], item) for item in value] if uniform else value
    if type(default) is float and type(value) in (int, str):
        with contextlib.suppress(ValueError):
            return float(value)
    if type(value) is not type(default):
        wanted, got = type(default).__name__, type(value).__name__
        raise TypeError(f"wants {wanted} like {default!r}, not {got} {value!r}")
    return value


def load_profile(profile: str, root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """Read a profile: notebook number -> parameters, with `profile` among them."""
    if profile not in profiles(root):
        raise _unknown("profile", profile, profiles(root))
    if profile == QUICK:
        return {number: {} for number in notebooks(root)}
    path = root / "notebooks/profiles" / f"{profile}.yml"
    content = yaml.safe_load(path.read_text()) or {}
    entries = {str(number).zfill(2): dict(v or {}) for number, v in content.items()}
    for number, entry in entries.items():
        if number not in notebooks(root):
            raise _unknown(f"notebook in {path.name}", number, notebooks(root))
        if entry.setdefault("profile", profile) != profile:
            raise RequestError(f"{path.name}: 'profile' of {number} is not '{profile}'")
    return entries


def _checked(notebook: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with the defaults' types, or say which name or type is off."""
    known, checked = defaults(notebook), {}
    for name, value in values.items():
        if name not in known:
            raise _unknown(f"parameter of {notebook.name}", name, known)
        try:
            checked[name] = coerce(known[name], value)
        except TypeError as error:
            message = f"parameter '{name}' of {notebook.name} {error}"
            raise RequestError(message) from None
    return checked


def _override(given: Sequence[Sequence[str]], root: Path) -> dict[str, Any]:
    """Parse the pairs of `-p`; changed runs never take the name of a profile."""
    values = {}
    for name, text in given:
        try:
            values[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise RequestError(f"-p {name}: '{text}' is not YAML") from None
    if values and str(values.setdefault("profile", CUSTOM)) in profiles(root):
        message = f"-p profile {values['profile']}: that name is kept for runs without"
        raise RequestError(f"{message} -p; give the changed run a name of its own")
    return values


def plan(
    wanted: Sequence[str] = (),
    profile: str = QUICK,
    given: Sequence[Sequence[str]] = (),
    root: Path = ROOT,
    build: Path = BUILD,
) -> tuple[list[Job], list[str]]:
    """Check a request completely and return its jobs and the notebooks it skips.

    Args:
        wanted: Notebook numbers or names; all of them when empty.
        profile: A profile's name.
        given: Pairs (name, YAML text) that override the profile.
        root: The repository.
        build: Where executed notebooks go, under `notebooks/<profile>/`.
    """
    known = notebooks(root)
    numbers = {path.stem: number for number, path in known.items()}
    chosen = [numbers.get(name, name) for name in wanted] or list(known)
    for name in chosen:
        if name not in known:
            raise _unknown("notebook", name, [p.stem for p in known.values()])
    entries, override = load_profile(profile, root), _override(given, root)
    jobs, skipped = [], [known[n].stem for n in chosen if n not in entries]
    for number in dict.fromkeys(n for n in chosen if n in entries):
        path = known[number]
        values = _checked(path, entries[number] | override)
        where = str(values.get("profile", QUICK))
        executed = build / "notebooks" / where / path.name
        jobs.append(Job(path, values, executed, root / "figures" / where / path.stem))
    if not jobs:
        raise RequestError(f"nothing to run: '{profile}' has {', '.join(entries)}")
    return jobs, skipped


def _papermill(job: Job, workers: int) -> subprocess.Popen[str]:
    """Start papermill on a job, in the notebook's folder and without `MPLBACKEND`."""
    job.executed.parent.mkdir(parents=True, exist_ok=True)
    job.executed.unlink(missing_ok=True)
    env = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}
    env |= {"TQDM_DISABLE": "1"}  # bars inside a notebook would end up in its outputs
    env.setdefault("EOS_ATLAS_JOBS", str(workers))
    command = [sys.executable, "-m", "papermill", str(job.notebook), str(job.executed)]
    command += ["--cwd", str(job.notebook.parent), "--kernel", "python3"]
    command += ["--log-output", "--no-progress-bar"]
    if job.parameters:
        command += ["-y", yaml.safe_dump(job.parameters)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, env=env, text=True, errors="replace", **pipes)


def _error(job: Job, log: Iterable[str]) -> str:
    """Say why papermill failed: the notebook's own error, else its last line."""
    if job.executed.exists():
        for cell in nbformat.read(job.executed, as_version=4).cells:
            for output in cell.get("outputs", []):
                if output.output_type == "error":
                    return f"{output.ename}: {output.evalue}".splitlines()[0]
    return next((line.strip() for line in reversed(list(log)) if line.strip()), "?")


def run(job: Job, workers: int, position: int = 0) -> Outcome:
    """Run one notebook; its CPU time includes the kernel and the workers it reaped."""
    cells, log = len(nbformat.read(job.notebook, as_version=4).cells), deque(maxlen=20)
    start = time.time()
    quiet = not sys.stderr.isatty()
    with tqdm(total=cells, desc=job.name, position=position, disable=quiet) as bar:
        process = _papermill(job, workers)
        for line in process.stdout or ():
            log.append(line)
            bar.update("Ending Cell" in line)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    problem = _error(job, log) if process.returncode else None
    claims = job.figures / "claims.csv"
    # the clock of the file system ticks every few milliseconds
    fresh = claims.exists() and claims.stat().st_mtime > start - 0.05
    rows = scorecard.read_claims(claims) if fresh else []
    verdicts = Counter(outcome(row) for row in rows)
    if not problem and not fresh:
        problem = "no claims written"
    wall = time.time() - start
    if quiet:
        tqdm.write(f"{job.name}: {problem or 'done'}, {wall:.0f} s", file=sys.stderr)
    return Outcome(job, problem, verdicts, usage.ru_utime + usage.ru_stime, wall)


def run_all(jobs: Sequence[Job], at_once: int = 2) -> list[Outcome]:
    """Run the jobs side by side; together their kernels use the machine's cores."""
    at_once = max(1, min(at_once, len(jobs)))
    alone = len(jobs) % at_once  # so many run last, with the cores of the others
    beside = [at_once] * (len(jobs) - alone) + [alone] * alone
    workers = [max(1, cpu_count() // n) for n in beside]
    with ThreadPoolExecutor(at_once) as pool:  # threads only wait for the processes
        return list(pool.map(run, jobs, workers, range(len(jobs))))


def normalise(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a copy without what changes from run to run: `git diff` shows results.

    Pictures keep 256 colours, which halves a notebook; those in `figures/` keep all.

    Raises:
        ValueError: A cell was injected, so these are not the notebook's own values.
    """
    nb = copy.deepcopy(nb)
    nb.metadata = nbformat.from_dict(METADATA)
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    for cell in nb.cells:
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            raise ValueError("the notebook holds injected parameters")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
    for count, cell in enumerate(code, start=1):
        cell.execution_count, outputs = count, []
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = _small(data["image/png"])
            last = outputs[-1] if outputs else {}
            if output.output_type == "stream" and last.get("name") == output.name:
                last.text += output.text  # where a stream is cut is a matter of timing
            else:
                outputs.append(output)
        cell.outputs = outputs
    return nb


def _small(png: str) -> str:
    """A picture (PNG, base64) with 256 colours; itself if it has no more, or is none."""
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(png)))
    except (UnidentifiedImageError, ValueError):
        return png
    if picture.mode == "P":
        return png
    small = io.BytesIO()
    picture.convert("RGB").quantize(256).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def _report(outcomes: Sequence[Outcome], root: Path) -> None:
    """Print one line for each notebook and one for each failure."""
    width = max(len(outcome.job.name) for outcome in outcomes)
    for o in outcomes:
        times = f"{o.cpu:6.1f} CPU s {o.wall:6.1f} s"
        found = f"{in_words(o.verdicts)}  {o.job.figures.relative_to(root)}/"
        print(f"{o.job.name:{width}} {times}  {found}")
    for o in outcomes:
        if o.problem:
            print(f"FAILED {o.job.name}: {o.problem}\n  see {o.job.executed}")


def _parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser("python -m common.reproduce", description=__doc__)
    add = parser.add_argument
    add("--notebooks", default="", help="numbers or names, as in 01,03 (default: all)")
    add("--profile", default=QUICK, help="quick, or a file in notebooks/profiles")
    add("--jobs", type=int, default=2, help="notebooks at a time (default: 2)")
    add("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    add("--inplace", action="store_true", help="store the outputs in notebooks/")
    add("--scorecard", action="store_true", help="only renew the one in README.md")
    return parser


def main(argv: Sequence[str] | None = None, root: Path = ROOT, build: Path = BUILD) -> int:
    """Run the command; return 0, 1 when a notebook failed, 2 when nothing could run."""
    args = _parser().parse_args(argv)
    try:
        if args.scorecard:
            scorecard.update_readme(root)
            return 0
        if args.inplace and (args.p or args.profile != QUICK):
            raise RequestError("--inplace stores the defaults: no -p, no --profile")
        wanted = [name for name in args.notebooks.split(",") if name]
        jobs, skipped = plan(wanted, args.profile, args.p, root, build)
        for name in skipped:
            print(f"{name}: skipped, profile '{args.profile}' has no entry for it")
        outcomes = run_all(jobs, args.jobs)
        _report(outcomes, root)
        for o in outcomes:
            if args.inplace and not o.problem:
                nb = normalise(nbformat.read(o.job.executed, as_version=4))
                text = nbformat.writes(nb).rstrip("\n") + "\n"
                scorecard.write_whole(o.job.notebook, text)
        if args.p:
            print("the scorecard in README.md is left alone: -p changed the runs")
        else:
            scorecard.update_readme(root)
    except (RequestError, scorecard.ScorecardError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if any(outcome.problem for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())

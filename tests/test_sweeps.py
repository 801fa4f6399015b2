"""Sweeps: the same tables as direct calls, nothing twice, and never a stale result."""

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from common import sweeps
from common.optimizers import GradientDescent
from common.sweeps import default_jobs, sweep

PATIENCE = 60  # seconds until a subprocess counts as stuck; it needs about 5


def square(x: float, log: Path) -> pd.DataFrame:
    """A run that leaves a file for every execution."""
    count = len(list(log.iterdir()))
    (log / f"{count}_{x}_{os.getpid()}").touch()
    if x < 0:
        raise ArithmeticError("this run fails")
    return pd.DataFrame({"step": [0, 1], "value": [x, x * x]})


def call(function, x: float, log: Path) -> pd.DataFrame:
    """A run whose result is that of another function."""
    return square(function(x), log)


def process() -> pd.DataFrame:
    return pd.DataFrame({"process": [os.getpid()]})


def executed(log: Path) -> list[str]:
    """What ran, in the order of execution where it ran one after the other."""
    return [file.name.split("_")[1] for file in sorted(log.iterdir())]


def stored(folder: Path) -> list[Path]:
    return sorted(folder.rglob("output.pkl"))


@pytest.fixture
def log(tmp_path) -> Path:
    (tmp_path / "log").mkdir()
    return tmp_path / "log"


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


# The tables


def test_same_as_direct_calls_in_order(log, cache):
    names = {"b": 3.0, "a": 2.0, ("c", 1): 1.5}
    tables = sweep(
        square, {n: {"x": x, "log": log} for n, x in names.items()}, jobs=2, folder=cache
    )
    assert list(tables) == ["b", "a", ("c", 1)]
    assert len(executed(log)) == 3
    for name, x in names.items():
        assert_frame_equal(tables[name], square(x, log), check_exact=True)


def test_order_is_that_of_the_call_not_of_the_cache(log, cache):
    a, b = {"x": 1.0, "log": log}, {"x": 2.0, "log": log}
    sweep(square, {"b": b}, jobs=1, folder=cache)
    assert list(sweep(square, {"a": a, "b": b}, jobs=1, folder=cache)) == ["a", "b"]
    assert executed(log) == ["2.0", "1.0"]


def test_second_call_runs_nothing(log, cache):
    configurations = {x: {"x": x, "log": log} for x in (1.0, 2.0)}
    first = sweep(square, configurations, jobs=1, folder=cache)
    assert executed(log) == ["1.0", "2.0"]
    second = sweep(square, configurations, jobs=1, folder=cache)
    assert executed(log) == ["1.0", "2.0"]
    for x in configurations:
        assert_frame_equal(first[x], second[x], check_exact=True)


def test_only_new_configurations_run(log, cache):
    for xs in ((1.0,), (1.0, 2.0), (2.0, 3.0)):
        sweep(square, {x: {"x": x, "log": log} for x in xs}, jobs=1, folder=cache)
    assert executed(log) == ["1.0", "2.0", "3.0"]


def test_two_names_for_one_configuration(log, cache):
    tables = sweep(square, {n: {"x": 2.0, "log": log} for n in "ab"}, jobs=1, folder=cache)
    assert executed(log) == ["2.0"]
    assert_frame_equal(tables["a"], tables["b"])


def test_names_become_index_levels(log, cache):
    configurations = {(x, s): {"x": x, "log": log} for x in (1.0, 2.0) for s in (0,)}
    table = pd.concat(sweep(square, configurations, jobs=1, folder=cache), names=["x", "s"])
    assert table.xs(2.0, level="x").value.tolist() == [2, 4]


def test_nothing_to_run(cache):
    assert sweep(square, {}, jobs=1, folder=cache) == {}


@pytest.mark.parametrize("wrong", [{"y": 1.0}, {}], ids=["unknown", "missing"])
def test_wrong_keyword_before_anything_runs(log, cache, wrong):
    configurations = {
        "good": {"x": 1.0, "log": log},
        "bad": {"log": log, **wrong},
    }
    with pytest.raises(ValueError, match="'bad' of square"):
        sweep(square, configurations, jobs=1, folder=cache)
    assert executed(log) == []


def test_failing_run_keeps_the_finished_ones(log, cache):
    def configurations(*xs):
        return {x: {"x": x, "log": log} for x in xs}

    with pytest.raises(ArithmeticError, match="this run fails"):
        sweep(square, configurations(1.0, -1.0), jobs=1, folder=cache)
    sweep(square, configurations(1.0, 2.0), jobs=1, folder=cache)
    assert executed(log) == ["1.0", "-1.0", "2.0"]


def test_folder(log, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "BUILD", tmp_path / "build")
    sweep(square, {0: {"x": 1.0, "log": log}}, jobs=1, folder=tmp_path / "mine")
    assert len(stored(tmp_path / "mine")) == 1
    assert not (tmp_path / "build").exists()
    sweep(square, {0: {"x": 1.0, "log": log}}, jobs=1)
    assert len(stored(tmp_path / "build" / "cache")) == 1
    assert executed(log) == ["1.0", "1.0"]


# How many processes, and where


def test_jobs_from_the_environment(cache, monkeypatch):
    monkeypatch.setenv("EOS_ATLAS_JOBS", "3")
    assert default_jobs() == 3
    monkeypatch.delenv("EOS_ATLAS_JOBS")
    assert default_jobs() == joblib.cpu_count()


def test_one_job_stays_in_this_process(cache, monkeypatch):
    monkeypatch.setenv("EOS_ATLAS_JOBS", "1")
    tables = sweep(process, {0: {}}, folder=cache)
    assert tables[0].process.tolist() == [os.getpid()]


def test_dask(log, cache):
    # Fails as long as `Parallel(backend="dask")` is used: joblib registers that backend
    # only in `joblib.parallel_config(backend="dask")`.
    distributed = pytest.importorskip("distributed")
    names = {"b": 3.0, "a": 2.0}
    configurations = {n: {"x": x, "log": log} for n, x in names.items()}
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address
        tables = sweep(square, configurations, backend=address, folder=cache)
        assert sorted(executed(log)) == ["2.0", "3.0"]
        sweep(square, configurations, backend=address, folder=cache)
        assert len(executed(log)) == 2
    assert list(tables) == ["b", "a"]
    for name, x in names.items():
        assert_frame_equal(tables[name], square(x, log), check_exact=True)


# What is lost when something breaks: at most the unfinished runs


@pytest.mark.filterwarnings("ignore:.*Exception while loading results")
@pytest.mark.parametrize("share", [0, 0.5])
def test_truncated_entry_is_recomputed(log, cache, share):
    configurations = {x: {"x": x, "log": log} for x in (1.0, 2.0)}
    expected = sweep(square, configurations, jobs=1, folder=cache)
    victim = next(p for p in stored(cache) if joblib.load(p).value[0] == 2)
    os.truncate(victim, int(victim.stat().st_size * share))
    for _ in range(2):  # the second time from the repaired entry
        tables = sweep(square, configurations, jobs=1, folder=cache)
        assert executed(log) == ["1.0", "2.0", "2.0"]
        for x in configurations:
            assert_frame_equal(tables[x], expected[x])


SLOW = """\
import sys
import time
from pathlib import Path

import pandas as pd

from common.sweeps import sweep


def slow(x, log):
    with open(log, "a") as file:
        file.write(f"{x}\\n")
    time.sleep(0.4)
    return pd.DataFrame({"x": [x], "square": [x * x]})


def go(folder, jobs):
    runs = {x: {"x": x, "log": str(folder / "log")} for x in range(8)}
    return sweep(slow, runs, jobs=jobs, folder=folder / "cache")


if __name__ == "__main__":
    import slow_runs  # under its own name, as the test imports it

    slow_runs.go(Path(sys.argv[1]), jobs=2)
"""


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_resumes_after_kill(tmp_path, monkeypatch):
    script = tmp_path / "slow_runs.py"
    script.write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    first = subprocess.Popen(
        [sys.executable, script, tmp_path],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + PATIENCE
    try:
        while len(stored(tmp_path)) < 3 and first.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    time.sleep(0.2)  # the workers of the group are dying, too

    log = tmp_path / "log"
    kept = [int(joblib.load(file).x[0]) for file in stored(tmp_path)]  # all readable
    assert 3 <= len(kept) < 8
    before = len(log.read_text().split())
    runs = importlib.import_module("slow_runs")
    tables = runs.go(tmp_path, jobs=1)
    again = [int(x) for x in log.read_text().split()[before:]]
    assert sorted(kept + again) == list(range(8))  # nothing finished ran again
    assert [tables[x].square[0] for x in range(8)] == [x * x for x in range(8)]
    assert len(stored(tmp_path)) == 8


# What makes an old result invalid


def trained(eta: float) -> float:
    """What a run gets out of the package."""
    return GradientDescent(eta).max_stable_sharpness(0)


@pytest.mark.parametrize("own_folder", [False, True], ids=["default", "folder"])
def test_changed_package_runs_again(change_module, log, tmp_path, monkeypatch, own_folder):
    # "folder" fails as long as `sweep` leaves the digest out of a folder that was given.
    monkeypatch.setattr(sweeps, "BUILD", tmp_path / "build")
    keywords = {"jobs": 1} | ({"folder": tmp_path / "mine"} if own_folder else {})
    configuration = {0: {"function": trained, "x": 1.0, "log": log}}
    sweep(call, configuration, **keywords)
    change_module("claims")
    sweep(call, configuration, **keywords)
    assert executed(log) == ["2.0"]
    change_module("optimizers")
    sweep(call, configuration, **keywords)
    assert executed(log) == ["2.0", "2.0"]


@pytest.mark.parametrize("level", ["rule", "helper"])
def test_changed_user_module_runs_again(tmp_path, log, cache, monkeypatch, level):
    # Both fail as long as `sweep` leaves the digest out of a folder that was given, and
    # "helper" as long as the digest does not follow what a function calls.
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / f"user_{level}.py"
    source = "def helper(x): return x + {}\n\n\ndef rule(x): return helper(x) + {}\n"
    changed = {"rule": (1, 100), "helper": (100, 1)}[level]
    values = []
    for numbers in ((1, 1), changed):
        file.write_text(source.format(*numbers))
        importlib.invalidate_caches()
        module = importlib.import_module(file.stem)
        module = importlib.reload(module)
        runs = {0: {"function": module.rule, "x": 1.0, "log": log}}
        values.append(sweep(call, runs, jobs=1, folder=cache)[0].value[0])
    assert values == [3, 102]


def test_lambda_in_a_configuration_runs_nothing(log, cache):
    """joblib cannot name a lambda; better no result than one under a wrong key."""
    runs = {0: {"function": lambda x: x, "x": 1.0, "log": log}}
    with pytest.raises(Exception, match="lambda"):
        sweep(call, runs, jobs=1, folder=cache)
    assert executed(log) == []

"""pyproject.toml, environment.yml and what is installed name the same versions."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version

import pytest
import yaml

from common import ROOT

PYPROJECT = (ROOT / "pyproject.toml").read_text()
ENVIRONMENT = (ROOT / "environment.yml").read_text()
CONDA_NAMES = {  # PyPI -> conda-forge, where they differ
    "torch": "pytorch",
    "matplotlib": "matplotlib-base",
    "seaborn": "seaborn-base",
    "dask": "dask-core",
}
PIN = re.compile(r"([a-z0-9_-]+)==([0-9][0-9a-z.]*)")


def requirements() -> dict[str, list[str]]:
    """Every group of pyproject: build, core and the extras."""
    content = tomllib.loads(PYPROJECT)
    project = content["project"]
    groups = {"build": content["build-system"]["requires"]}
    groups["core"] = project["dependencies"]
    return groups | project["optional-dependencies"]


def pins(*groups: str) -> dict[str, str]:
    wanted = [line for group in groups for line in requirements()[group]]
    return dict(PIN.fullmatch(line).groups() for line in wanted if "[" not in line)


PINS = pins("core", "cluster", "test", "lab")


@pytest.mark.parametrize("group", requirements())
def test_every_requirement_is_pinned_exactly(group):
    own = [line for line in requirements()[group] if line != "eos-atlas[cluster]"]
    assert own
    assert [line for line in own if not PIN.fullmatch(line)] == []


def test_torch_is_the_release_that_the_results_were_made_with():
    assert PINS["torch"] == "2.13.0"


def test_conda_names_the_same_pins():
    conda = [x for x in yaml.safe_load(ENVIRONMENT)["dependencies"] if "==" in x]
    expected = {CONDA_NAMES.get(name, name): pin for name, pin in PINS.items()}
    assert dict(PIN.fullmatch(line).groups() for line in conda) == expected


def test_conda_installs_the_package_itself_from_one_channel():
    content = yaml.safe_load(ENVIRONMENT)
    assert content["name"] == "eos-atlas"
    assert content["channels"] == ["conda-forge", "nodefaults"]
    assert content["dependencies"][-1] == {"pip": ["-e ."]}


@pytest.mark.parametrize("text", [PYPROJECT, ENVIRONMENT], ids=["pyproject", "conda"])
def test_every_line_has_its_reason(text):
    lines = [x.strip() for x in text.splitlines()]
    listed = [x for x in lines if "==" in x or (x.startswith("- ") and x != "- pip:")]
    listed = [x for x in listed if not x.startswith("#")]
    assert len(listed) > len(PINS)
    assert [x for x in listed if not re.search(r"\s# \w.{4,}", x)] == []


@pytest.mark.parametrize("name", pins("core", "cluster", "test"))
def test_the_installed_version_is_the_pin(name):
    assert version(name).partition("+")[0] == PINS[name]  # torch: 2.13.0+cpu


def test_lab_and_bench_are_absent_or_at_their_pins():
    for name, pin in pins("lab", "bench").items():
        try:
            assert version(name).partition("+")[0] == pin
        except PackageNotFoundError:
            pass  # `make lab` and `make bench` install them


def test_pre_commit_runs_the_pinned_linter():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    used = [h["additional_dependencies"] for h in hooks["repos"][0]["hooks"]]
    assert used == [[f"ruff=={PINS['ruff']}"]] * 2


def test_ci_runs_the_two_commands_on_the_oldest_python():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = workflow["jobs"]["reproduce"]["steps"]
    assert [s["run"] for s in steps if "run" in s] == ["make figures", "make test"]
    oldest = tomllib.loads(PYPROJECT)["project"]["requires-python"].removeprefix(">=")
    assert oldest in [s.get("with", {}).get("python-version") for s in steps]
    assert f"python={oldest}" in yaml.safe_load(ENVIRONMENT)["dependencies"]

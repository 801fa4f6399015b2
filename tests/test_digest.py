"""common.digest: what changes the key of a stored run, and what does not."""

import functools
import os
import subprocess
import sys

import pytest
import torch

from common.digest import source_digest
from common.objective import Problem
from common.training import train

PATIENCE = 60  # seconds until a subprocess counts as stuck; it needs about 5

IMPORTED = ("training", "objective", "models", "sources", "__init__")  # by `training`
OTHERS = ("claims", "figures", "scorecard", "digest", "sweeps", "diagonal", "kernels")


@pytest.mark.parametrize("module", IMPORTED)
def test_digest_sees_what_a_function_imports(change_module, module):
    before = source_digest(train), source_digest([Problem()])
    change_module(module)
    after = source_digest(train), source_digest([Problem()])
    assert before[0] != after[0]
    assert (before[1] != after[1]) == (module != "training")  # a problem is no training


@pytest.mark.parametrize("module", OTHERS)
def test_digest_ignores_other_modules(change_module, module):
    before = source_digest(train, Problem())
    change_module(module)
    assert source_digest(train, Problem()) == before


@pytest.mark.parametrize(
    "line",
    [
        "import common.more",
        "from common import more",
        "from common.more import anything",
        "from . import more",
        "from .more import anything",
        "def f():\n    from common.more import anything",
    ],
)
def test_digest_follows_imports_of_all_kinds(change_module, line):
    change_module("objective", line)
    change_module("more")
    before = source_digest(train)
    change_module("more")
    assert source_digest(train) != before


def test_digest_sees_a_module_that_a_notebook_refers_to():
    names = ("common.kernels", "common.agop")
    found = [source_digest(define(f"import {n} as m\nthing = lambda: m")) for n in names]
    assert found[0] != found[1]


def test_digest_of_a_changed_module_behind_a_notebook_function(change_module):
    cell = "from common.kernels import split\nthing = lambda x: split(x)"
    before = source_digest(define(cell))
    change_module("kernels")
    assert source_digest(define(cell)) != before


def test_digest_sees_torch_and_threads(monkeypatch):
    before = source_digest()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    assert source_digest() != before


def define(source: str):
    """`thing` after a notebook cell was run."""
    space = {"__name__": "__main__", "functools": functools}
    exec("from dataclasses import dataclass\n" + source, space)
    return space["thing"]


CLASS = "class C:\n    {}\n    def f(self): return {}\n"
CHANGES = {
    "function": ("def thing(): return 1", "def thing(): return 2"),
    "name": ("def thing(x): return x.sin()", "def thing(x): return x.cos()"),
    "inner": (
        "def thing(): return [i + 1 for i in 'a']",
        "def thing(): return [i + 2 for i in 'a']",
    ),
    "lambda": ("thing = lambda: 1", "thing = lambda: 2"),
    "default": ("def thing(x=1): return x", "def thing(x=2): return x"),
    "keyword default": ("def thing(*, x=1): return x", "def thing(*, x=2): return x"),
    "helper": tuple(
        f"def helper(): return {i}\ndef thing(): return helper()" for i in (1, 2)
    ),
    "helper of a helper": tuple(
        f"def a(): return {i}\ndef b(): return a()\ndef thing(): return b()" for i in (1, 2)
    ),
    "helper in an inner function": tuple(
        f"def a(): return {i}\ndef thing(): return (lambda: a())()" for i in (1, 2)
    ),
    "global": tuple(f"A = {i}\ndef thing(): return A" for i in (1, 2)),
    "closure": tuple(f"def make(a): return lambda: a\nthing = make({i})" for i in (1, 2)),
    "closure over a function": tuple(
        f"def make(a): return lambda: a()\nthing = make(lambda: {i})" for i in (1, 2)
    ),
    "partial": tuple(
        f"def f(x): return {i}\nthing = functools.partial(f, 1)" for i in (1, 2)
    ),
    "wrapped": tuple(f"@functools.cache\ndef thing(): return {i}\n" for i in (1, 2)),
    "class": tuple(CLASS.format("", i) + "thing = C" for i in (1, 2)),
    "instance": tuple(CLASS.format("", i) + "thing = C()" for i in (1, 2)),
    "method": tuple(CLASS.format("", i) + "thing = C().f" for i in (1, 2)),
    "attribute": tuple(CLASS.format(f"A = {i}", 0) + "thing = C()" for i in (1, 2)),
    "property": tuple(CLASS.format("@property", i) + "thing = C()" for i in (1, 2)),
    "class method": tuple(CLASS.format("@classmethod", i) + "thing = C" for i in (1, 2)),
    "static method": tuple(CLASS.format("@staticmethod", i) + "thing = C" for i in (1, 2)),
    "base class": tuple(
        CLASS.format("", i) + "class D(C): pass\nthing = D()" for i in (1, 2)
    ),
    "dataclass": tuple(
        f"@dataclass(frozen=True)\nclass C:\n    eta: float\n    def f(self): return {i}\n"
        "thing = C(1.0)"
        for i in (1, 2)
    ),
    "slots": tuple(
        "@dataclass(frozen=True, slots=True)\nclass C:\n    eta: float\n"
        f"    def f(self): return {i}\nthing = C(1.0)"
        for i in (1, 2)
    ),
    "helper of a method": tuple(
        f"def a(): return {i}\n" + CLASS.format("", "a()") + "thing = C()" for i in (1, 2)
    ),
    "in a list": tuple(f"thing = [1, (lambda: {i},)]" for i in (1, 2)),
    "in a dictionary": tuple(f"thing = {{'a': {{'b': lambda: {i}}}}}" for i in (1, 2)),
    "in an object": tuple(
        f"class C: pass\nthing = C()\nthing.f = lambda: {i}" for i in (1, 2)
    ),
}


@pytest.mark.parametrize("before, after", CHANGES.values(), ids=CHANGES)
def test_digest_sees_code_in_a_configuration(before, after):
    # Helpers, globals, closures, defaults, wrappers and base classes fail as long as
    # `_code` looks only at a function's own code object.
    assert source_digest(define(before)) != source_digest(define(after))
    assert source_digest(define(before)) == source_digest(define(before))


def test_digest_sees_code_in_a_problem():
    problems = [Problem(data=define(f"thing = lambda: {i}")) for i in (1, 2)]
    assert source_digest(problems[0]) != source_digest(problems[1])


def test_digest_of_recursive_code():
    source = "def thing(n): return n and thing(n - {})"
    assert source_digest(define(source.format(1))) != source_digest(
        define(source.format(2))
    )


def test_digest_of_a_loop_of_objects():
    # RecursionError as long as `_foreign_code` does not remember what it has seen.
    thing = define(
        "class C: pass\nthing = C()\nthing.other = C()\nthing.other.back = thing"
    )
    assert len(source_digest(thing)) == 16


FOREIGN = """\
from dataclasses import dataclass, field
from common.digest import source_digest

@dataclass(frozen=True)
class Rule:
    eta: float
    options: dict = field(default_factory=dict)

class Model:
    @property
    def a(self): return 1
    @classmethod
    def b(cls): return 1
    @staticmethod
    def c(): return 1

def member(x): return x in {"alpha", "beta", "gamma", "delta"}

def member_default(x, choices=frozenset({"alpha", "beta", "gamma", "delta"})):
    return x in choices

for thing in (Rule(1.0), Model(), member, member_default, lambda: Rule):
    print(source_digest(thing))
"""


def test_digest_is_the_same_in_another_process(tmp_path):
    # Fails as long as addresses ("<... object at 0x...>") or sets of strings are printed
    # into it: a notebook's own rules would then be run again in every session.
    script = tmp_path / "foreign.py"
    script.write_text(FOREIGN)
    runs = [
        subprocess.Popen(
            [sys.executable, script],
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    first, second = (run.communicate(timeout=PATIENCE)[0].split() for run in runs)
    assert len(set(first)) == 5
    names = ("dataclass", "descriptors", "set", "default", "lambda")
    assert [n for n, a, b in zip(names, first, second, strict=True) if a != b] == []

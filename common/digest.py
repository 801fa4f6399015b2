"""What code a result depends on, as a short text: the cache's guard against stale results.

A changed helper must never return an old result. What lies in `common` is covered by the
bytes of its module and of all modules of `common` which that imports; functions and
classes that come from elsewhere (your notebook) by a walk over their code and all that it
refers to.
"""

import ast
import dis
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import joblib
import torch

from common import ROOT

PLAIN = (str, bytes, bool, int, float, complex)
IGNORED = {"__dict__", "__weakref__", "__doc__", "__module__", "__annotations__"}
IGNORED |= {"__dataclass_fields__", "__dataclass_params__", "__slots__"}
IGNORED |= {"__firstlineno__", "__static_attributes__", "__match_args__"}


def source_digest(*objects: Any) -> str:
    """A digest of the code that a result depends on.

    It covers the modules of `common` from which functions and classes inside the given
    objects come, with all of `common` that these import; the code of functions and classes
    of other origin (a notebook, say), with all that this code refers to: helpers, globals,
    closures, defaults, base classes, class attributes; and the version of torch and the
    number of threads.

    Args:
        objects: Functions, dataclasses, containers of them.

    Returns:
        16 hexadecimal digits, the same in every process.
    """
    settings = f"{torch.__version__} {torch.get_num_threads()}"
    digest = hashlib.sha256(settings.encode())
    for part in _walk(objects, inside=False, seen={}):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:16]


@cache
def _source(module: str) -> str:
    """A digest of a module of `common` and of all of `common` that it imports."""
    found, left = set(), {"common", module}
    while left:
        found |= left
        left = {name for path in map(_path, left) for name in _imports(path)} - found
    digest = hashlib.sha256()
    for name in sorted(found):
        digest.update(name.encode() + _path(name).read_bytes())
    return digest.hexdigest()


def _path(module: str) -> Path:
    """The file of `common` or of `common.<module>`."""
    _, _, stem = module.partition(".")
    return ROOT / "common" / f"{stem or '__init__'}.py"


def _imports(path: Path) -> Iterator[str]:
    """Modules of `common` that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = ["common"] * node.level + [node.module] * bool(node.module)
            source = ".".join(parts)
            names = [source, *(f"{source}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.startswith("common.") and _path(name).exists():
                yield name


def _walk(value: Any, inside: bool, seen: dict[int, Any]) -> Iterator[str]:
    """Texts that change when the code in a value changes.

    Args:
        value: Anything.
        inside: Whether the value is part of code, so that plain data count as well (data
            of a configuration are in joblib's key already).
        seen: What was visited, by id; it also keeps that alive, so that no id comes twice.
    """
    if isinstance(value, ModuleType):
        yield value.__name__
        if value.__name__.startswith("common."):
            yield _source(value.__name__)
    elif value is None or isinstance(value, PLAIN):
        yield from [repr(value)] if inside else []
    elif id(value) not in seen:
        seen[id(value)] = value
        if isinstance(value, set | frozenset):
            parts = ["".join(_walk(item, inside, dict(seen))) for item in value]
            yield from sorted(parts)
        elif isinstance(value, type | FunctionType) and _belongs(value):
            yield from [value.__qualname__] if inside else []
            if value.__module__.startswith("common."):
                yield _source(value.__module__)
        else:
            parts, inside = _parts(value, inside)
            for part in parts:
                yield from _walk(part, inside, seen)


def _parts(value: Any, inside: bool) -> tuple[list, bool]:
    """What a value consists of, and whether that is part of code."""
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()], inside
    if isinstance(value, list | tuple):
        return [*value], inside
    if isinstance(value, CodeType):
        return [value.co_name, value.co_code, value.co_names, value.co_consts], True
    if isinstance(value, FunctionType):
        names = {
            name: value.__globals__[name]
            for name in _globals(value.__code__)
            if name in value.__globals__
        }
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_full(cell)]
        defaults = [value.__defaults__, value.__kwdefaults__]
        return [value.__code__, names, cells, *defaults, vars(value)], True
    if isinstance(value, type):
        members = {k: v for k, v in vars(value).items() if k not in IGNORED}
        return [value.__qualname__, value.__bases__, members], True
    if isinstance(value, property):
        return [value.fget, value.fset, value.fdel], True
    if isinstance(value, classmethod | staticmethod | MethodType):
        return [value.__func__, getattr(value, "__self__", None)], inside
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords], inside
    slots = [n for c in type(value).__mro__ for n in _names(vars(c).get("__slots__", ()))]
    state = {n: getattr(value, n) for n in slots if hasattr(value, n)}
    state |= getattr(value, "__dict__", {})
    parts = [type(value), state]
    if inside and _belongs(type(value)):  # an array, say
        parts.append(_hash(value))
    return parts, inside


def _hash(value: Any) -> str:
    try:
        return joblib.hash(value)
    except Exception:  # cannot be pickled: its type must do
        return ""


def _names(slots: str | Iterable[str]) -> list[str]:
    return [slots] if isinstance(slots, str) else [*slots]


def _globals(code: CodeType) -> list[str]:
    """Names of the globals that code reads, the functions inside it included."""
    loads = dis.get_instructions(code)
    found = {i.argval for i in loads if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    inner = [_globals(c) for c in code.co_consts if isinstance(c, CodeType)]
    return sorted(found.union(*inner))


def _is_full(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _belongs(thing: Any) -> bool:
    """Whether the source of its module, or a pinned version, covers it already."""
    package = (getattr(thing, "__module__", None) or "").split(".")[0]
    if package == "__main__":  # whose file may be that of a launcher
        return False
    if package == "common" or package in sys.stdlib_module_names:
        return True
    module = sys.modules.get(package)
    return "site-packages" in (getattr(module, "__file__", None) or "")

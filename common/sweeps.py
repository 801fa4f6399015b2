"""Many runs: in parallel, cached on disk, resumable, on one machine or a Dask cluster.

A finished run is written to the cache at once and atomically (`joblib.Memory`), so that a
killed sweep goes on where it stopped. The cache is keyed by the configuration and by a
digest of all sources that compute: after any change to a helper, nothing old is returned.
(joblib alone only looks at the function itself.) What is cached are tables of numbers.
"""

import hashlib
import inspect
import os
from collections.abc import Callable, Hashable, Mapping
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

import joblib
import pandas as pd
import torch
from tqdm import tqdm

from common import BUILD, ROOT

PRESENTATION = ("claims", "figures", "reproduce", "scorecard")
"""Modules of `common` that compute nothing: changing them leaves the cache valid."""


def sweep(
    run: Callable[..., pd.DataFrame],
    configurations: Mapping[Hashable, Mapping[str, Any]],
    description: str = "runs",
    jobs: int | None = None,
    backend: str | None = None,
    folder: Path | None = None,
) -> dict[Hashable, pd.DataFrame]:
    """Run a function over many configurations; finished ones come from the cache.

    Args:
        run: Maps keyword arguments to a table; a pure function of them.
        configurations: Name of the run -> its keyword arguments. Names may be tuples:
            `pd.concat(sweep(...), names=[...])` then makes them index levels.
        description: Shown beside the progress bar.
        jobs: Processes; by default EOS_ATLAS_JOBS, else the number of cores.
        backend: Address of a Dask scheduler ("tcp://host:8786"), which must see the same
            cache folder or it recomputes; None: processes on this machine.
        folder: The cache; by default a folder of `build/`.

    Returns:
        Name -> table, in the order of the configurations.

    Raises:
        ValueError: If a keyword is not a parameter of `run`, before anything runs.
    """
    for name, keywords in configurations.items():
        try:
            inspect.signature(run).bind(**keywords)
        except TypeError as error:
            raise ValueError(f"run {name!r} of {run.__name__}: {error}") from None
    key = source_digest(run, configurations)
    memory = joblib.Memory(folder or BUILD / "cache" / key, verbose=0)
    cached = memory.cache(run)
    missing = {
        name: keywords
        for name, keywords in configurations.items()
        if not cached.check_call_in_cache(**keywords)
    }
    calls = [joblib.delayed(_quietly)(cached, k) for k in missing.values()]
    bar = tqdm(total=len(configurations), initial=len(configurations) - len(missing))
    bar.set_description(description)
    with bar, _executor(backend, jobs or default_jobs()) as parallel:
        if calls:
            for _ in parallel(calls):
                bar.update()
    return {name: cached(**k) for name, k in configurations.items()}


def default_jobs() -> int:
    """Processes for a sweep: EOS_ATLAS_JOBS, else the number of usable cores."""
    return int(os.environ.get("EOS_ATLAS_JOBS", 0)) or joblib.cpu_count()


def source_digest(*objects: Any) -> str:
    """A digest of the code that a result depends on.

    It covers the computing sources of `common`, the version of torch, the number of
    threads, and the code of whatever functions and classes of other origin (a notebook,
    say) are found inside the given objects.

    Args:
        objects: Functions, dataclasses, containers of them.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256(_package_digest().encode())
    for part in sorted(_foreign_code(objects)):
        digest.update(part.encode())
    return digest.hexdigest()[:16]


@cache
def _package_digest() -> str:
    digest = hashlib.sha256(f"{torch.__version__} {torch.get_num_threads()}".encode())
    for path in sorted((ROOT / "common").glob("*.py")):
        if path.stem not in PRESENTATION:
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _foreign_code(value: Any) -> set[str]:
    """Code of the functions and classes in a value that do not belong to `common`."""
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set):
        return set().union(*(_foreign_code(item) for item in value))
    if isinstance(value, type) or inspect.isfunction(value):
        return set() if _belongs(value) else {_code(value)}
    found = set()
    if not _belongs(type(value)) and hasattr(value, "__dict__"):
        found = {_code(type(value))}
    return found | _foreign_code([*getattr(value, "__dict__", {}).values()])


def _belongs(thing: Any) -> bool:
    """Whether the digest of the package, or a pinned version, covers it already."""
    package = (getattr(thing, "__module__", None) or "").split(".")[0]
    return package in ("common", "torch", "numpy", "pandas", "builtins", "collections")


def _code(thing: Any) -> str:
    """A text that changes when the code of a function or class changes."""
    functions = [thing] if inspect.isfunction(thing) else [*vars(thing).values()]
    codes = [f.__code__ for f in functions if inspect.isfunction(f)]
    values = [repr(getattr(f, "__defaults__", f)) for f in functions if not callable(f)]
    return f"{thing.__qualname__} {values} {[_flatten(code) for code in codes]}"


def _flatten(code: CodeType) -> tuple:
    constants = [_flatten(c) if isinstance(c, CodeType) else c for c in code.co_consts]
    return code.co_code.hex(), tuple(map(repr, constants)), code.co_names


def _quietly(cached: Callable[..., pd.DataFrame], keywords: Mapping[str, Any]) -> None:
    """Fill the cache; the table itself is read back by the caller, not sent around."""
    cached(**keywords)


class _executor:
    """A `joblib.Parallel` over local processes, or over a Dask cluster."""

    def __init__(self, address: str | None, jobs: int):
        self.address, self.jobs, self.client = address, jobs, None

    def __enter__(self) -> joblib.Parallel:
        kind = {"n_jobs": self.jobs, "return_as": "generator_unordered"}
        if self.address is None:
            return joblib.Parallel(**kind)
        from distributed import Client  # an optional dependency: pip install .[cluster]

        self.client = Client(self.address)
        return joblib.Parallel(**kind | {"backend": "dask", "return_as": "list"})

    def __exit__(self, *_) -> None:
        if self.client is not None:
            self.client.close()

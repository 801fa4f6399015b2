"""Many runs: in parallel, cached on disk, resumable, on one machine or a Dask cluster.

A finished run is written to the cache at once and atomically (`joblib.Memory`), so that a
killed sweep goes on where it stopped. The cache is keyed by the configuration and by a
digest of all sources that compute: after any change to a helper, nothing old is returned.
(joblib alone only looks at the function itself.) What is cached are tables of numbers.
"""

import inspect
import os
import warnings
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
from tqdm import tqdm

from common import BUILD
from common.digest import source_digest


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
    root = folder or BUILD / "cache"
    cached = {
        name: joblib.Memory(root / source_digest(run, keywords), verbose=0).cache(run)
        for name, keywords in configurations.items()
    }
    missing = [
        joblib.delayed(_quietly)(cached[name], keywords)
        for name, keywords in configurations.items()
        if not cached[name].check_call_in_cache(**keywords)
    ]
    bar = tqdm(total=len(configurations), initial=len(configurations) - len(missing))
    bar.set_description(description)
    with (
        bar,
        _executor(backend, jobs or default_jobs()) as parallel,
        warnings.catch_warnings(),
    ):
        # joblib replaces a process whose memory has grown; nothing is lost by that
        warnings.filterwarnings("ignore", "A worker stopped while some jobs")
        for _ in parallel(missing) if missing else ():
            bar.update()
    return {name: cached[name](**k) for name, k in configurations.items()}


def default_jobs() -> int:
    """Processes for a sweep: EOS_ATLAS_JOBS, else the number of usable cores."""
    return int(os.environ.get("EOS_ATLAS_JOBS", 0)) or joblib.cpu_count()


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
        self.config = joblib.parallel_config(backend="dask")
        return joblib.Parallel(return_as="list")

    def __exit__(self, *_) -> None:
        if self.client is not None:
            self.config.unregister()
            self.client.close()

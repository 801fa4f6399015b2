"""EoS Atlas: how optimizers really move, in notebooks that anyone can rerun.

Importing the package fixes three things for every run: one thread per process (small
nets are many times slower with two; parallelism is over runs, see `common.sweeps`); an
allocator that keeps freed memory (Hessian products of wide CNNs take half the time); and
the folders that everything is anchored on, so that no result depends on the directory a
notebook is started from.
"""

import ctypes
import os
from contextlib import suppress
from pathlib import Path

THREADS = int(os.environ.get("EOS_ATLAS_THREADS", "1"))
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, str(THREADS))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # idle threads must not burn a core

import torch  # noqa: E402  (the thread variables must be set before torch starts)

torch.set_num_threads(THREADS)

with suppress(OSError, AttributeError):  # another C library than glibc: leave it alone
    _mallopt = ctypes.CDLL("libc.so.6").mallopt
    for _option, _bytes in ((-1, 2**31 - 1), (-2, 2**26), (-3, 2**30)):
        _mallopt(_option, _bytes)  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD

ROOT = Path(__file__).resolve().parent.parent
"""The repository: `data/`, `figures/` and `notebooks/` lie here."""

BUILD = Path(os.environ.get("EOS_ATLAS_BUILD", ROOT / "build"))
"""Everything that can be deleted: the cache of runs, executed notebooks."""

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Where objectives put their data; nothing else in the package names a device."""

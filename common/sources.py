"""Where the bytes come from: every file of every set, checked, as raw uint8 arrays.

The Fashion-MNIST sample lies in the repository. CIFAR-10 and SVHN are downloaded once;
CelebA has no stable address. All three are taken from the folder that the environment
variable EOS_ATLAS_DATA names, if they are there; nothing is ever written to it. Nothing
is opened before its checksum holds (`data/registry.txt`; `data/README.md` says where
each set comes from). `common.data.load` is the way in.
"""

import contextlib
import hashlib
import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pooch
from PIL import Image, ImageOps
from scipy.io import loadmat

from common import ROOT

DATA = ROOT / "data"
VARIABLE = "EOS_ATLAS_DATA"
CELEBA_SITE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
POOCH = pooch.create(path=pooch.os_cache("eos-atlas"), base_url="")
POOCH.load_registry(DATA / "registry.txt")

CIFAR10_SUBSET = "cifar10_5k.npz"
CIFAR10_PER_BATCH = 1_000
CIFAR10_SHA256 = {
    "x_train": "286e2343d2d57000008856c9a0101cf7071d9fdfc40cf4d2e0f08c6b68ba3727",
    "y_train": "2be0b6419660d02bcbff29a0959297fddb2f64fea288e3da9acfb0503510964b",
    "x_test": "f167149948fc8fe0b9a76ba86421e987817f98b63761ba9415c5d42664d51f03",
    "y_test": "636a087e604331a0b9dafc94b6e9ade0c9cec72c4400d12473ccdb3e264474c1",
}
"""Of the bytes of each array, whichever file the arrays come from."""


class DataError(ValueError):
    """What was asked for does not exist, or a file is missing or damaged."""


@dataclass(frozen=True, eq=False)
class Split:
    """The raw images of one split.

    Attributes:
        labels: The original labels [n], int64.
        pixels: From indices [m] to images, uint8 [m, channels, side, side]; a set that
            is stored compressed is decoded only here.
    """

    labels: np.ndarray
    pixels: Callable[[np.ndarray], np.ndarray]


def _user_folder() -> Path | None:
    """Return the folder that EOS_ATLAS_DATA names, None where it is not set."""
    if not (value := os.environ.get(VARIABLE)):
        return None
    folder = ROOT / Path(value).expanduser()  # an absolute path replaces ROOT
    if not folder.is_dir():
        raise DataError(f"{VARIABLE} names {folder}, which is not a folder: correct it")
    return folder


def _checked(path: Path) -> Path:
    """Return `path` if the file has the checksum that the registry gives its name."""
    algorithm, _, expected = POOCH.registry[path.name].partition(":")
    found = pooch.file_hash(path, alg=algorithm)
    if found != expected:
        raise DataError(
            f"{path} is truncated or altered: expected {algorithm} {expected}, found "
            f"{found}. Replace it by {POOCH.urls.get(path.name, 'the original file')}"
        )
    return path


@lru_cache(maxsize=16)
def _obtain(name: str, folder: Path | None) -> Path:
    """Return the file `name`, its checksum verified, downloading it if need be."""
    if folder is not None and (folder / name).is_file():
        return _checked(folder / name)
    if name not in POOCH.urls:
        raise DataError(
            f"{name} is not in the folder that {VARIABLE} names (now {folder}) and has "
            f"no direct address: get it from {CELEBA_SITE} and set {VARIABLE} to the "
            f"folder it is in"
        )
    try:
        downloader = pooch.HTTPDownloader(progressbar=True)
        return Path(POOCH.fetch(name, downloader=downloader))
    except (OSError, ValueError) as error:  # requests' exceptions are OSErrors
        raise DataError(
            f"{name} could not be downloaded ({error}). Download {POOCH.urls[name]} by "
            f"hand and set {VARIABLE} to the folder it is in"
        ) from error


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what a damaged file makes its reader raise into a DataError."""
    try:
        yield
    except Exception as error:  # numpy, tarfile, pickle and zlib raise a dozen kinds
        raise DataError(
            f"{path} is truncated or altered ({error}). Delete or replace it"
        ) from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read every array of an npz file; pickled objects are refused."""
    with _reading(path), np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _in_memory(arrays: dict[str, np.ndarray], split: str) -> Split:
    labels = arrays[f"y_{split}"].astype(np.int64)
    return Split(labels, arrays[f"x_{split}"].__getitem__)


def _open_fashion_mnist(split: str, attribute: str, folder: Path | None) -> Split:
    path = DATA / "fashion_mnist_6k.npz"
    if not path.is_file():
        raise DataError(f"{path} is missing: restore it with `git checkout -- data`")
    return _in_memory(_read_npz(_checked(path)), split)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles arrays, numbers, bytes and containers, and refuses all else."""

    _admitted = {
        ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> object:
        """Return the admitted callable `module.name`."""
        if (module, name) not in self._admitted:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self._admitted[module, name]


def _convert_cifar10(tarball: Path) -> dict[str, np.ndarray]:
    """Take the first 1,000 images of each batch out of the official tarball."""
    images, labels = [], []
    with _reading(tarball), tarfile.open(tarball, "r:gz") as archive:
        for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
            file = archive.extractfile(f"cifar-10-batches-py/{name}")
            batch = _ArrayUnpickler(file, encoding="bytes").load()
            images.append(batch[b"data"][:CIFAR10_PER_BATCH].reshape(-1, 3, 32, 32))
            labels.append(np.array(batch[b"labels"][:CIFAR10_PER_BATCH], np.uint8))
    train = {"x_train": np.concatenate(images[:5]), "y_train": np.hstack(labels[:5])}
    return train | {"x_test": images[5], "y_test": labels[5]}


def _check_cifar10(path: Path, arrays: dict[str, np.ndarray]) -> None:
    for name, expected in CIFAR10_SHA256.items():
        content = arrays.get(name, np.empty(0)).tobytes()
        if (found := hashlib.sha256(content).hexdigest()) != expected:
            raise DataError(
                f"{path} is altered: expected sha256 {expected} of the array {name}, "
                f"found {found}. Delete or replace it"
            )


def _store(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an npz file whole or not at all; a read-only folder only costs time."""
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            np.savez(unfinished, **arrays)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def _open_cifar10(split: str, attribute: str, folder: Path | None) -> Split:
    places = [place / CIFAR10_SUBSET for place in (folder, POOCH.abspath) if place]
    path = next((path for path in places if path.is_file()), None)
    if path is not None:
        _check_cifar10(path, arrays := _read_npz(path))
    else:
        tarball = _obtain("cifar-10-python.tar.gz", folder)
        _check_cifar10(tarball, arrays := _convert_cifar10(tarball))
        _store(POOCH.abspath / CIFAR10_SUBSET, arrays)
    return _in_memory(arrays, split)


def _open_svhn(split: str, attribute: str, folder: Path | None) -> Split:
    content = loadmat(_obtain(f"{split}_32x32.mat", folder))
    labels = content["y"].ravel().astype(np.int64) % 10  # the files write 0 as 10
    return Split(labels, content["X"].transpose(3, 2, 0, 1).__getitem__)


def _open_celeba(split: str, attribute: str, folder: Path | None) -> Split:
    listing = _obtain("list_attr_celeba.txt", folder).read_text().splitlines()
    attributes = listing[1].split()
    if attribute not in attributes:
        raise DataError(f"no attribute {attribute!r}: celeba has {attributes}")
    column = 1 + attributes.index(attribute)
    partition = _obtain("list_eval_partition.txt", folder).read_text().splitlines()
    wanted = {"train": "0", "test": "2"}[split]
    inside = {name for name, part in map(str.split, partition) if part == wanted}
    rows = [row for row in map(str.split, listing[2:]) if row[0] in inside]
    labels = np.array([row[column] == "1" for row in rows], np.int64)
    names = [f"img_align_celeba/{row[0]}" for row in rows]
    archive = _obtain("img_align_celeba.zip", folder)
    return Split(labels, partial(_decode_celeba, archive, names))


def _decode_celeba(path: Path, names: list[str], index: np.ndarray) -> np.ndarray:
    """Decode the images at `index`: uint8 [n, 3, 32, 32], cut to the middle square."""
    images = np.empty((len(index), 3, 32, 32), np.uint8)
    with zipfile.ZipFile(path) as archive:
        for row, i in enumerate(index):
            with Image.open(io.BytesIO(archive.read(names[i]))) as picture:
                rgb = picture.convert("RGB")
            small = ImageOps.fit(rgb, (32, 32), Image.Resampling.BOX)
            images[row] = np.asarray(small).transpose(2, 0, 1)
    return images


OPENERS = {
    "fashion_mnist": _open_fashion_mnist,
    "cifar10": _open_cifar10,
    "svhn": _open_svhn,
    "celeba": _open_celeba,
}


def open_split(name: str, split: str, attribute: str = "Smiling") -> Split:
    """Return the raw images of `train` or `test`, opened once in a process.

    Raises:
        DataError: A file is missing, damaged or cannot be downloaded.
    """
    folder = _user_folder() if name != "fashion_mnist" else None
    return _open(name, split, attribute, folder)


@lru_cache(maxsize=8)
def _open(name: str, split: str, attribute: str, folder: Path | None) -> Split:
    return OPENERS[name](split, attribute, folder)

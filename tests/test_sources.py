"""common.sources: exact arrays, and every file that is missing, damaged or malicious.

The files of the sets that are not embedded are built here in miniature, in exactly the
official formats. No test touches the network.
"""

import gzip
import hashlib
import io
import os
import pickle
import runpy
import socket
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pooch
import pytest
from PIL import Image
from scipy.io import savemat

from common import ROOT, sources
from common.sources import DataError, Split, open_split

REAL_FOLDER = os.environ.get("EOS_ATLAS_DATA")
ORIGINALS = os.environ.get("EOS_ATLAS_FASHION_MNIST")
EMBEDDED_SHA256 = {
    "x_train": "219e0834d6dbbfcccb72e61d67310bfef387e43aba6c40b2bc63758d7ad925c9",
    "y_train": "4e5c0e8f28b58a4a5a035b2c3ca5c4e9b9dcd1ae36ad28d9ac24bdc36dc09cf1",
    "x_test": "3d7f6d64869a3f2d1afe64ae33ffb9b20670a91b31e3bbf0657e3999ec7b35cf",
    "y_test": "6b25654537ff83dd6c40fe0a122c7778d8219b2a88ff02c36dbdd21152fdb075",
}
CACHED = (sources._obtain, sources._open)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def forget() -> None:
    for function in CACHED:
        function.cache_clear()


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No network, an empty cache, no folder of the user, nothing remembered."""

    def no_network(host: str, *_: object, **__: object) -> None:
        raise OSError(f"no network for {host}")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(sources.POOCH, "path", tmp_path / "cache")
    monkeypatch.delenv("EOS_ATLAS_DATA", raising=False)
    forget()
    yield
    forget()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The folder that downloads and converted files go to; it does not exist yet."""
    return tmp_path / "cache"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder that EOS_ATLAS_DATA names."""
    path = tmp_path / "mine"
    path.mkdir()
    monkeypatch.setenv("EOS_ATLAS_DATA", str(path))
    return path


@pytest.fixture
def admit(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make files pass for the official ones: their checksums are the expected ones."""

    def accept(*paths: Path) -> None:
        for path in paths:
            own = "md5:" + hashlib.md5(path.read_bytes()).hexdigest()
            monkeypatch.setitem(sources.POOCH.registry, path.name, own)

    return accept


def pixels(split: Split) -> np.ndarray:
    return split.pixels(np.arange(len(split.labels)))


# --- Fashion-MNIST -----------------------------------------------------------------


def test_embedded_arrays_are_exact():
    path = ROOT / "data" / "fashion_mnist_6k.npz"
    assert path.stat().st_size < 4_000_000
    with np.load(path, allow_pickle=False) as arrays:
        found = {name: sha256(array.tobytes()) for name, array in arrays.items()}
        assert {array.dtype for array in arrays.values()} == {np.dtype(np.uint8)}
        assert arrays["x_train"].shape == (5000, 1, 28, 28)
        assert arrays["x_test"].shape == (1000, 1, 28, 28)
        assert np.bincount(arrays["y_train"]).tolist() == [500] * 10
        assert np.bincount(arrays["y_test"]).tolist() == [100] * 10
    assert found == EMBEDDED_SHA256


def test_readme_and_registry_name_the_embedded_file_as_it_is():
    digest = sha256((ROOT / "data" / "fashion_mnist_6k.npz").read_bytes())
    readme = (ROOT / "data" / "README.md").read_text()
    assert sources.POOCH.registry["fashion_mnist_6k.npz"] == f"sha256:{digest}"
    hashes = [digest, *EMBEDDED_SHA256.values(), *sources.CIFAR10_SHA256.values()]
    hashes += [one.split(":")[1] for one in sources.POOCH.registry.values()]
    assert [one for one in hashes if one not in readme] == []


@pytest.mark.skipif(ORIGINALS is None, reason="EOS_ATLAS_FASHION_MNIST is not set")
def test_embedded_file_is_made_again_to_the_byte(tmp_path):
    maker = load_maker()
    maker["main"]([ORIGINALS, "--output", str(tmp_path / "again.npz")])
    embedded = ROOT / "data" / "fashion_mnist_6k.npz"
    assert (tmp_path / "again.npz").read_bytes() == embedded.read_bytes()


def load_maker() -> dict:
    return runpy.run_path(str(ROOT / "data" / "make_fashion_mnist.py"))


def write_idx(path: Path, array: np.ndarray, digests: dict[str, str]) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))
    digests[path.stem] = sha256(header + array.tobytes())


def test_maker_takes_the_first_of_each_class_reproducibly(tmp_path, rng):
    maker = load_maker()
    digests = maker["SHA256"]
    wanted = {}
    for split, stem, count, per in (
        ("train", "train", 6000, 500),
        ("test", "t10k", 1300, 100),
    ):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = rng.permutation(np.arange(count) % 10).astype(np.uint8)
        write_idx(tmp_path / f"{stem}-images-idx3-ubyte.gz", images, digests)
        write_idx(tmp_path / f"{stem}-labels-idx1-ubyte.gz", labels, digests)
        seen = [0] * 10
        rows = []
        for i, label in enumerate(labels):
            seen[label] += 1
            if seen[label] <= per:
                rows.append(i)
        wanted[f"x_{split}"] = images[rows][:, None]
        wanted[f"y_{split}"] = labels[rows]
    for name in ("one.npz", "two.npz"):
        maker["main"]([str(tmp_path), "--output", str(tmp_path / name)])
    with np.load(tmp_path / "one.npz", allow_pickle=False) as arrays:
        assert list(arrays) == list(wanted)
        assert all(np.array_equal(arrays[name], wanted[name]) for name in wanted)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


@pytest.mark.parametrize("damage", ["missing", "truncated", "altered"])
def test_maker_refuses_files_that_are_not_the_originals(tmp_path, damage):
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    write_idx(path, np.zeros(100, np.uint8), {})
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(SystemExit, match="train-labels-idx1-ubyte.gz"):
        load_maker()["sample"](tmp_path)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# --- The embedded file, damaged ----------------------------------------------------


@pytest.mark.parametrize("damage", ["missing", "truncated", "altered"])
def test_damaged_embedded_file_is_refused(monkeypatch, tmp_path, damage):
    content = bytearray((ROOT / "data" / "fashion_mnist_6k.npz").read_bytes())
    if damage == "truncated":
        del content[-1000:]
    elif damage == "altered":
        content[1_000_000] ^= 1
    path = tmp_path / "fashion_mnist_6k.npz"
    if damage != "missing":
        path.write_bytes(content)
    monkeypatch.setattr(sources, "DATA", tmp_path)
    with pytest.raises(DataError) as caught:
        open_split("fashion_mnist", "train")
    message = str(caught.value)
    assert str(path) in message
    if damage == "missing":
        assert "git checkout" in message
    else:
        expected = sources.POOCH.registry[path.name].split(":")[1]
        assert expected in message and sha256(bytes(content)) in message
        assert "truncated or altered" in message


# --- CIFAR-10 ----------------------------------------------------------------------


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 and the numpy of its day wrote: protocol 2, byte strings."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value: bytes | str) -> None:
        content = value if isinstance(value, bytes) else value.encode("ascii")
        if len(content) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(content)]) + content)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_bytes

    def save_global(self, value: object, name: str | None = None) -> None:
        if getattr(value, "__name__", "") == "_reconstruct":
            self.write(b"cnumpy.core.multiarray\n_reconstruct\n")
            self.memoize(value)
        else:
            super().save_global(value, name)

    dispatch[type(np.empty)] = dispatch[type(len)] = save_global


def python2_pickle(value: object) -> bytes:
    written = io.BytesIO()
    Python2Pickler(written, protocol=2).dump(value)
    return written.getvalue()


def write_tarball(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def batch_names() -> list[str]:
    return [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


@pytest.fixture
def miniature(monkeypatch, rng) -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    """Members of a tarball of 6 x 12 images, and the arrays of its first 6 x 10."""
    members, images, labels = {}, [], []
    for number, name in enumerate(batch_names()):
        rows = rng.integers(0, 256, (12, 3072), np.uint8)
        classes = [(number + i) % 10 for i in range(12)]
        members[name] = python2_pickle(
            {
                b"batch_label": b"training batch 1 of 5",
                b"labels": classes,
                b"data": rows,
                b"filenames": [b"camion_s_%06d.png" % i for i in range(12)],
            }
        )
        images.append(rows[:10].reshape(10, 3, 32, 32))
        labels.append(np.array(classes[:10], np.uint8))
    arrays = {
        "x_train": np.concatenate(images[:5]),
        "y_train": np.concatenate(labels[:5]),
        "x_test": images[5],
        "y_test": labels[5],
    }
    monkeypatch.setattr(sources, "CIFAR10_PER_BATCH", 10)
    digests = {name: sha256(array.tobytes()) for name, array in arrays.items()}
    monkeypatch.setattr(sources, "CIFAR10_SHA256", digests)
    return members, arrays


def assert_cifar10_is(arrays: dict[str, np.ndarray]) -> None:
    for split in ("train", "test"):
        opened = open_split("cifar10", split)
        assert opened.labels.dtype == np.int64 and pixels(opened).dtype == np.uint8
        assert np.array_equal(pixels(opened), arrays[f"x_{split}"])
        assert opened.labels.tolist() == arrays[f"y_{split}"].tolist()


def test_miniature_pickles_are_of_the_official_kind(miniature):
    """What the official batches have in them, and no opcode of Python 3."""
    members, _ = miniature
    content = members["test_batch"]
    assert content.startswith(b"\x80\x02}")
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in content
    assert b"cnumpy\nndarray\n" in content and b"cnumpy\ndtype\n" in content
    assert b"_codecs" not in content and b"numpy._core" not in content


def test_cifar10_from_a_tarball_in_the_folder(folder, cache, admit, miniature):
    members, arrays = miniature
    tarball = folder / "cifar-10-python.tar.gz"
    write_tarball(tarball, members)
    admit(tarball)
    assert_cifar10_is(arrays)
    assert list(folder.iterdir()) == [tarball]  # the folder is the user's own
    assert list(cache.iterdir()) == [cache / "cifar10_5k.npz"]
    with np.load(cache / "cifar10_5k.npz", allow_pickle=False) as kept:
        assert list(kept) == list(arrays)
        assert all(np.array_equal(kept[name], arrays[name]) for name in arrays)
    tarball.unlink()
    forget()
    assert_cifar10_is(arrays)


def test_cifar10_from_an_npz_in_the_folder(folder, cache, miniature):
    _, arrays = miniature
    np.savez_compressed(folder / "cifar10_5k.npz", **arrays)
    cache.mkdir()
    (cache / "cifar10_5k.npz").write_text("the folder comes first")
    assert_cifar10_is(arrays)
    assert [path.name for path in folder.iterdir()] == ["cifar10_5k.npz"]


def test_cifar10_downloaded_once(monkeypatch, tmp_path, cache, admit, miniature):
    members, arrays = miniature
    original = tmp_path / "cifar-10-python.tar.gz"
    write_tarball(original, members)
    admit(original)
    asked = []

    class Downloader:
        def __init__(self, progressbar: bool) -> None:
            assert progressbar

        def __call__(self, url: str, output: str, pooch: object) -> None:
            asked.append(url)
            Path(output).write_bytes(original.read_bytes())

    monkeypatch.setattr(pooch, "HTTPDownloader", Downloader)
    assert_cifar10_is(arrays)
    forget()
    assert_cifar10_is(arrays)
    assert asked == ["https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"]
    names = sorted(path.name for path in cache.iterdir())
    assert names == ["cifar-10-python.tar.gz", "cifar10_5k.npz"]


def test_a_download_that_is_altered_is_refused(monkeypatch, cache):
    class Downloader:
        def __init__(self, progressbar: bool) -> None: ...

        def __call__(self, url: str, output: str, pooch: object) -> None:
            Path(output).write_bytes(b"not the tarball")

    monkeypatch.setattr(pooch, "HTTPDownloader", Downloader)
    with pytest.raises(DataError) as caught:
        open_split("cifar10", "train")
    message = str(caught.value)
    assert "c58f30108f718f92721af3b95e74349a" in message
    assert hashlib.md5(b"not the tarball").hexdigest() in message
    assert not (cache / "cifar-10-python.tar.gz").exists()


def test_a_cache_that_fills_up_is_no_failure(monkeypatch, folder, cache, admit, miniature):
    members, arrays = miniature
    tarball = folder / "cifar-10-python.tar.gz"
    write_tarball(tarball, members)
    admit(tarball)

    def full(path: Path, **_: object) -> None:
        path.write_bytes(b"the beginning")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert_cifar10_is(arrays)
    assert list(folder.iterdir()) == [tarball] and list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_made_is_no_failure(folder, cache, admit, miniature):
    members, arrays = miniature
    tarball = folder / "cifar-10-python.tar.gz"
    write_tarball(tarball, members)
    admit(tarball)
    cache.write_text("a file where the folder should be")
    assert_cifar10_is(arrays)
    assert list(folder.iterdir()) == [tarball]


@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_damaged_tarball_is_refused_unopened(monkeypatch, folder, admit, miniature, damage):
    tarball = folder / "cifar-10-python.tar.gz"
    write_tarball(tarball, miniature[0])
    admit(tarball)
    content = bytearray(tarball.read_bytes())
    if damage == "truncated":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 1
    tarball.write_bytes(content)
    monkeypatch.setattr(tarfile, "open", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(DataError) as caught:
        open_split("cifar10", "train")
    message = str(caught.value)
    assert str(tarball) in message and "truncated or altered" in message
    assert sources.POOCH.registry[tarball.name].split(":")[1] in message
    assert hashlib.md5(content).hexdigest() in message
    assert "cs.toronto.edu" in message


@pytest.mark.parametrize("damage", ["truncated", "altered", "without y_test"])
def test_damaged_npz_is_refused(folder, miniature, damage):
    arrays = {name: array.copy() for name, array in miniature[1].items()}
    path = folder / "cifar10_5k.npz"
    if damage == "altered":
        arrays["x_train"][3, 1, 4, 1] ^= 1
    elif damage == "without y_test":
        del arrays["y_test"]
    np.savez(path, **arrays)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError) as caught:
        open_split("cifar10", "train")
    message = str(caught.value)
    assert str(path) in message and "Delete or replace it" in message
    if damage == "altered":
        assert sources.CIFAR10_SHA256["x_train"] in message
        assert sha256(arrays["x_train"].tobytes()) in message


class Malicious:
    """Unpickled freely, it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("where", ["batch", "labels", "array"])
def test_malicious_pickle_is_refused(folder, admit, miniature, tmp_path, where):
    members, _ = miniature
    trap = Malicious(tmp_path / "trap")
    contents = {
        "batch": trap,
        "labels": {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, trap]},
        "array": {b"data": np.array([trap], dtype=object), b"labels": [0]},
    }
    members["data_batch_3"] = python2_pickle(contents[where])
    tarball = folder / "cifar-10-python.tar.gz"
    write_tarball(tarball, members)
    admit(tarball)
    with pytest.raises(DataError, match=f"asks for {os.name}.mkdir") as caught:
        open_split("cifar10", "train")
    assert str(tarball) in str(caught.value)
    assert not (tmp_path / "trap").exists()
    assert list(folder.iterdir()) == [tarball]
    pickle.loads(members["data_batch_3"])  # the trap is a real one
    assert (tmp_path / "trap").exists()


@pytest.mark.parametrize("module", ["builtins.eval", "numpy.load", "os.system"])
def test_unpickler_admits_arrays_only(module):
    name = module.rsplit(".", 1)
    content = b"\x80\x02c" + name[0].encode() + b"\n" + name[1].encode() + b"\n."
    with pytest.raises(pickle.UnpicklingError, match=f"asks for {module}"):
        sources._ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()


@pytest.mark.parametrize("fault", ["no batch", "no labels", "no array", "too narrow"])
def test_tarball_with_another_layout_is_refused(folder, admit, miniature, fault):
    members, _ = miniature
    rows = np.zeros((2, 3072), np.uint8)
    if fault == "no batch":
        del members["data_batch_5"]
    else:
        members["data_batch_5"] = python2_pickle(
            {
                "no labels": {b"data": rows},
                "no array": {b"data": 3, b"labels": [0, 1]},
                "too narrow": {b"data": rows[:, :7], b"labels": [0, 1]},
            }[fault]
        )
    tarball = folder / "cifar-10-python.tar.gz"
    write_tarball(tarball, members)
    admit(tarball)
    with pytest.raises(DataError, match="truncated or altered") as caught:
        open_split("cifar10", "train")
    assert str(tarball) in str(caught.value)


def test_tarball_of_other_images_is_refused(monkeypatch, folder, admit, miniature):
    members, _ = miniature
    members["data_batch_1"], members["data_batch_2"] = (
        members["data_batch_2"],
        members["data_batch_1"],
    )
    tarball = folder / "cifar-10-python.tar.gz"
    write_tarball(tarball, members)
    admit(tarball)
    with pytest.raises(DataError, match="of the array x_train"):
        open_split("cifar10", "train")
    assert list(folder.iterdir()) == [tarball]


def test_malicious_npz_is_refused(folder, miniature, tmp_path):
    arrays = {**miniature[1], "y_test": np.array([Malicious(tmp_path / "trap")])}
    path = folder / "cifar10_5k.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match="allow_pickle=False") as caught:
        open_split("cifar10", "train")
    assert str(path) in str(caught.value)
    assert not (tmp_path / "trap").exists()
    with np.load(path, allow_pickle=True) as opened:
        assert "y_test" in opened and opened["y_test"].dtype == object
    assert (tmp_path / "trap").exists()  # the trap is a real one


@pytest.mark.skipif(
    REAL_FOLDER is None or not (Path(REAL_FOLDER) / "cifar10_5k.npz").is_file(),
    reason="EOS_ATLAS_DATA names no folder with cifar10_5k.npz",
)
def test_the_real_cifar10(monkeypatch):
    monkeypatch.setenv("EOS_ATLAS_DATA", REAL_FOLDER)
    train = open_split("cifar10", "train")
    assert pixels(train).shape == (5000, 3, 32, 32)
    assert np.bincount(train.labels).min() == 469
    assert sha256(pixels(train).tobytes()) == sources.CIFAR10_SHA256["x_train"]


# --- SVHN --------------------------------------------------------------------------


@pytest.fixture
def svhn(folder, admit, rng) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Both .mat files in miniature; images [32, 32, 3, n], labels 1 to 10 [n, 1]."""
    files = {}
    for split, count in (("train", 40), ("test", 20)):
        images = rng.integers(0, 256, (32, 32, 3, count), np.uint8)
        labels = (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]
        savemat(
            folder / f"{split}_32x32.mat",
            {"X": images, "y": labels},
            do_compression=True,
        )
        files[split] = images, labels
    admit(*folder.iterdir())
    return files


@pytest.mark.parametrize("split", ["train", "test"])
def test_svhn_arrays(svhn, split):
    images, labels = svhn[split]
    opened = open_split("svhn", split)
    assert np.array_equal(pixels(opened), np.moveaxis(images, (3, 2), (0, 1)))
    assert pixels(opened).dtype == np.uint8
    assert opened.labels.tolist() == [0 if y == 10 else y for y in labels.ravel()]


def test_svhn_damaged_file_is_refused(svhn, folder):
    path = folder / "train_32x32.mat"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError) as caught:
        open_split("svhn", "train")
    assert str(path) in str(caught.value)
    assert sources.POOCH.urls[path.name] in str(caught.value)


# --- CelebA ------------------------------------------------------------------------


@pytest.fixture
def celeba(folder, admit, rng) -> dict[str, np.ndarray]:
    """The three files in miniature: 12 images, of which 8 train, 1 valid, 3 test."""
    pictures = {}
    attributes, partition = [], []
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        for i in range(12):
            name = f"{i + 1:06d}.jpg"
            blocks = rng.integers(0, 256, (28, 23, 3), np.uint8)
            pixels = blocks.repeat(8, axis=0).repeat(8, axis=1)[:218, :178]
            encoded = io.BytesIO()
            Image.fromarray(pixels).save(encoded, "JPEG", quality=95)
            archive.writestr(f"img_align_celeba/{name}", encoded.getvalue())
            pictures[name] = np.asarray(Image.open(encoded).convert("RGB"))
            smiling, male = (1 if i % 2 else -1), (1 if i < 4 else -1)
            attributes.append(f"{name} {smiling:2d} {male:2d}")
            partition.append(f"{name} {0 if i < 8 else 1 if i < 9 else 2}")
    (folder / "list_attr_celeba.txt").write_text(
        "\n".join(["12", "Smiling Male ", *attributes]) + "\n"
    )
    (folder / "list_eval_partition.txt").write_text("\n".join(partition) + "\n")
    admit(*folder.iterdir())
    return pictures


def shrink(picture: np.ndarray) -> np.ndarray:
    """Average the middle 178 x 178 pixels to 32 x 32 by areas, in floating point."""
    square = picture[20:198].astype(float)
    edges = np.linspace(0, 178, 33)
    positions = np.arange(178)
    weights = np.clip(
        np.minimum(edges[1:, None], positions + 1)
        - np.maximum(edges[:-1, None], positions),
        0,
        1,
    )
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("ah,bw,hwc->cab", weights, weights, square)


def test_celeba_images_and_labels(celeba):
    train = open_split("celeba", "train")
    assert train.labels.tolist() == [0, 1] * 4
    found = pixels(train)
    assert found.shape == (8, 3, 32, 32) and found.dtype == np.uint8
    expected = np.stack([shrink(picture) for picture in list(celeba.values())[:8]])
    # Pillow's box takes whole pixels, the reference parts of pixels.
    assert np.abs(found - expected).mean() < 6
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.98


def test_celeba_test_split_and_attribute(celeba):
    test = open_split("celeba", "test", "Male")
    assert pixels(test).shape == (3, 3, 32, 32) and test.labels.tolist() == [0, 0, 0]
    assert open_split("celeba", "train", "Male").labels.tolist() == [1] * 4 + [0] * 4


def test_celeba_decodes_only_what_is_needed(celeba, monkeypatch):
    opened = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda f: opened.append(f) or real(f))
    train = open_split("celeba", "train")
    assert opened == [] and len(train.pixels(np.array([6, 0, 3]))) == 3
    assert len(opened) == 3


def test_celeba_unknown_attribute(celeba):
    with pytest.raises(DataError, match=r"no attribute 'Happy'.*\['Smiling', 'Male'\]"):
        open_split("celeba", "train", "Happy")


@pytest.mark.parametrize(
    "name", ["img_align_celeba.zip", "list_attr_celeba.txt", "list_eval_partition.txt"]
)
@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_celeba_missing_or_altered_file(celeba, folder, name, damage):
    path = folder / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DataError) as caught:
        open_split("celeba", "train")
    message = str(caught.value)
    assert name in message and str(folder) in message
    if damage == "missing":
        assert "EOS_ATLAS_DATA" in message and "mmlab.ie.cuhk.edu.hk" in message
    else:
        assert sources.POOCH.registry[name].split(":")[1] in message


# --- No network, no folder ---------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file"),
    [("cifar10", "cifar-10-python.tar.gz"), ("svhn", "train_32x32.mat")],
)
def test_without_a_network_it_says_what_to_download(name, file):
    with pytest.raises(DataError) as caught:
        open_split(name, "train")
    message = str(caught.value)
    assert f"{file} could not be downloaded (" in message and "no network" in message
    assert f"Download {sources.POOCH.urls[file]} by hand" in message
    assert "EOS_ATLAS_DATA" in message


def test_celeba_without_a_folder_says_where_to_get_it():
    with pytest.raises(DataError, match="mmlab.*EOS_ATLAS_DATA"):
        open_split("celeba", "train")


def test_a_folder_that_does_not_exist(monkeypatch, tmp_path):
    monkeypatch.setenv("EOS_ATLAS_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="EOS_ATLAS_DATA names .*nowhere"):
        open_split("cifar10", "train")
    assert len(open_split("fashion_mnist", "train").labels) == 5000


def test_a_relative_folder_is_taken_from_the_repository(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EOS_ATLAS_DATA", "data")
    assert sources._user_folder() == ROOT / "data"


def test_official_addresses_and_checksums():
    stanford = "http://ufldl.stanford.edu/housenumbers/"
    expected = {
        "cifar-10-python.tar.gz": (
            "c58f30108f718f92721af3b95e74349a",
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        ),
        "train_32x32.mat": (
            "e26dedcc434d2e4c54c9b2d4a06d8373",
            f"{stanford}train_32x32.mat",
        ),
        "test_32x32.mat": (
            "eb5a983be6a315427106f1b164d9cef3",
            f"{stanford}test_32x32.mat",
        ),
        "img_align_celeba.zip": ("00d2c5bc6d35e252742224ab0c1e8fcb", None),
        "list_attr_celeba.txt": ("75e246fa4810816ffd6ee81facbd244c", None),
        "list_eval_partition.txt": ("d32c9cbf5e040fd4025c592c306e6668", None),
    }
    registry = sources.POOCH.registry
    found = {n: (registry[n], sources.POOCH.urls.get(n)) for n in expected}
    assert found == {n: (f"md5:{m}", url) for n, (m, url) in expected.items()}

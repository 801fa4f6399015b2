"""Make the embedded Fashion-MNIST sample from the four original files.

    python data/make_fashion_mnist.py FOLDER [--output FILE]

FOLDER holds `train-images-idx3-ubyte.gz`, `train-labels-idx1-ubyte.gz` and the two
`t10k-` files. The sample is the first 500 train images and the first 100 test images of
each of the ten classes, in the order of the files. The same originals give the same
bytes (with the same zlib).
"""

import argparse
import gzip
import hashlib
import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

# Of the unpacked files: Debian ships the same streams under another gzip header, so
# that only the published files, not Debian's, have the published md5 (see README.md).
SHA256 = {
    "train-images-idx3-ubyte": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
    ),
    "train-labels-idx1-ubyte": (
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
    ),
    "t10k-images-idx3-ubyte": (
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
    ),
    "t10k-labels-idx1-ubyte": (
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
    ),
}
OUTPUT = Path(__file__).resolve().parent / "fashion_mnist_6k.npz"


def read_idx(folder: Path, name: str) -> np.ndarray:
    """Read one gzipped IDX file of unsigned bytes, once its checksum holds.

    Args:
        folder: The folder of the originals.
        name: Name of the file without `.gz`.

    Returns:
        The uint8 array that the file describes.

    Raises:
        SystemExit: The file is missing, damaged or not the original.
    """
    path = folder / f"{name}.gz"
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise SystemExit(f"{path} cannot be read: {error}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[name]:
        raise SystemExit(
            f"{path} is not the original: unpacked, its sha256 is {found}, "
            f"not {SHA256[name]}"
        )
    dimensions = content[3]
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def first_of_each_class(labels: np.ndarray, per_class: int) -> np.ndarray:
    """Return the indices of the first images of each class, in the file's order."""
    members = [np.flatnonzero(labels == label)[:per_class] for label in range(10)]
    return np.sort(np.concatenate(members))


def sample(folder: Path) -> dict[str, np.ndarray]:
    """Return the arrays of the sample: x uint8 [n, 1, 28, 28], y uint8 [n]."""
    arrays = {}
    for split, stem, per_class in (("train", "train", 500), ("test", "t10k", 100)):
        labels = read_idx(folder, f"{stem}-labels-idx1-ubyte")
        images = read_idx(folder, f"{stem}-images-idx3-ubyte")
        index = first_of_each_class(labels, per_class)
        arrays[f"x_{split}"] = images[index][:, None]
        arrays[f"y_{split}"] = labels[index]
    return arrays


def npz_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """Pack arrays as an npz file without anything that changes from run to run."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0))
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # else it names the operating system of this run
            info.external_attr = 0o644 << 16
            archive.writestr(info, member.getvalue(), zipfile.ZIP_DEFLATED, 9)
    return packed.getvalue()


def main(arguments: list[str] | None = None) -> None:
    """Make the sample and say its size and sha256."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="holds the four original files")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args(arguments)
    content = npz_bytes(sample(options.folder))
    options.output.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    print(f"{options.output}: {len(content):,} bytes, sha256 {digest}")


if __name__ == "__main__":
    main()

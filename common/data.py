"""Images for the experiments: one call, `load`, for all four sets.

Which images, and what is done to their pixels; `common.sources` says where they come
from.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from common.sources import DataError, Split, open_split

__all__ = ["NAMES", "DataError", "Images", "load"]

SIDES = {"fashion_mnist": 28, "cifar10": 32, "svhn": 32, "celeba": 32}
CLASSES = {"fashion_mnist": 10, "cifar10": 10, "svhn": 10, "celeba": 2}
NAMES = tuple(SIDES)
"""The sets that `load` knows."""
STATISTICS_FROM = 5_000
"""The mean and the std come from this many first train images (or all there are)."""


@dataclass(frozen=True, eq=False)
class Images:
    """A labelled set of images, ready for a net.

    Attributes:
        x: Pixels [n, channels, size, size], in units of the train set's std (or from 0
            to 1 if not standardized).
        y: Labels [n], int64, from 0 to len(classes) - 1.
        classes: The original label that each value of `y` stands for.
        targets: What the outputs are to reach [n, outputs], where that is not one-hot.

    Example:
        >>> pair = load("fashion_mnist", n=4, classes=(0, 6), size=7)
        >>> pair.signed().targets.T
        tensor([[-1., -1.,  1.,  1.]])
    """

    x: torch.Tensor
    y: torch.Tensor
    classes: tuple[int, ...]
    targets: torch.Tensor | None = None

    def signed(self) -> "Images":
        """The same images for a net with one output: -1 for one class, +1 for the other.

        Raises:
            DataError: If there are not two classes.
        """
        if len(self.classes) != 2:
            raise DataError(f"signs stand for two classes, not for {len(self.classes)}")
        return replace(self, targets=(2 * self.y[:, None] - 1).to(self.x.dtype))


def _block_sums(pixels: np.ndarray, size: int) -> np.ndarray:
    """Add up the blocks that pooling averages: int64 [n, channels, size, size]."""
    n, channels, side, _ = pixels.shape
    block = side // size
    blocks = pixels.reshape(n, channels, size, block, size, block)
    return blocks.sum(axis=(3, 5), dtype=np.int64)


@lru_cache(maxsize=16)
def _statistics(train: Split, size: int) -> tuple[np.ndarray, float]:
    """Return the mean of each block sum and the one std of all, over train images.

    Integers all the way to the last division, so that every machine agrees.
    """
    n = min(STATISTICS_FROM, len(train.labels))
    sums = _block_sums(train.pixels(np.arange(n)), size)
    total = sums.sum(axis=0)
    variance = n * (sums**2).sum(axis=0) - total**2  # times n squared; below 2**63
    std = math.sqrt(sum(variance.ravel().tolist()) / variance.size) / n
    return total / n, std


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _check_classes(name: str, classes: object) -> tuple[int, ...]:
    """Return the labels that `classes` stands for, in its order."""
    total = CLASSES[name]
    if classes is None:
        return tuple(range(total))
    if _is_whole(classes) and 1 <= classes <= total:
        return tuple(range(classes))
    if isinstance(classes, tuple | list | range) and len(classes) > 0:
        valid = all(_is_whole(c) and 0 <= c < total for c in classes)
        if valid and len(set(classes)) == len(classes):
            return tuple(int(c) for c in classes)
    raise DataError(
        f"classes={classes!r}: give a number from 1 to {total}, or a tuple of "
        f"different labels from 0 to {total - 1}"
    )


def _check_size(name: str, size: object) -> int:
    side = SIDES[name]
    sizes = [s for s in range(1, side + 1) if side % s == 0]
    if size is None:
        return side
    if not _is_whole(size) or size not in sizes:
        raise DataError(f"size={size!r}: the sizes that work for {name} are {sizes}")
    return int(size)


def _select(
    labels: np.ndarray, classes: tuple[int, ...], n: int | None, described: str
) -> np.ndarray:
    """Return the indices of the subset of n images, in the file's order."""
    members = [np.flatnonzero(labels == label) for label in classes]
    counts = [len(indices) for indices in members]
    if n is None or n == sum(counts):
        return np.sort(np.concatenate(members))
    # A balanced subset ends where the first of the smallest classes runs out.
    largest = len(classes) * min(counts) + counts.index(min(counts))
    if not _is_whole(n) or not 1 <= n <= largest:
        raise DataError(
            f"n={n!r}: {described} has {sum(counts)} images of the classes {classes} "
            f"({counts}); give n from 1 to {largest}, or {sum(counts)} for all"
        )
    quotient, rest = divmod(n, len(classes))
    chosen = [m[: quotient + (i < rest)] for i, m in enumerate(members)]
    return np.sort(np.concatenate(chosen))


def load(
    name: str,
    n: int | None = None,
    classes: int | Sequence[int] | None = None,
    size: int | None = None,
    *,
    split: str = "train",
    standardize: bool = True,
    dtype: torch.dtype = torch.float32,
    attribute: str = "Smiling",
) -> Images:
    """Load a balanced subset of a set of images, the same on every machine.

    The subset is the first n/C images of each of the C classes (one more of the first
    n mod C classes), in the order of the file. Pixels are divided by 255, the mean of
    each pixel is subtracted, blocks are averaged down to `size`, and all is divided by
    one std. Both statistics come from the first 5,000 train images, of all classes,
    whatever the subset and the split.

    Args:
        name: `fashion_mnist` (embedded), `cifar10`, `svhn` or `celeba`.
        n: Number of images; all of the classes if None.
        classes: Number C of classes (labels 0 to C - 1) or a tuple of labels, which
            become 0, 1, ... in its order; all if None.
        size: Side of the images in pixels, a divisor of the original 28 or 32.
        split: `train` or `test`.
        standardize: If false, pixels are only divided by 255 and averaged.
        dtype: Floating type of the pixels; they are computed in float64.
        attribute: For `celeba` only: the attribute that is the label.

    Returns:
        Pixels [n, channels, size, size], labels [n] and the original labels.

    Raises:
        DataError: An argument is not valid, or a file is missing, damaged or cannot be
            downloaded; the message says what to do.

    Example:
        >>> images = load("fashion_mnist", n=1000, classes=2, size=14)
        >>> images.x.shape, images.y.bincount().tolist()
        (torch.Size([1000, 1, 14, 14]), [500, 500])
        >>> round(images.x.std().item(), 3)
        0.947
    """
    if name not in NAMES:
        raise DataError(f"no set {name!r}: the sets are {', '.join(NAMES)}")
    if split not in ("train", "test"):
        raise DataError(f"split={split!r}: give 'train' or 'test'")
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise DataError(f"dtype={dtype!r}: give a floating type such as torch.float32")
    classes, size = _check_classes(name, classes), _check_size(name, size)
    raw = open_split(name, split, attribute)
    index = _select(raw.labels, classes, n, f"{name} ({split})")
    values = _block_sums(raw.pixels(index), size).astype(np.float64)
    if standardize:
        mean, std = _statistics(open_split(name, "train", attribute), size)
        values = (values - mean) / std  # the factor 255 and the block's area cancel
    else:
        values /= 255 * (SIDES[name] // size) ** 2
    y = (raw.labels[index, None] == np.array(classes)).argmax(axis=1)
    return Images(torch.from_numpy(values).to(dtype), torch.from_numpy(y), classes)

"""common.data: the subset rule, preprocessing, and every argument that is refused.

The embedded sample is real; the other sets are made up here (what concerns their files
is in tests/test_sources.py).
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from common import ROOT, data, sources
from common.data import DataError, load
from common.sources import Split


@pytest.fixture(scope="module")
def raw() -> dict[str, np.ndarray]:
    with np.load(ROOT / "data" / "fashion_mnist_6k.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def pretend(monkeypatch) -> Callable[..., dict[str, np.ndarray]]:
    """A function that puts random 3 x 32 x 32 images into every split of every set.

    Its keywords are the labels of each split. It returns the images, and in `asked` the
    attributes that splits are opened for.
    """

    def put(asked: list[str] | None = None, **labels: list[int]) -> dict:
        rng = np.random.default_rng(0)
        images = {
            split: rng.integers(0, 256, (len(values), 3, 32, 32), np.uint8)
            for split, values in labels.items()
        }
        splits = {
            split: Split(np.array(values), images[split].__getitem__)
            for split, values in labels.items()
        }

        def open_split(name: str, split: str, attribute: str) -> Split:
            if asked is not None:
                asked.append(attribute)
            return splits[split]

        monkeypatch.setattr(data, "open_split", open_split)
        return images

    return put


def test_the_public_names_and_the_sets():
    assert data.__all__ == ["NAMES", "DataError", "Images", "load"]
    assert data.DataError is sources.DataError
    assert data.NAMES == ("fashion_mnist", "cifar10", "svhn", "celeba")
    assert set(data.SIDES) == set(data.CLASSES) == set(sources.OPENERS)


# --- The subset rule ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "classes", "counts"),
    [
        (1000, 2, [500, 500]),
        (1003, 10, [101] * 3 + [100] * 7),
        (1, 2, [1, 0]),
        (7, (9, 3), [4, 3]),
        (np.int64(6), [5, 2, 0], [2, 2, 2]),
        (None, (4,), [500]),
        (5000, None, [500] * 10),
    ],
)
def test_subset_is_the_first_of_each_class_in_order(raw, n, classes, counts):
    images = load("fashion_mnist", n, classes, standardize=False, dtype=torch.float64)
    labels = images.classes
    if isinstance(classes, tuple | list):
        assert labels == tuple(classes)
    assert images.y.bincount(minlength=len(labels)).tolist() == counts
    rows = [
        np.flatnonzero(raw["y_train"] == label)[:count]
        for label, count in zip(labels, counts, strict=True)
    ]
    rows = np.sort(np.concatenate(rows))
    assert torch.equal(images.x, torch.from_numpy(raw["x_train"][rows] / 255.0))
    originals = np.array(labels)[images.y.numpy()]
    assert originals.tolist() == raw["y_train"][rows].tolist()


def test_types_and_defaults():
    images = load("fashion_mnist", 10)
    assert images.x.dtype == torch.float32 and images.y.dtype == torch.int64
    assert images.x.shape == (10, 1, 28, 28) and images.classes == tuple(range(10))
    assert load("fashion_mnist", split="test").x.shape == (1000, 1, 28, 28)
    with pytest.raises(AttributeError):
        images.x = None


def test_two_calls_never_touch_the_same_memory():
    first = load("fashion_mnist", 20)
    kept = first.x.clone()
    first.x.zero_()
    first.y.zero_()
    again = load("fashion_mnist", 20)
    assert torch.equal(again.x, kept) and again.y.max() == 9


def test_unbalanced_classes_say_how_far_they_go(pretend):
    pretend(train=[0] * 20 + [1] * 13 + [2] * 17)
    assert load("cifar10", 40, 3).y.bincount().tolist() == [14, 13, 13]
    assert load("cifar10", 50, 3).y.bincount().tolist() == [20, 13, 17]
    with pytest.raises(DataError) as caught:
        load("cifar10", 41, 3)
    message = str(caught.value)
    assert "50 images" in message and "[20, 13, 17]" in message
    assert "n from 1 to 40, or 50 for all" in message


# --- Preprocessing -----------------------------------------------------------------


def reference(raw, split, size):
    """The preprocessing as it is described, in plain floating-point steps."""
    train, x = raw["x_train"] / 255.0, raw[f"x_{split}"] / 255.0
    mean = train.mean(axis=0)
    block = 28 // size

    def pool(images):
        rows = sum(images[:, :, i::block] for i in range(block)) / block
        return sum(rows[..., i::block] for i in range(block)) / block

    return pool(x - mean) / pool(train - mean).std()


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("size", [28, 14, 7, 4, 2, 1])
def test_preprocessing_against_numpy(raw, split, size):
    images = load("fashion_mnist", size=size, split=split, dtype=torch.float64)
    expected = reference(raw, split, size)
    np.testing.assert_allclose(images.x.numpy(), expected, rtol=0, atol=1e-12)


def test_float32_is_the_rounded_float64():
    arguments = ("fashion_mnist", 100, 2, 14)
    exact = load(*arguments, dtype=torch.float64).x
    assert torch.equal(load(*arguments).x, exact.float())


@pytest.mark.parametrize("size", [28, 14])
def test_standardized_train_set_has_mean_0_and_std_1(size):
    x = load("fashion_mnist", size=size, dtype=torch.float64).x
    assert x.mean(dim=0).abs().max() < 1e-12
    assert abs(x.std(correction=0).item() - 1) < 1e-12


def test_statistics_do_not_depend_on_the_subset():
    every = load("fashion_mnist", size=14, dtype=torch.float64)
    some = load("fashion_mnist", 30, (7,), 14, dtype=torch.float64)
    assert torch.equal(some.x, every.x[every.y == 7][:30])


def test_not_standardized_is_the_average_from_0_to_1(raw):
    x = load("fashion_mnist", size=7, standardize=False, dtype=torch.float64).x.numpy()
    blocks = raw["x_train"].reshape(5000, 1, 7, 4, 7, 4) / 255.0
    np.testing.assert_allclose(x, blocks.mean(axis=(3, 5)), rtol=0, atol=1e-15)
    assert x.min() >= 0 and x.max() <= 1


def test_integer_statistics_do_not_overflow():
    """The worst case: half of 5,000 images black, half white, one block of 32 x 32."""
    pixels = np.zeros((5000, 3, 32, 32), np.uint8)
    pixels[::2] = 255
    sums = data._block_sums(pixels, 1)
    assert 5000 * int((sums**2).sum(axis=0).max()) < 2**63
    assert sums.max() == 255 * 1024


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_statistics_come_from_the_first_train_images(pretend, monkeypatch, name):
    monkeypatch.setattr(data, "STATISTICS_FROM", 15)
    images = pretend(train=[*range(10)] * 4, test=[*range(10)] * 2)
    first, test = images["train"][:15] / 255.0, images["test"] / 255.0
    expected = (test - first.mean(axis=0)) / (first - first.mean(axis=0)).std()
    loaded = load(name, split="test", dtype=torch.float64)
    np.testing.assert_allclose(loaded.x.numpy(), expected, rtol=0, atol=1e-12)


def test_fewer_train_images_than_that_and_colours_pooled(pretend):
    images = pretend(train=[0, 1] * 4)["train"]
    x = load("celeba", size=8, dtype=torch.float64).x
    assert x.shape == (8, 3, 8, 8) and x.mean(dim=0).abs().max() < 1e-12
    assert abs(x.std(correction=0).item() - 1) < 1e-12
    plain = load("celeba", size=8, standardize=False, dtype=torch.float64).x.numpy()
    blocks = images.reshape(8, 3, 8, 4, 8, 4).mean(axis=(3, 5)) / 255
    np.testing.assert_allclose(plain, blocks, rtol=0, atol=1e-15)


def test_the_statistics_of_celeba_are_of_the_attribute_asked_for(pretend):
    asked = []
    pretend(asked, train=[0, 1], test=[0, 1])
    load("celeba", split="test")
    load("celeba", split="test", attribute="Male")
    assert asked == ["Smiling"] * 2 + ["Male"] * 2


# --- Arguments ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": "mnist"}, ["'mnist'", "fashion_mnist, cifar10, svhn, celeba"]),
        ({"n": 1001, "classes": 2}, ["1000 images", "(0, 1)", "1 to 1000"]),
        ({"n": 5001}, ["n=5001", "5000 images"]),
        ({"n": 300, "classes": 2, "split": "test"}, ["(test)", "200 images"]),
        ({"n": 0}, ["n=0", "1 to 5000"]),
        ({"n": -3}, ["n=-3"]),
        ({"n": 10.0}, ["n=10.0"]),
        ({"n": True}, ["n=True"]),
        ({"classes": 0}, ["classes=0", "1 to 10"]),
        ({"classes": 11}, ["classes=11", "1 to 10"]),
        ({"classes": True}, ["classes=True"]),
        ({"classes": ()}, ["classes=()"]),
        ({"classes": (1, 1)}, ["classes=(1, 1)", "different labels from 0 to 9"]),
        ({"classes": (0, 10)}, ["classes=(0, 10)", "0 to 9"]),
        ({"classes": (0, -1)}, ["classes=(0, -1)"]),
        ({"classes": "01"}, ["classes='01'"]),
        ({"classes": ([0], 1)}, ["classes=([0], 1)"]),
        ({"size": 5}, ["size=5", "[1, 2, 4, 7, 14, 28]"]),
        ({"size": 0}, ["size=0", "[1, 2, 4, 7, 14, 28]"]),
        ({"size": 14.0}, ["size=14.0"]),
        ({"split": "valid"}, ["split='valid'", "'train' or 'test'"]),
        ({"dtype": torch.int64}, ["torch.int64", "torch.float32"]),
        ({"dtype": "float32"}, ["'float32'", "torch.float32"]),
    ],
)
def test_bad_arguments_say_what_works(arguments, says):
    with pytest.raises(DataError) as caught:
        load(**{"name": "fashion_mnist", **arguments})
    assert [part for part in says if part not in str(caught.value)] == []
    assert isinstance(caught.value, ValueError)

"""For all tests: figures without a window, small notebooks, sources that may be changed."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["MPLBACKEND"] = "agg"  # unit tests only; common.reproduce drops it again

import nbformat  # noqa: E402
import pytest  # noqa: E402
from nbformat.v4 import new_code_cell, new_notebook  # noqa: E402

from common import digest  # noqa: E402

Cell = tuple[str, str]  # source, tag


@pytest.fixture(scope="session")
def write_notebook() -> Callable[[Path, list[Cell]], Path]:
    """A function that writes code cells, each with a tag or none, as a notebook."""

    def write(path: Path, cells: list[Cell]) -> Path:
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        nb = new_notebook(metadata={"kernelspec": kernel})
        for source, tag in cells:
            metadata = {"tags": [tag]} if tag else {}
            nb.cells.append(new_code_cell(source, metadata=metadata))
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, path)
        return path

    return write


@pytest.fixture
def change_module(tmp_path, monkeypatch) -> Iterator[Callable[..., None]]:
    """A function that changes a module in a copy of `common`, which the digest reads."""
    package = tmp_path / "copy" / "common"
    shutil.copytree(digest.ROOT / "common", package)
    monkeypatch.setattr(digest, "ROOT", tmp_path / "copy")
    digest._source.cache_clear()

    def change(name: str, line: str = "# changed") -> None:
        with (package / f"{name}.py").open("a") as file:
            file.write(f"{line}\n")
        digest._source.cache_clear()

    yield change
    digest._source.cache_clear()

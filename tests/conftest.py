"""For all tests: figures are drawn without a window, notebooks are small."""

import os
from collections.abc import Callable
from pathlib import Path

os.environ["MPLBACKEND"] = "agg"  # unit tests only; common.reproduce drops it again

import nbformat  # noqa: E402
import pytest  # noqa: E402
from nbformat.v4 import new_code_cell, new_notebook  # noqa: E402

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

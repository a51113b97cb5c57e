"""The scripts and the notebook in `examples/` run on the checkpoint of this repository."""

import os
from pathlib import Path

import pytest

from tests.warm_processes import run_warm

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
SLOW = ("train_adapters.py",)


@pytest.mark.parametrize(
    "script",
    [pytest.param(path, marks=[pytest.mark.slow] if path.name in SLOW else []) for path in SCRIPTS],
    ids=lambda path: path.name,
)
def test_a_script_runs_and_writes_an_image(script, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    finished = run_warm([str(script), str(tmp_path)], after="diffusers", cwd=ROOT, env=environment)
    assert finished.returncode == 0, finished.stderr
    assert list(tmp_path.rglob("*.png"))


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs_in_a_kernel_and_is_stored_without_outputs(notebook):
    import nbformat
    from nbclient import NotebookClient

    cells = nbformat.read(notebook, as_version=4)
    assert all(not cell.outputs for cell in cells.cells if cell.cell_type == "code")
    NotebookClient(cells, timeout=None, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()
    images = [
        output for cell in cells.cells for output in cell.get("outputs", ()) if "image/png" in output.get("data", ())
    ]
    assert images

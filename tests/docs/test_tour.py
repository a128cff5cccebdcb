"""The notebook runs from its first cell to its last, and stores what it shows."""

import json
from pathlib import Path

import pytest

TOUR = Path(__file__).parents[2] / "docs/tour.ipynb"
MAX_BYTES = 300_000


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_outputs_are_stored():
    assert TOUR.stat().st_size < MAX_BYTES
    cells = code_cells(json.loads(TOUR.read_text()))
    numbers = [cell["execution_count"] for cell in cells]
    assert numbers == list(range(1, len(cells) + 1))
    shown = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in shown if output["output_type"] == "error"]
    assert sum("<audio" in str(output.get("data", "")) for output in shown) == 3
    assert sum("image/png" in output.get("data", {}) for output in shown) == 2


@pytest.mark.slow
def test_every_cell_runs():
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(TOUR, as_version=4)
    # The kernel starts where the tests run, so that it imports the same package.
    nbclient.NotebookClient(notebook, timeout=1800).execute()
    cells = code_cells(notebook)
    said = "".join(out.get("text", "") for cell in cells for out in cell["outputs"])
    rates = {
        line.split(", ")[1].split(":")[0]: float(line.split()[-1].rstrip("%"))
        for line in said.splitlines()
        if line.startswith("heard as stop, ")
    }
    controls = rates["noise"], rates["noise of the same spectrum"]
    assert rates["perturbation"] > max(controls) + 30

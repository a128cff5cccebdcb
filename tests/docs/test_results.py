"""The pages of results have the numbers of the recorded runs."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from uap_jax.sweeps import published

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "experiments/results"
PAGES = ROOT / "docs/results"


def script_of(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(
        f"recorded_{name}", RECORDED / f"{name}.py"
    )
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def rows(folder: str, table: str | None) -> list[str]:
    """What `experiments/results/table.py` prints for the runs of a folder."""
    script = script_of("table")
    paper = published.load_published(table) if table else None
    printed = []
    for file in sorted((RECORDED / folder).glob("*/result.json")):
        result = json.loads(file.read_text())
        cells = script.row(file.parent.name, result)
        if paper:
            cells.append(script.paper(paper, result))
        printed.append(" | ".join(cells))
    return printed


@pytest.mark.parametrize(
    ("folder", "page", "table"),
    [
        ("victims", "victims.md", None),
        ("real_speech", "speech_commands.md", None),
        ("esc10", "esc10.md", "1"),
        ("synthetic_speech", "synthetic_speech.md", None),
        ("synthetic_urban", "synthetic_urban.md", None),
    ],
)
def test_recorded_runs_are_on_their_page(folder, page, table):
    text = (PAGES / page).read_text()
    printed = rows(folder, table)
    assert printed
    assert [row for row in printed if row not in text] == []


def test_tables_of_silero_vad_are_on_its_page():
    script = script_of("silero_page")
    runs = json.loads(script.RESULT.read_text())["runs"]
    text = (PAGES / "silero_vad.md").read_text()
    for goal, measure in script.TABLES:
        assert "\n".join(script.table(runs, goal, measure)) in text


def test_tables_of_any_moment_are_on_its_page(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["any_moment.py", str(RECORDED / "any_moment")])
    script_of("any_moment").main()
    text = (PAGES / "any_moment.md").read_text().splitlines()
    printed = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(printed) > 40
    assert [line for line in printed if line not in text] == []


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_page_begins_with_its_verdict(page):
    lines = page.read_text().splitlines()
    assert lines[0].startswith("# ")
    if page.name != "index.md":
        assert lines[2].startswith("**Verdict: ")

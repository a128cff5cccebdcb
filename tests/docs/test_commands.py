"""The page of commands has the flags that the launchers define."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_page_is_current():
    generated = runpy.run_path(str(DOCS / "commands.py"))["page"]()
    assert generated == (DOCS / "commands.md").read_text(), (
        "run: python docs/commands.py"
    )

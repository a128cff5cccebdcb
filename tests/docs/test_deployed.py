"""The page of deployed classifiers has the cards of the registry."""

import importlib.util
import runpy
from pathlib import Path

from uap_jax.bridges.deployed import DEPLOYED

DOCS = Path(__file__).parents[2] / "docs"


def test_page_is_current():
    generated = runpy.run_path(str(DOCS / "deployed.py"))["page"]()
    assert generated == (DOCS / "deployed.md").read_text(), (
        "run: python docs/deployed.py"
    )


def test_cards_are_whole():
    for name, entry in DEPLOYED.items():
        assert entry.package.endswith(f"=={entry.package.rpartition('==')[2]}"), name
        assert entry.source.startswith("https://") and entry.licence, name
        module, _, function = entry.entry_point.partition(":")
        assert importlib.util.find_spec(module) is not None and function, name

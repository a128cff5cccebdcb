"""The tree on the page of the architecture is that of the package."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text()


def test_tree():
    tree = PAGE.split("```")[1]
    entries = re.findall(r"^( *)([\w.]+?)(/?)(?= |$)", tree, re.MULTILINE)
    folders, named = ["uap_jax"], set()
    for indent, name, slash in entries[1:]:
        folders[len(indent) // 2 :] = [name]
        path = ROOT.joinpath(*folders)
        assert path.is_dir() if slash else path.is_file(), path
        named.add(path)
    inside = {path.parent for path in (ROOT / "uap_jax").rglob("*.py")}
    assert inside - {ROOT / "uap_jax"} <= named


def test_files_that_the_text_names():
    for name in re.findall(r"`(\w+/\w+\.py)`", PAGE):
        assert (ROOT / "uap_jax" / name).is_file(), name

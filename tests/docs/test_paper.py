"""All names on the page that maps the paper exist."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/paper.md").read_text()
NAMES = sorted(set(re.findall(r"`(uap_jax(?:\.\w+)+)`", PAGE)))
IN_FILES = sorted(set(re.findall(r"`((?:tests|experiments)/[\w/]+\.py)::(\w+)`", PAGE)))
MANIFESTS = sorted(set(re.findall(r"--manifest=(\w+)", PAGE)))
LAUNCHERS = sorted(set(re.findall(r"-m (uap_jax\.experiments\.\w+)", PAGE)))


@pytest.mark.parametrize("name", NAMES)
def test_function_exists(name):
    module, _, attribute = name.rpartition(".")
    assert callable(getattr(importlib.import_module(module), attribute))


@pytest.mark.parametrize(("file", "name"), IN_FILES)
def test_function_of_a_file_exists(file, name):
    assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE)


def test_manifests_and_launchers_exist():
    known = {path.stem for path in (ROOT / "uap_jax/sweeps/manifests").glob("*.toml")}
    assert set(MANIFESTS) <= known
    # Every table and figure of the paper that has a manifest is on the page.
    of_paper = {name for name in known if re.match(r"(table|figure)_\d", name)}
    assert of_paper <= set(MANIFESTS)
    assert all(importlib.util.find_spec(name) for name in LAUNCHERS)


@pytest.mark.parametrize(
    "item",
    [
        *(f"Eq. {number}" for number in (1, 2, 3, 4, 5, 7, 8, 9, 10, 12, 14, 15)),
        "Algorithm 1",
        "Theorem 1",
        *(f"Table {number}" for number in (*range(1, 6), 11, *range(12, 18))),
        "Tables 6 to 10",
        "Tables 18 and 19",
        *(f"Figure {number}" for number in (1, 2, 3)),
    ],
)
def test_item_has_a_row(item):
    assert re.search(rf"^\| .*{re.escape(item)}\b.* \|", PAGE, re.MULTILINE)

"""Imports point one way, and the attacks load nothing heavy."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

import uap_jax.attacks

PACKAGE = pathlib.Path(uap_jax.attacks.__file__).parents[1]

# What each part of the package may import of the package.
BASE = {"files", "errors", "text"}
FOUNDATION = {"audio"} | BASE
MIDDLE = {"bridges", "models", "data", "attacks", "checkpoints"} | FOUNDATION
UPPER = {"reporting", "evaluation", "training"}
ALLOWED = {
    "errors": set(),
    "text": set(),
    "files": {"errors"},
    "audio": BASE,
    "attacks": FOUNDATION,
    "data": FOUNDATION,
    "models": FOUNDATION | {"attacks"},
    "bridges": FOUNDATION | {"attacks", "models"},
    "checkpoints": FOUNDATION | {"attacks"},
    "evaluation": MIDDLE,
    "training": MIDDLE,
    "reporting": MIDDLE,
    "runs": MIDDLE | UPPER,
    "sweeps": MIDDLE | UPPER | {"runs"},
    "experiments": MIDDLE | UPPER | {"runs", "sweeps"},
}
LIBRARIES_OF_ATTACKS = {"jax", "numpy", "optax"}
HEAVY = ("flax", "orbax", "librosa", "matplotlib", "soundfile")


def imported_modules(source, module):
    """All modules that a source imports anywhere, with their full names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*parts, *filter(None, [node.module])])
            # `from a import b` may import the module a.b.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def part_of(module):
    """The part of the package that a module belongs to, or None for others."""
    names = module.split(".")
    return names[1] if names[0] == "uap_jax" and len(names) > 1 else None


def forbidden_imports(source, module):
    own = part_of(module)
    found = []
    for name in imported_modules(source, module):
        library = name.split(".")[0]
        if library == "uap_jax":
            allowed = part_of(name) in ALLOWED[own] | {own, "__version__"}
        else:
            known = LIBRARIES_OF_ATTACKS | sys.stdlib_module_names
            allowed = own != "attacks" or library in known
        if not allowed:
            found.append(name)
    return found


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        names = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield ".".join(names), path


SOURCES = {
    name: path
    for name, path in modules()
    if path.parent != PACKAGE or path.stem != "__init__"
}


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_one_way(module):
    assert part_of(module) in ALLOWED
    assert not forbidden_imports(SOURCES[module].read_text(), module)


def test_package_was_found():
    assert {"uap_jax.attacks.penalty", "uap_jax.audio.box"} <= SOURCES.keys()


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("uap_jax.attacks.penalty", "import flax.linen", ["flax.linen"]),
        ("uap_jax.attacks.penalty", "import jax, json, optax, numpy", []),
        ("uap_jax.attacks.penalty", "from uap_jax.audio import box", []),
        (
            "uap_jax.attacks.penalty",
            "def f():\n from uap_jax import models",
            ["uap_jax.models"],
        ),
        (
            "uap_jax.attacks.penalty",
            "from ..data import dataset",
            ["uap_jax.data.dataset"],
        ),
        ("uap_jax.attacks.penalty", "from . import types", []),
        (
            "uap_jax.audio.files",
            "import uap_jax.attacks",
            ["uap_jax.attacks"],
        ),
        (
            "uap_jax.models.registry",
            "from uap_jax.training.loop import train",
            ["uap_jax.training.loop.train"],
        ),
        (
            "uap_jax.evaluation.success",
            "import uap_jax.checkpoints",
            ["uap_jax.checkpoints"],
        ),
        ("uap_jax.experiments.run", "from uap_jax import checkpoints, training", []),
    ],
)
def test_the_check_sees(module, source, expected):
    assert forbidden_imports(source, module) == expected


def test_attacks_load_nothing_heavy():
    program = (
        "import sys, uap_jax.attacks\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    path = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "[]"

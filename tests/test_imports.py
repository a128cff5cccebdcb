"""Imports point one way, and the attacks load nothing heavy."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

import uap_jax

PACKAGE = pathlib.Path(uap_jax.__file__).parent

# The parts of the package from the top downwards: each may import of those below it.
LAYERS = (
    {"experiments"},
    {"sweeps"},
    {"runs"},
    {"reporting", "evaluation", "training"},
    {"bridges", "models", "data", "attacks", "checkpoints"},
    {"audio"},
    {"files", "console", "environment"},
    {"errors", "terminal", "text"},
)
# And of these of its own layer.
BESIDE = {
    "bridges": {"attacks", "models"},
    "models": {"attacks"},
    "checkpoints": {"attacks"},
    "reporting": {"evaluation"},
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


def allowed_parts(part):
    """What a part of the package may import of the package."""
    below = len(LAYERS) - [part in layer for layer in reversed(LAYERS)].index(True)
    return {part, "__version__"}.union(BESIDE.get(part, ()), *LAYERS[below:])


def forbidden_imports(source, module):
    part = module.split(".")[1]
    if not any(part in layer for layer in LAYERS):
        yield "belongs to no layer"
        return
    for name in imported_modules(source, module):
        library, *inside = name.split(".")
        if library == "uap_jax":
            is_allowed = inside and inside[0] in allowed_parts(part)
        else:
            known = LIBRARIES_OF_ATTACKS | sys.stdlib_module_names
            is_allowed = part != "attacks" or library in known
        if not is_allowed:
            yield name


def test_imports_point_one_way():
    offenders, modules = [], set()
    for path in PACKAGE.rglob("*.py"):
        names = path.relative_to(PACKAGE.parent).with_suffix("").parts
        module = ".".join(names)
        if names != ("uap_jax", "__init__"):
            modules.add(module)
            offenders += [
                f"{module}: {name}"
                for name in forbidden_imports(path.read_text(), module)
            ]
    assert {"uap_jax.attacks.penalty", "uap_jax.audio.box"} <= modules
    assert not offenders, "\n".join(offenders)


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("attacks.penalty", "import flax.linen", ["flax.linen"]),
        ("attacks.penalty", "import jax, json, optax, numpy", []),
        ("attacks.penalty", "from uap_jax.audio import box", []),
        ("attacks.ddn", "def f():\n from uap_jax import data", ["uap_jax.data"]),
        ("attacks.penalty", "from ..data import corpora", ["uap_jax.data.corpora"]),
        ("attacks.penalty", "from . import types", []),
        ("audio.files", "import uap_jax.attacks", ["uap_jax.attacks"]),
        ("models.spchcmd", "from uap_jax.training import io", ["uap_jax.training.io"]),
        ("evaluation.success", "import uap_jax.checkpoints", []),
        ("novelty", "import uap_jax.errors", ["belongs to no layer"]),
        ("experiments.run", "from uap_jax import runs, training", []),
    ],
)
def test_the_check_sees(module, source, expected):
    assert list(forbidden_imports(source, f"uap_jax.{module}")) == expected


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

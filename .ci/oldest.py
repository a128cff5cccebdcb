"""Prints the oldest JAX, Flax and Optax that pyproject.toml allows, for pip."""

import pathlib
import re
import tomllib

pyproject = tomllib.loads(pathlib.Path("pyproject.toml").read_text())
for requirement in pyproject["project"]["dependencies"]:
    if match := re.fullmatch(r"(jax|flax|optax)>=([\d.]+)", requirement):
        name, version = match.groups()
        print(f"{name}=={version}")

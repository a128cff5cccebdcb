"""The page of commands has the flags that the launchers define."""

import contextlib
import io
import runpy
import sys
from pathlib import Path

import pytest
from absl import app, flags

DOCS = Path(__file__).parents[2] / "docs"


def printed_here(name, monkeypatch):
    """What a launcher says of its flags, in this process and not in one for each."""
    app.define_help_flags()  # which it does once in a process
    before, printed = set(flags.FLAGS), io.StringIO()
    monkeypatch.setattr(sys, "argv", [name, "--helpxml"])
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
        runpy.run_module(
            f"uap_jax.experiments.{name}", None, "__main__", alter_sys=True
        )
    for flag in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, flag)
    return printed.getvalue()


def test_page_is_current(monkeypatch):
    page = runpy.run_path(str(DOCS / "commands.py"))["page"]
    generated = page(lambda name: printed_here(name, monkeypatch))
    assert generated == (DOCS / "commands.md").read_text(), (
        "run: python docs/commands.py"
    )

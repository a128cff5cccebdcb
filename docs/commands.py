"""Writes docs/commands.md from the flags that the launchers define.

python docs/commands.py
"""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

from uap_jax.experiments import cli

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/commands.md"
COMMANDS = cli.COMMANDS

HEAD = """# Commands

This page is generated from the flags (`python docs/commands.py`). `uap-jax COMMAND` and
`python -m uap_jax.experiments.COMMAND` are the same. `--help` prints the same texts.

Exit code 0: done. 1: something failed; the message names the log file. 2: a mistake in
what was typed, or in a file that it names, explained in one line. 3: all is done and
written, but the classifier's logits of some clips are not finite, and a line says how
many; such a clip is no success (`run`, `evaluate`, `apply`). 130: interrupted; run the
same command to resume.
"""


def printed_by(command: str) -> str:
    """Returns what a command says of its flags, as XML."""
    return subprocess.run(
        [sys.executable, "-m", f"uap_jax.experiments.{command}", "--helpxml"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stdout


def page(printed_by: Callable[[str], str] = printed_by) -> str:
    """Returns the text of the page."""
    return "\n".join([HEAD, *(section(name, printed_by(name)) for name in COMMANDS)])


def section(command: str, printed: str) -> str:
    """Returns one command: what it does, its examples, and a table of its flags."""
    root = ET.fromstring(printed)
    usage = re.sub(r"^ *python", "    python", root.findtext("usage", ""), flags=re.M)
    lines = [f"## {command}", "", usage.strip("\n"), ""]
    lines += ["| flag | default | meaning |", "| --- | --- | --- |"]
    for flag in root.iter("flag"):
        if flag.findtext("key") == "yes" and "uap_jax" in flag.findtext("file", ""):
            lines.append(row(flag))
    return "\n".join([*lines, ""])


def row(flag: ET.Element) -> str:
    name, default = flag.findtext("name", ""), flag.findtext("default") or ""
    # absl adds the values of an enum before the text, and a note on repeating after it.
    meaning = re.sub(
        r"^<.*?>: |;\s+repeat this option.*", "", flag.findtext("meaning", "")
    )
    # Markdown would take the underscores of _unknown_ for emphasis.
    meaning = re.sub(r"(\b_|_\b|[*<])", r"\\\1", meaning)
    values = [value.text or "" for value in flag.iter("enum_value")]
    if flag.findtext("type") == "bool":
        name = f"[no]{name}"
    default = "" if default == "[]" else default
    cells = [f"`--{name}`", f"`{default}`" if default else "", meaning]
    if values:
        cells[2] = f"{' / '.join(f'`{value}`' for value in values)}. {meaning}"
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page())

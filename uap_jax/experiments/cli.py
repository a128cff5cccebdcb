"""The command `uap-jax run`, the same as `python -m uap_jax.experiments.run`; etc."""

import ast
import importlib.util
import runpy
import sys

COMMANDS = ("run", "train", "evaluate", "apply", "sweep", "report", "download")


def main() -> None:
    """Runs a command, or lists them."""
    name = sys.argv[1] if len(sys.argv) > 1 else None
    if name not in COMMANDS:
        print("usage: uap-jax COMMAND [--help] [flags]\n")
        for command in COMMANDS:
            print(f"  {command:<10}{summary_of(command)}")
        if name not in (None, "--help", "-h", "help"):
            expected = ", ".join(COMMANDS)
            print(f"error: expected one of {expected}, got {name!r}", file=sys.stderr)
            sys.exit(2)
        return
    sys.argv[:2] = [f"uap-jax {name}"]
    runpy.run_module(f"uap_jax.experiments.{name}", run_name="__main__")


def summary_of(command: str) -> str:
    """Returns the first line of a launcher's docstring; does not import it."""
    found = importlib.util.find_spec(f"uap_jax.experiments.{command}")
    path = None if found is None else found.origin
    if path is None:
        return ""
    with open(path, encoding="utf-8") as source:
        docstring = ast.get_docstring(ast.parse(source.read())) or ""
    return docstring.partition("\n")[0]


if __name__ == "__main__":
    main()

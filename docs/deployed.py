"""Writes docs/deployed.md from the registry of deployed classifiers.

python docs/deployed.py
"""

from pathlib import Path

from uap_jax.bridges.deployed import DEPLOYED, Entry

PAGE = Path(__file__).parent / "deployed.md"

HEAD = """# Deployed classifiers

This page is generated from the registry (`python docs/deployed.py`). The networks run
in JAX with the weights of an installed package; none are in this one. How to use them:
[Models](models.md#deployed-classifiers), [Detectors](detectors.md).
"""


def page() -> str:
    """Returns the text of the page."""
    cards = [card(name, entry) for name, entry in DEPLOYED.items()]
    return "\n".join([HEAD, *cards])


def card(name: str, entry: Entry) -> str:
    """Returns the card of one classifier."""
    rows = {
        "install": f"`pip install {entry.package}`",
        "licence": entry.licence,
        "input": entry.input,
        "classes": entry.classes,
        "clean accuracy": entry.accuracy,
        "source": f"<{entry.source}>",
    }
    if entry.threshold is not None:
        rows["threshold"] = f"{entry.threshold:g}"
    if entry.absent:
        rows["classes of corpora without it"] = ", ".join(
            f"`{name}`" for name in entry.absent
        )
    lines = [f"## `--model={name}`", "", "| | |", "| --- | --- |"]
    for key, value in rows.items():
        # Code, and addresses, are as they are.
        is_text = not value.startswith(("`", "<"))
        escaped = value.replace("_", r"\_") if is_text else value
        lines.append(f"| {key} | {escaped} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page())

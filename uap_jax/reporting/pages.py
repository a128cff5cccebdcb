"""Pages that need no other file and no network."""

import os
import pathlib
from typing import Any

from uap_jax.reporting import formats


def render(template: str, **values: Any) -> str:
    """Returns the page of a template beside this file; text in it is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        percent=formats.format_percent,
        decibel=formats.format_decibel,
        interval=formats.format_interval,
        number=formats.format_number,
    )
    return environment.get_template(template).render(values)


def write(path: str | os.PathLike[str], page: str) -> None:
    """Writes a page, so that it is there whole or not at all."""
    path = pathlib.Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(page, encoding="utf-8", errors="replace")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)

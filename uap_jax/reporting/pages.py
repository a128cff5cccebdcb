"""HTML pages that need no other file and no network."""

import base64
import os
import pathlib
from typing import Any

import jinja2

from uap_jax import files, text


def render(template: str, **values: Any) -> str:
    """Returns the page of a template in this folder; text in it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        percent=text.format_percent,
        decibel=text.format_decibel,
        interval=text.format_interval,
        number=text.format_number,
        audio_uri=audio_uri,
    )
    page = environment.get_template(template).render(values)
    # Names of files may hold bytes that are not UTF-8.
    return page.encode("utf-8", errors="replace").decode("utf-8")


def write(path: str | os.PathLike[str], page: str) -> None:
    """Writes a page atomically."""
    files.write_bytes(pathlib.Path(path), page.encode("utf-8"))


def audio_uri(wav: bytes) -> str:
    """Returns the content of a WAV file as a data URI."""
    return "data:audio/wav;base64," + base64.b64encode(wav).decode()

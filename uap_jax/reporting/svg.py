"""Matplotlib's figures as images within a page; the same data gives the same bytes."""

import contextlib
import html
import io
import urllib.parse
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import style as styles
from matplotlib.figure import Figure

from uap_jax.text import is_number

INK, LINE = "#4d5a69", "#8a94a0"
SERIES = ("#0b63b8", "#c2410c", "#15803d", "#7e22ce", "#0e7490", "#a16207")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", "--", "-.")
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "uap_jax",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
}
# White noise and noise of the same spectrum, of which no line has a marker.
CONTROL_DASHES = (":", (0, (4, 1.5, 1, 1.5, 1, 1.5)))
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
# What a data URI in an attribute may hold as it is.
_SAFE = " !$'()*+,/:;<=>?@[]{|}~"


class Drawing(NamedTuple):
    """A figure; a template that prints it writes an `<img>` element.

    Attributes:
        svg: An `<svg>` element, complete as a file.
        alt: The figure in words, for those who do not see it.
    """

    svg: str
    alt: str

    def __html__(self) -> str:
        source = urllib.parse.quote(self.svg.replace("\n", " "), safe=_SAFE)
        alt = html.escape(self.alt)
        return f'<img alt="{alt}" src="data:image/svg+xml,{source}">'


def style() -> contextlib.AbstractContextManager[None]:
    """Returns the context to create and save a figure in."""
    return styles.context(["default", _STYLE])


def series_look(index: int) -> dict[str, Any]:
    """Returns the arguments of `plot` for a series; more than the colour differs."""
    return {
        "color": SERIES[index % len(SERIES)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "linestyle": _DASHES[index % len(_DASHES)],
        "linewidth": 1.8,
        "markersize": 4.5,
    }


def as_floats(values: Sequence[Any]) -> np.ndarray:
    """Returns values as floats; NaN for what is no finite number."""
    return np.array([value if is_number(value) else np.nan for value in values], float)


def draw(figure: Figure, alt: str) -> Drawing:
    """Returns a figure that was created, and is saved, in `style()`."""
    buffer = io.StringIO()
    # 200 dpi bounds the size of a raster image; lines and text have no pixels.
    options: dict[str, Any] = {"metadata": _NO_METADATA, "dpi": 200}
    figure.savefig(buffer, format="svg", **options)
    text = buffer.getvalue()
    return Drawing(text[text.index("<svg ") :], alt)

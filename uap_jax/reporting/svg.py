"""How Matplotlib's figures become part of a page.

Colours of axes, text and series are CSS variables of the page (`--ink`, `--line`,
`--series`, `--series-2` ...), so that a figure follows the page's light or dark scheme.
The same data gives the same bytes.
"""

import contextlib
import html
import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Stand-ins that no colour map yields; replaced by the variables in the SVG text.
INK, LINE = "#010203", "#010204"
SERIES = tuple(f"#0102{number:02x}" for number in range(5, 11))
_VARIABLES = {INK: "var(--ink)", LINE: "var(--line)", SERIES[0]: "var(--series)"} | {
    stand_in: f"var(--series-{number})" for number, stand_in in enumerate(SERIES[1:], 2)
}
# What `standalone` puts in the place of the variables.
_LIGHT = {
    "--ink": "#4d5a69",
    "--line": "#8a94a0",
    "--series": "#0b63b8",
    "--series-2": "#c2410c",
    "--series-3": "#15803d",
    "--series-4": "#7e22ce",
    "--series-5": "#0e7490",
    "--series-6": "#a16207",
}
_STYLE = {
    "svg.fonttype": "none",
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
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def style(alt: str) -> contextlib.AbstractContextManager[None]:
    """Returns the context to draw a figure in; its ids follow from what it shows."""
    from matplotlib import style as styles

    return styles.context(["default", _STYLE, {"svg.hashsalt": alt}])


def to_svg(figure: "Figure", alt: str) -> str:
    """Returns the `<svg>` element alone, with the page's colours and ids of its own.

    Args:
        figure: Drawn in `style(alt)`, and turned to SVG there.
        alt: What it shows, for those who do not see it.
    """
    buffer = io.StringIO()
    # 200 dpi bounds the size of a rastered image; lines and text have no pixels.
    options: dict[str, Any] = {"metadata": _NO_METADATA, "dpi": 200}
    figure.savefig(buffer, format="svg", transparent=True, **options)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg ") :]
    # This rule would hold for the whole page.
    svg = re.sub(r"<style type=\"text/css\">.*?</style>", "", svg, flags=re.DOTALL)
    # Nothing refers to groups, and figures side by side would repeat their ids;
    # clip paths and markers, which are referred to, differ by the hash salt.
    svg = re.sub(r"<g id=\"[^\"]*\"", "<g", svg)
    svg = re.sub(r" font-family: [^;]*;", "", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    label = html.escape(alt)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def standalone(drawn: str) -> str:
    """Returns a figure of `to_svg` with colours of its own, to be shown by itself."""
    drawn = re.sub(r"var\((--[\w-]+)\)", lambda found: _LIGHT[found[1]], drawn)
    opening = '<svg style="background:#fff" font-family="sans-serif" '
    return drawn.replace("<svg ", opening, 1) + "\n"

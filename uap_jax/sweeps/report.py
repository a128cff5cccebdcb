"""The page of a sweep: every table and figure, ours beside the paper's, and sounds."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from uap_jax.reporting import pages
from uap_jax.sweeps import figures, moments
from uap_jax.sweeps.published import Published
from uap_jax.sweeps.tables import formats
from uap_jax.sweeps.tables.formats import Table

MAX_BYTES = 15_000_000


class Corpus(NamedTuple):
    """A corpus of the sweep; a synthetic one holds no recordings."""

    name: str
    split: str
    num_classes: int | None
    num_samples: int  # of a clip
    fingerprint: str | None
    is_synthetic: bool


class Failure(NamedTuple):
    """A failed job; `command` runs it alone."""

    label: str
    error: str
    log: str  # path in the sweep's folder
    last_lines: str
    command: str


class Section(NamedTuple):
    """One table or figure; `about` is what tables/<name>.json says of it."""

    about: Mapping[str, Any]
    table: Table
    corpora: Sequence[str] = ()
    paper_corpora: Sequence[str | None] = ()  # the paper's instead; None: the same
    published: Sequence[Published] = ()
    missing: Sequence[str] = ()  # labels of jobs to do that have not failed
    failures: Sequence[Failure] = ()
    not_finite: Sequence[str] = ()  # lines on trials with logits that are not finite


class Perturbed(NamedTuple):
    """A clip as one method perturbs it; `audio` is a WAV file."""

    method: str
    prediction: str
    snr_db: float | None
    snr_ac_db: float | None
    relative_loudness_db: float | None
    audio: bytes


class SweepExample(NamedTuple):
    """A test clip, clean and as attacks on one model towards one goal perturb it."""

    model: str
    target: str | None
    corpus: str
    name: str
    true_class: str
    clean_prediction: str
    clean: bytes  # a WAV file
    perturbed: Sequence[Perturbed]


class SweepData(NamedTuple):
    """What the page shows; trials are counted once, examples are in order."""

    name: str
    sections: Sequence[Section]
    not_begun: Sequence[str]  # tables and figures of the paper
    num_done: int
    num_trials: int
    corpora: Sequence[Corpus]
    hardware: Sequence[str]
    versions: Sequence[str]
    examples: Sequence[SweepExample] = ()
    published_examples: Sequence[Published] = ()


def render(data: SweepData, *, max_bytes: int = MAX_BYTES) -> str:
    """Returns one HTML page that needs no other file and no network.

    Examples beyond `max_bytes` are left out, and the page says so.
    """
    synthetic = list(dict.fromkeys(c.name for c in data.corpora if c.is_synthetic))
    sections = [_describe(section, synthetic) for section in data.sections]
    published = [
        {"about": table, "grid": formats.to_grid(formats.of_paper(table))}
        for table in data.published_examples
    ]

    def page(shown: Sequence[SweepExample]) -> str:
        return pages.render(
            "sweep_report.html",
            data=data,
            sections=sections,
            synthetic=synthetic,
            num_failed=len({f.log for s in data.sections for f in s.failures}),
            examples=shown,
            num_left_out=len(data.examples) - len(shown),
            max_bytes=max_bytes,
            published_examples=published,
        )

    silent = [
        e._replace(clean=b"", perturbed=[p._replace(audio=b"") for p in e.perturbed])
        for e in data.examples
    ]
    room = max_bytes - len(page(silent).encode())
    shown = []
    for example in data.examples:
        sounds = [example.clean, *(each.audio for each in example.perturbed)]
        num_bytes = sum(-(-len(sound) // 3) * 4 for sound in sounds)
        if num_bytes <= room:
            room -= num_bytes
            shown.append(example)
    return page(shown)


def _describe(section: Section, synthetic: Sequence[str]) -> dict[str, Any]:
    """Returns what the template shows of a table."""
    about, table = section.about, section.table
    spec, drawn = about["table"], None
    options = {"series": spec["rows"], "title": about["title"]}
    if spec["kind"] == "curve":
        options |= {"x": spec["x"], "measures": spec["measures"]}
        drawn = figures.draw_curves(table, **options)
    elif spec["kind"] == "front":
        drawn = figures.draw_fronts(table, **options)
    elif spec["kind"] == "moment":
        drawn = figures.Curves(
            (),
            tuple(
                figures.Curve(label, True, drawing)
                for label, drawing in moments.draw_moments(table, **options)
            ),
        )
    corpora = zip(section.corpora, section.paper_corpora, strict=True)
    return section._asdict() | {
        "grid": formats.to_grid(table),
        "figures": drawn,
        "is_synthetic": any(name in synthetic for name in section.corpora),
        "others": [(name, paper) for name, paper in corpora if paper is not None],
        "clean_accuracy": [
            f"{model}, seed {seed}: {rate:.3f}"
            for model, rates in about["clean_accuracy"].items()
            for seed, rate in rates.items()
        ],
    }

"""The report of a sweep: complete, whole without a network, bounded, heard."""

import csv
import io
import re
import wave

import chromium
import numpy as np
import pytest
from outline import Outline

from uap_jax.sweeps import figures, report
from uap_jax.sweeps.published import Published
from uap_jax.sweeps.report import (
    Corpus,
    Failure,
    Perturbed,
    Section,
    SweepData,
    SweepExample,
    render,
)
from uap_jax.sweeps.tables import formats, kinds
from uap_jax.sweeps.tables.kinds import Record

NASTY = "<b>\"'&</script>"
MEASURES = ("test.asr", "test.snr_db")


def make_wav(num_samples=4000):
    buffer = io.BytesIO()
    tone = 0.3 * np.sin(np.arange(num_samples) / 5)
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes((32767 * tone).astype("<i2").tobytes())
    return buffer.getvalue()


def record(asr=None, **facts):
    facts = {"method": "penalty", "model": "spchcmd", "seed": 0, **facts}
    values = {"test.asr": asr, "control.asr": 0.12, "test.snr_db": 23.456}
    values |= {"control.same_spectrum.asr": 0.34}
    return Record(facts, None if asr is None else values)


def make_about(name, **changes):
    about = {
        "name": name,
        "title": f"Title of {name}",
        "scale": "paper",
        "command": f"python -m uap_jax.experiments.sweep --manifest={name}.toml",
        "table": {"kind": "mean", "x": None, "rows": ["target"], "measures": MEASURES},
        "num_done": 1,
        "num_trials": 2,
        "seeds": [0, 7],
        "clean_accuracy": {"spchcmd, peak": {"0": 0.91234}},
        "corpora": ["synthetic_speech, peak, 338 test clips"],
        "hardware": ["1 x cpu, some"],
        "versions": ["uap_jax 1, jax 2"],
        "notes": ["Means over the trials that are done."],
    }
    return about | changes


def make_table(target="yes"):
    cell = {"target": target, "test_asr": 0.77, "snr_db": 27.4}
    published = Published(
        "2",
        title="In the paper",
        notes=("Their models.",),
        cells=(cell | {"errors": {"snr_db": "is another one's"}},),
    )
    records = [record(0.65432, target=target), record(None, target="no")]
    return kinds.mean_table(
        records, rows=["target"], measures=MEASURES, published=published
    ), published


def make_curves(measures=MEASURES, **about):
    records = [
        record(0.5 + x / 2000 + seed / 50, method=method, n=x, seed=seed)
        for method in ("greedy", "penalty")
        for x in (10, 100, 1000)
        for seed in (0, 1)
    ]
    table = kinds.curve_table(records, x="n", series=["method"], measures=measures)
    spec = {"kind": "curve", "x": "n", "rows": ["method"], "measures": measures}
    return Section(make_about("figure_2", table=spec, **about), table)


def make_example(num_samples=4000, **changes):
    sound = make_wav(num_samples)
    perturbed = [
        Perturbed(method, "down", 21.04, 3.06, -17.51, sound)
        for method in ("greedy", "penalty")
    ]
    example = SweepExample(
        "spchcmd", "down", "synthetic_speech", "left/1.wav", "left", "up", sound, []
    )
    return example._replace(**{"perturbed": perturbed, **changes})


def make_data(**changes):
    table, published = make_table()
    section = Section(
        make_about("table_2", scale="smoke"),
        table,
        corpora=["synthetic_speech"],
        paper_corpora=["Speech Commands"],
        published=[published],
        missing=['penalty spchcmd "no" seed 7'],
        failures=[
            Failure(
                "greedy spchcmd",
                "FloatingPointError: the loss is no number",
                "trials/abc/log.txt",
                "Traceback\n  line",
                "python -m uap_jax.experiments.run --x=1",
            )
        ],
    )
    data = SweepData(
        name="try",
        sections=[section, make_curves()],
        not_begun=["table_1", "figure_3"],
        num_done=13,
        num_trials=1500,
        corpora=[
            Corpus("synthetic_speech", "official", 12, 16_000, "f00d", True),
            Corpus("esc10", "official", 10, 50_999, None, False),
        ],
        hardware=["1 x cpu, some"],
        versions=["uap_jax 1, jax 2"],
        examples=[make_example(), make_example(target=None)],
        published_examples=[published],
    )
    return data._replace(**changes)


@pytest.fixture(scope="module")
def page():
    return render(make_data())


def test_page_is_whole_and_asks_for_no_other_file(page):
    outline = Outline(page)
    assert outline.open == []
    assert not outline.tags & {"script", "link", "iframe", "object", "base"}
    sources = [
        value
        for name, value in outline.attributes
        if name in ("src", "href", "xlink:href", "action", "poster")
    ]
    assert len(sources) > 10
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"@import|url\((?!%23)|https?://(?!www\.w3\.org/)", page)
    ids = [value for name, value in outline.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {source[1:] for source in sources if source[0] == "#"} <= set(ids)


def test_page_says_what_there_is_and_what_is_missing(page):
    text = Outline(page).text
    for words in (
        "13 of 1,500 trials are done",
        "synthetic_speech is made by this package and holds no recordings",
        "Tables marked smoke",
        "Measured on synthetic_speech , which holds no recordings; the paper measured "
        "on Speech Commands.",
        "not begun in this sweep: table 1, figure 3",
        "1 x cpu, some",
        "uap_jax 1, jax 2",
        "f00d",
        "0, 7",
        "spchcmd, peak, seed 0: 0.912",
        "FloatingPointError: the loss is no number",
        "trials/abc/log.txt",
        "--x=1",
        'penalty spchcmd "no" seed 7',
        "--manifest=figure_2.toml",
        "Their models.",
        "is another one's",
    ):
        assert words.replace(" ,", ",") in text.replace(" ,", ","), words


def test_cells_stand_beside_the_papers(page):
    grid = page[page.index('id="table_2"') : page.index('id="figure_2"')]
    (yes, no) = re.findall(r"<tr><th scope=\"row\".*?</tr>", grid)
    shown = [re.sub("<.*?>", "", cell) for cell in re.findall("<td.*?</td>", yes)]
    assert shown == ["1", "1", "0.654", "0.120", "0.340", "0.770", "23.5", "27.41"]
    assert '<td class="numeric paper">27.4<sup><a href="#table_2-remark-1">' in yes
    assert re.findall(r">([^<>]+)</td>", no) == ["0", "1", *"------"]


def test_players_tell_class_and_level(page):
    text = Outline(page).text
    assert page.count("<audio") == 6
    assert 'spchcmd, targeted at "down"' in text
    assert "spchcmd, untargeted" in text
    assert 'true class "left" detected as "up"' in text
    said = "SNR 21.0 dB with the resting level, 3.1 dB mean-free; loudness -17.5 dB"
    assert text.count(said) == 4


def test_a_sweep_without_anything_done():
    table = kinds.mean_table(
        [record(None, target="no")], rows=["target"], measures=MEASURES
    )
    empty = make_about(
        "table_2", num_done=0, clean_accuracy={}, corpora=[], hardware=[], versions=[]
    )
    curve = make_curves()
    names = ("method", "n")
    rows = tuple(
        dict.fromkeys(row) | {name: row[name] for name in names} | {"num_done": 0}
        for row in curve.table.rows
    )
    page = render(
        make_data(
            sections=[
                Section(empty, table),
                curve._replace(table=curve.table._replace(rows=rows)),
            ],
            num_done=0,
            corpora=[],
            hardware=[],
            versions=[],
            examples=[],
            published_examples=[],
        )
    )
    text = Outline(page).text
    assert "0 of 1,500 trials are done" in text
    assert "No curve yet" in text
    assert "<img" not in page
    assert "Examples to listen to" not in text
    assert 'class="warning"' not in page


def test_text_is_escaped():
    table, published = make_table(NASTY)
    section = Section(
        make_about("table_2", title=NASTY, command=NASTY, notes=[NASTY]),
        table,
        corpora=[NASTY],
        paper_corpora=[NASTY],
        published=[published],
        missing=[NASTY],
        failures=[Failure(*[NASTY] * 5)],
    )
    curves = make_curves(title=NASTY)
    rows = tuple(row | {"method": NASTY} for row in curves.table.rows)
    page = render(
        make_data(
            name=NASTY,
            sections=[
                section,
                curves._replace(table=curves.table._replace(rows=rows)),
            ],
            corpora=[Corpus(NASTY, NASTY, 1, 1, NASTY, True)],
            examples=[
                make_example(
                    model=NASTY,
                    target=NASTY,
                    name=NASTY,
                    true_class=NASTY,
                    clean_prediction=NASTY,
                    perturbed=[Perturbed(NASTY, NASTY, None, None, None, make_wav())],
                )
            ],
        )
    )
    assert "<b>" not in page
    assert "</script>" not in page
    assert Outline(page).open == []
    assert Outline(page).text.count(NASTY) >= 20


def test_examples_are_left_out_where_there_is_no_room():
    examples = [make_example(100_000), make_example(200_000), make_example(1000)]
    data = make_data(examples=examples)
    whole = len(render(data).encode())
    small = render(data, max_bytes=whole - 1)
    assert len(small.encode()) < whole
    # What is too large is left out, what comes after it not.
    assert small.count("<audio") == 6
    assert "1 more is left out" in Outline(small).text
    assert "left out" not in render(data, max_bytes=whole + 100)
    assert render(data, max_bytes=1).count("<audio") == 0


def test_same_data_gives_the_same_bytes(page):
    assert render(make_data()) == page


def curves_of(values, **row):
    """Curves of one series with given values of the setting."""
    records = [record(0.5, n=value, **row) for value in values]
    table = kinds.curve_table(records, x="n", series=["method"], measures=MEASURES)
    return figures.draw_curves(
        table, x="n", series=["method"], measures=MEASURES, title="t"
    )


def test_curves_have_intervals_names_and_words():
    section = make_curves()
    drawn = figures.draw_curves(
        section.table, x="n", series=["method"], measures=MEASURES, title="t"
    )
    assert [name for name, _ in drawn.legend] == ["greedy", "penalty"]
    asr, snr = drawn.curves
    assert (asr.label, asr.has_controls, snr.label) == ("test ASR", True, "SNR (dB)")
    assert (
        "greedy: 0.515 at 10 to 1.010 at 1000; penalty: 0.515 at 10" in asr.drawing.alt
    )
    # Each of two series has three bars with two caps, and two controls.
    assert asr.drawing.svg.count("stroke-width: 1.1") == 4


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([10, 100, 1000], ["10", "100", "1000"]),
        ([0, 10, 20], ["0", "10", "20"]),
        (["adam", "$x_1$"], ["adam", "$x_1$"]),
        ([None, 3], ["None", "3"]),
        (list(range(1, 41)), ["1", "6", "36"]),
    ],
)
def test_axes_of_curves(values, labels):
    svg = curves_of(values).curves[0].drawing.svg
    ticks = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert [tick for tick in ticks if tick in labels] == labels


def test_remarks_are_in_every_form():
    table, _ = make_table()
    remark = "the paper's number: is another one's"
    markdown = formats.to_markdown(table)
    assert (
        "| yes | 1 / 1 | 0.654 / 0.120 / 0.340 / 0.770 | 23.5 / 27.4 [1] |" in markdown
    )
    assert f"- [1] {remark}" in markdown
    latex = formats.to_latex(table)
    assert "27.4 [1]" in latex and f"% [1] {remark}" in latex
    rows = list(csv.DictReader(io.StringIO(formats.to_csv(table))))
    assert rows[0]["remarks"] == f"paper.test.snr_db: {remark}"
    assert rows[1]["remarks"] == ""
    assert rows[0]["paper.test.snr_db"] == "27.4"
    assert '"column": "paper.test.snr_db"' in formats.to_json(table, {})


def test_bound_is_below_fifteen_megabytes():
    assert report.MAX_BYTES <= 15_000_000


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if chromium.PROGRAM is None:
        pytest.skip("no Chromium")
    with chromium.Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


DURATIONS = """
Promise.all([...document.querySelectorAll("audio")].map(player =>
  new Promise(resolve => {
    const tell = () => resolve(player.duration);
    if (player.readyState > 0) return tell();
    player.addEventListener("loadedmetadata", tell);
    player.addEventListener("error", () => resolve(-1));
    player.load();
  })))
"""


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("is_dark", [False, True])
def test_in_a_browser(browser, page, tmp_path, width, is_dark):
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    browser.open(path, width=width, is_dark=is_dark)
    assert browser.evaluate(DURATIONS) == pytest.approx([0.5] * 6)
    # Tables have as many cells as columns, and nothing wider than the page.
    uneven = "[...document.querySelectorAll('tbody tr')].filter(row => "
    uneven += "row.cells.length != row.parentNode.rows[0].cells.length).length"
    assert browser.evaluate(uneven) == 0
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 23, 27)" if is_dark else "rgb(246, 247, 249)")
    asked = [url for url in browser.requests() if not url.startswith("data:")]
    assert asked == [path.as_uri()]
    assert not [e for e in browser.events if e.get("method") == "Log.entryAdded"]

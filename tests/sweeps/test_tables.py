"""Tables of trials: means, gaps, intervals, and the files they become."""

import csv
import io
import json
import math

import pytest

from uap_jax.sweeps.published import Published
from uap_jax.sweeps.tables import formats, kinds
from uap_jax.sweeps.tables.kinds import Record


def trial(asr=None, *, noise=0.1, snr_db=20.0, **facts):
    facts = {"method": "penalty", "model": "spchcmd", "seed": 0, **facts}
    values = {"test.asr": asr, "control.asr": noise, "test.snr_db": snr_db}
    values |= {"control.same_spectrum.asr": 0.2}
    values |= {"test.asr.low": 0.7, "test.asr.high": 0.9}
    return Record(facts, None if asr is None else values)


def test_means_over_what_is_there():
    records = [
        trial(0.8, target="yes", snr_db=None),
        trial(0.6, target="no", snr_db=24.0),
        trial(None, target="up"),
        trial(None, target="up", method="greedy"),
    ]
    table = kinds.mean_table(
        records, rows=["method"], measures=["test.asr", "test.snr_db"]
    )
    penalty, greedy = table.rows
    assert penalty["method"] == "penalty"
    assert (penalty["num_done"], penalty["num_trials"]) == (2, 3)
    assert penalty["test.asr"] == pytest.approx(0.7)
    assert penalty["control.asr"] == pytest.approx(0.1)
    assert penalty["control.same_spectrum.asr"] == pytest.approx(0.2)
    assert penalty["test.snr_db"] == 24.0
    assert (greedy["num_done"], greedy["test.asr"]) == (0, None)


def test_spread_is_that_of_the_means_of_seeds():
    records = [
        trial(asr, seed=seed, target=target, method=method)
        for method, rates in (
            ("penalty", {0: (0.8, 0.6), 1: (0.9, 0.7), 2: (0.5, 0.7)}),
            ("greedy", {0: (0.8, 0.6), 1: (None, None)}),
        )
        for seed, pair in rates.items()
        for target, asr in zip(("yes", "no"), pair, strict=True)
    ]
    table = kinds.mean_table(records, rows=["method"], measures=["test.asr"])
    penalty, greedy = table.rows
    assert penalty["test.asr"] == pytest.approx(0.7)
    # Of 0.7, 0.8 and 0.6.
    assert penalty["test.asr.spread"] == pytest.approx(0.1)
    assert greedy["test.asr.spread"] is None
    by_seed = kinds.mean_table(records, rows=["seed"], measures=["test.asr"])
    one = kinds.mean_table(records[:2], rows=["method"], measures=["test.asr"])
    for without in (by_seed, one):
        assert "test.asr.spread" not in without.rows[0]


def test_rows_stand_in_the_order_of_the_trials():
    records = [
        trial(0.5, model=model, method=method)
        for model in ("b", "a")
        for method in ("greedy", "penalty")
    ]
    table = kinds.mean_table(records, rows=["method", "model"], measures=["test.asr"])
    assert [(row["method"], row["model"]) for row in table.rows] == [
        *(("greedy", "b"), ("greedy", "a"), ("penalty", "b"), ("penalty", "a")),
    ]


def test_rows_of_means_and_the_papers_numbers_beside():
    published = Published(
        "3",
        cells=(
            {"model": "spchcmd", "target": "yes", "test_asr": 0.9, "snr_db": 30.0},
            {"model": "spchcmd", "target": "mean", "test_asr": 0.85, "snr_db": None},
            {"model": "spchcmd", "target": None, "test_asr": 0.7, "snr_db": 10.0},
        ),
    )
    records = [trial(0.8, target="yes"), trial(0.6, target="untargeted")]
    table = kinds.mean_table(
        records,
        rows=["target"],
        measures=["test.asr", "test.snr_db"],
        mean_over=["target"],
        published=published,
    )
    yes, untargeted, mean = table.rows
    assert (yes["target"], yes["paper.test.asr"]) == ("yes", 0.9)
    assert (untargeted["paper.test.asr"], untargeted["paper.test.snr_db"]) == (0.7, 10)
    assert (mean["target"], mean["num_done"]) == ("mean", 2)
    assert mean["test.asr"] == pytest.approx(0.7)
    assert (mean["paper.test.asr"], mean["paper.test.snr_db"]) == (0.85, None)


def test_list_has_a_row_a_trial():
    records = [trial(0.8, target="yes"), trial(None, target="no")]
    table = kinds.list_table(
        records, rows=["target", "nonsense"], measures=["test.asr"]
    )
    yes, no = table.rows
    assert (yes["target"], yes["nonsense"]) == ("yes", None)
    assert (yes["test.asr"], yes["test.asr.low"], yes["control.asr"]) == (0.8, 0.7, 0.1)
    assert set(no.values()) == {"no", None}


def test_intervals_are_over_seeds():
    records = [
        trial(asr, seed=seed, target=target, x=1)
        for seed, rates in enumerate([(0.5, 0.7), (0.7, 0.9), (0.6, 0.8)])
        for target, asr in zip("ab", rates, strict=True)
    ]
    records += [trial(0.4, x=2), trial(None, x=3)]
    table = kinds.curve_table(records, x="x", series=["method"], measures=["test.asr"])
    three, one, none = table.rows
    # Student's t with two degrees of freedom; means of the seeds 0.6, 0.8, 0.7.
    half = 4.302652729911275 * 0.1 / math.sqrt(3)
    assert three["test.asr"] == pytest.approx(0.7)
    assert three["test.asr.low"] == pytest.approx(0.7 - half)
    assert three["test.asr.high"] == pytest.approx(0.7 + half)
    assert (one["test.asr"], one["test.asr.low"]) == (0.4, None)
    assert (none["x"], none["test.asr"], none["control.asr"]) == (3, None, None)


def test_transfer_is_a_matrix():
    records = [
        Record({"model": "a", "victim": "a"}, {"asr": 0.9, "control": 0.1}),
        Record({"model": "b", "victim": "b"}, None),
        Record(
            {"model": "a", "victim": "b"},
            {
                "asr": 0.3,
                "control": 0.2,
                "same_spectrum": 0.25,
                "chance": 0.1,
                "published": 0.4,
            },
        ),
        Record({"model": "b", "victim": "a"}, None),
    ]
    table = kinds.transfer_table(records, rows=["model"], published=True)
    first, second = table.rows
    assert (first["a.asr"], first["b.asr"], first["b.control"]) == (0.9, 0.3, 0.2)
    # Earlier results have no second control.
    assert (first["a.same_spectrum"], first["b.same_spectrum"]) == (None, 0.25)
    assert (first["chance"], first["b.published"]) == (0.1, 0.4)
    assert set(second.values()) == {"b", None}


def test_significance_leaves_gaps():
    table = kinds.significance_table(
        [{"model": "a", "num_done": 0, "num_trials": 2}], rows=["model"]
    )
    (row,) = table.rows
    assert (row["model"], row["num_done"], row.get("z")) == ("a", 0, None)
    assert "| a | 0 / 2 | - | - |" in formats.to_markdown(table)


@pytest.fixture
def table():
    records = [trial(0.81234, target="a|b_c"), trial(None, target="d&e%")]
    return kinds.mean_table(records, rows=["target"], measures=["test.asr"])


def test_markdown(table):
    lines = formats.to_markdown(table).splitlines()
    assert lines == [
        "| target | trials: done / of | test ASR: here / noise / same spectrum |",
        "| --- | --- | --- |",
        "| a\\|b_c | 1 / 1 | 0.812 / 0.100 / 0.200 |",
        "| d&e% | 0 / 1 | - / - / - |",
    ]


def test_csv_and_json_hold_all_digits(table):
    rows = list(csv.DictReader(io.StringIO(formats.to_csv(table))))
    assert rows[0]["test.asr"] == "0.81234"
    assert rows[1]["test.asr"] == ""
    stored = json.loads(formats.to_json(table, {"name": "try"}))
    assert stored["name"] == "try"
    assert stored["rows"][0] == {
        **{"target": "a|b_c", "num_done": 1, "num_trials": 1},
        **{"test.asr": 0.81234, "control.asr": 0.1, "control.same_spectrum.asr": 0.2},
    }
    assert stored["rows"][1]["test.asr"] is None


def test_latex_is_escaped(table):
    text = formats.to_latex(table)
    assert r"a|b\_c & 1 / 1 & 0.812 / 0.100 / 0.200 \\" in text
    assert r"d\&e\% & 0 / 1" in text
    assert text.count(r"\hline") == 3

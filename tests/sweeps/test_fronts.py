"""Success rate against level: what is collected, where a rate is crossed, a figure."""

import re

import numpy as np
import pytest

from uap_jax import files
from uap_jax.sweeps import figures, fronts, tables


def entry(snr_ac_db, asr, control=0.1):
    return {
        "test": {"asr": asr, "snr_ac_db": snr_ac_db, "snr_db": snr_ac_db + 18},
        "control": {"asr": control},
    }


def test_points_of_fronts_and_single_runs():
    front = {"front": [entry(10.0, 0.95), {"asr_level": 0.9}, entry(14.0, 0.8)]}
    points = fronts.points_of("decoupled", [front, entry(12.0, 0.9, 0.2)])
    assert points.name == "decoupled"
    np.testing.assert_array_equal(points.snr_db, [14.0, 12.0, 10.0])
    np.testing.assert_array_equal(points.asr, [0.8, 0.9, 0.95])
    np.testing.assert_array_equal(points.control, [0.1, 0.2, 0.1])
    with_rest = fronts.points_of("decoupled", [front], measure="snr_db")
    np.testing.assert_array_equal(with_rest.snr_db, [32.0, 28.0])
    assert not len(fronts.points_of("none", [{"front": [{"asr_level": 0.9}]}]).asr)


@pytest.mark.parametrize(
    ("asr", "expected"), [(0.9, 12.0), (0.85, 13.0), (0.8, 14.0), (0.97, None)]
)
def test_crossing(asr, expected):
    points = fronts.points_of("a", [entry(14.0, 0.8), entry(12.0, 0.9)])
    assert fronts.snr_at_rate(points, asr) == pytest.approx(expected)


def test_crossing_of_one_point_or_of_equal_rates():
    assert fronts.snr_at_rate(fronts.points_of("a", [entry(14.0, 0.8)]), 0.8) is None
    same = fronts.points_of("a", [entry(14.0, 0.8), entry(10.0, 0.8)])
    assert fronts.snr_at_rate(same, 0.8) == pytest.approx(14.0)


def test_figure():
    series = [
        fronts.points_of("decoupled", [entry(14.0, 0.8), entry(12.0, 0.9)]),
        fronts.points_of("<penalty>", [entry(6.0, 0.9, 0.3)]),
    ]
    drawn = figures.front_svg(series, level_label="SNR (dB)", title="Real speech")
    assert drawn.startswith("<svg ") and "decoupled" in drawn
    assert "&lt;penalty&gt;" in drawn and "<penalty>" not in drawn
    assert "80% at 14.0 dB" in drawn.split(">", 1)[0]
    assert drawn == figures.front_svg(
        series, level_label="SNR (dB)", title="Real speech"
    )


def test_noise_that_was_not_measured_does_not_cut_its_line():
    def noise_lines(*entries):
        points = fronts.points_of("a", entries)
        drawn = figures.front_svg([points], level_label="SNR (dB)", title="t")
        paths = re.findall(r'd="([^"]*)"[^>]*stroke-dasharray', drawn)
        return sum(path.count("M") for path in paths)

    measured = [entry(14.0, 0.8), entry(10.0, 0.9)]
    # The line itself and that of the legend.
    assert noise_lines(*measured) == 2
    assert noise_lines(*measured, entry(12.0, 0.85, np.nan)) == 2


def test_what_another_point_beats_is_left_out():
    entries = [entry(14.0, 0.8), entry(12.0, 0.9), entry(11.0, 0.85), entry(12.0, 0.7)]
    found = fronts.undominated(fronts.points_of("a", [*entries, entry(14.0, 0.8)]))
    np.testing.assert_array_equal(found.snr_db, [14.0, 14.0, 12.0])
    np.testing.assert_array_equal(found.asr, [0.8, 0.8, 0.9])


def make_front(points):
    """A table of (model, target, method, kappa, SNR, ASR)."""
    records = []
    for model, target, method, kappa, snr_ac_db, asr in points:
        facts = {"model": model, "target": target, "method": method, "kappa": kappa}
        values = None
        if asr is not None:
            values = files.flatten({"train": {"asr": 1.0}, **entry(snr_ac_db, asr)})
        records.append(tables.Record(facts, values))
    rows = ("model", "target", "method", "kappa")
    return tables.list_table(records, rows=rows, measures=fronts.MEASURES)


POINTS = [
    ("net", "untargeted", "decoupled", None, 14.0, 0.8),
    ("net", "untargeted", "decoupled", None, 10.0, 0.95),
    ("net", "untargeted", "penalty", 0, 6.0, 0.85),
    ("net", "untargeted", "penalty", 10, 4.0, 0.95),
    ("net", "up", "decoupled", None, 3.0, 0.9),
    ("net", "up", "penalty", 0, None, None),
]


def test_a_figure_for_each_goal():
    table = make_front(POINTS)
    drawn = figures.draw_fronts(table, series=["method"], title="How quiet")
    assert [curve.label for curve in drawn.curves] == ["untargeted", '"up"']
    first, second = (curve.svg for curve in drawn.curves)
    assert "decoupled: 80% at 14.0 dB to 95% at 10.0 dB" in first
    assert "penalty: 85% at 6.0 dB to 95% at 4.0 dB" in first
    assert "decoupled: 90% at 3.0 dB" in second and "penalty" not in second
    apart = figures.draw_fronts(table, series=["method", "kappa"], title="How quiet")
    assert "penalty 10: 95% at 4.0 dB" in apart.curves[0].svg


def test_models_are_named_where_there_are_several():
    table = make_front([*POINTS, ("other", "up", "penalty", 0, 5.0, 0.5)])
    drawn = figures.draw_fronts(table, series=["method"], title="How quiet")
    labels = [curve.label for curve in drawn.curves]
    assert labels == ["net, untargeted", 'net, "up"', 'other, "up"']


def test_levels_in_words():
    found = fronts.levels_at(make_front(POINTS), 0.9, series=["method"])
    assert found[0].endswith("ASR of 0.9: decoupled 11.3 dB, penalty 5.0 dB")
    assert found[1].endswith("decoupled (all to one side of it)")


def test_a_front_of_which_nothing_is_there():
    table = make_front([("net", "up", "penalty", 0, None, None)])
    assert figures.draw_fronts(table, series=["method"], title="T").curves == ()
    assert fronts.levels_at(table, 0.9, series=["method"]) == []

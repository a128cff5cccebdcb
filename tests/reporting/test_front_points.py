"""Success rate against level: what is collected, where a rate is crossed, a figure."""

import re

import numpy as np
import pytest

from uap_jax.reporting import fronts


def entry(snr_ac_db, asr, control=0.1, same_spectrum=None):
    same = {} if same_spectrum is None else {"same_spectrum": {"asr": same_spectrum}}
    return {
        "test": {"asr": asr, "snr_ac_db": snr_ac_db, "snr_db": snr_ac_db + 18},
        "control": {"asr": control, **same},
    }


def test_points_of_fronts_and_single_runs():
    front = {"front": [entry(10.0, 0.95), {"asr_level": 0.9}, entry(14.0, 0.8)]}
    points = fronts.points_of("decoupled", [front, entry(12.0, 0.9, 0.2, 0.3)])
    assert points.name == "decoupled"
    np.testing.assert_array_equal(points.snr_db, [14.0, 12.0, 10.0])
    np.testing.assert_array_equal(points.asr, [0.8, 0.9, 0.95])
    np.testing.assert_array_equal(points.control, [0.1, 0.2, 0.1])
    np.testing.assert_array_equal(points.same_spectrum, [np.nan, 0.3, np.nan])
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
    drawing = fronts.draw_front(series, title="Real speech")
    assert drawing.svg.startswith("<svg ") and "decoupled" in drawing.svg
    assert "&lt;penalty&gt;" in drawing.svg and "<penalty>" not in drawing.svg
    assert "80% at 14.0 dB" in drawing.alt
    assert drawing == fronts.draw_front(series, title="Real speech")


def test_noise_that_was_not_measured_does_not_cut_its_line():
    def noise_lines(*entries):
        points = fronts.points_of("a", entries)
        drawing = fronts.draw_front([points], title="t")
        paths = re.findall(r'd="([^"]*)"[^>]*stroke-dasharray', drawing.svg)
        return sum(path.count("M") for path in paths)

    measured = [entry(14.0, 0.8), entry(10.0, 0.9)]
    # The line itself and that of the legend.
    assert noise_lines(*measured) == 2
    assert noise_lines(*measured, entry(12.0, 0.85, np.nan)) == 2
    both = [entry(14.0, 0.8, 0.1, 0.2), entry(10.0, 0.9, 0.1, 0.3)]
    assert noise_lines(*both, *measured) == 4


def test_what_another_point_beats_is_left_out():
    entries = [entry(14.0, 0.8), entry(12.0, 0.9), entry(11.0, 0.85), entry(12.0, 0.7)]
    found = fronts.undominated(fronts.points_of("a", [*entries, entry(14.0, 0.8)]))
    np.testing.assert_array_equal(found.snr_db, [14.0, 14.0, 12.0])
    np.testing.assert_array_equal(found.asr, [0.8, 0.8, 0.9])

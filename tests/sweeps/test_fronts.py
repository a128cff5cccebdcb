"""Fronts of a sweep: a figure for each goal, levels in words."""

from uap_jax import files
from uap_jax.sweeps import figures
from uap_jax.sweeps.tables import fronts, kinds


def entry(snr_ac_db, asr, control=0.1):
    return {
        "test": {"asr": asr, "snr_ac_db": snr_ac_db, "snr_db": snr_ac_db + 18},
        "control": {"asr": control},
    }


def make_front(points):
    """A table of (model, target, method, kappa, SNR, ASR)."""
    records = []
    for model, target, method, kappa, snr_ac_db, asr in points:
        facts = {"model": model, "target": target, "method": method, "kappa": kappa}
        values = None
        if asr is not None:
            values = files.flatten({"train": {"asr": 1.0}, **entry(snr_ac_db, asr)})
        records.append(kinds.Record(facts, values))
    rows = ("model", "target", "method", "kappa")
    return kinds.list_table(records, rows=rows, measures=fronts.MEASURES)


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
    first, second = (curve.drawing.alt for curve in drawn.curves)
    assert "decoupled: 80% at 14.0 dB to 95% at 10.0 dB" in first
    assert "penalty: 85% at 6.0 dB to 95% at 4.0 dB" in first
    assert "decoupled: 90% at 3.0 dB" in second and "penalty" not in second
    apart = figures.draw_fronts(table, series=["method", "kappa"], title="How quiet")
    assert "penalty 10: 95% at 4.0 dB" in apart.curves[0].drawing.alt


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

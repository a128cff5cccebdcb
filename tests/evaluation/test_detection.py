"""Misses, false alarms and the clips that count for a detector, by hand."""

import numpy as np
import pytest

from uap_jax.evaluation import (
    Evaluation,
    describe_detection,
    detection_rates,
    summarize,
    wilson_interval,
)

#                   held, fires; held, misses; not held, silent; not held, fires; NaN
LABELS = np.array([1, 1, 1, 1, 0, 0, 0, 1])
CLEAN = np.array([1, 1, 1, 0, 0, 0, 1, -1])
PERTURBED = np.array([0, 0, 1, 0, 1, 0, -1, 0])
NOISE = np.array([1, 0, 1, 1, 0, 0, 1, 1])


def by_hand():
    levels = np.zeros(len(LABELS), np.float32)
    states = (LABELS, CLEAN, PERTURBED, PERTURBED, CLEAN, NOISE, NOISE)
    return Evaluation(*states, *[levels] * 5)


def test_rates_are_shares_of_the_clips_they_are_about():
    rates = detection_rates(by_hand())
    expected = {
        # Of five clips that hold it one is missed; of three others one is alarmed.
        "clean": {"miss_rate": (1, 5), "false_alarm_rate": (1, 3)},
        "perturbed": {
            "miss_rate": (4, 5),
            "false_alarm_rate": (1, 3),
            "turned_off": (2, 4),
            "turned_on": (1, 3),
        },
        "control": {
            "miss_rate": (1, 5),
            "false_alarm_rate": (1, 3),
            "turned_off": (1, 4),
            "turned_on": (1, 3),
        },
        "shifted": {"turned_off": (0, 4), "turned_on": (0, 3)},
    }
    assert set(rates["clean"]) == {"miss_rate", "false_alarm_rate"}
    for heard, shares in expected.items():
        for name, (count, total) in shares.items():
            assert rates[heard][name] == {
                "rate": count / total,
                "ci95": list(wilson_interval(count, total)),
                "num_clips": total,
            }, (heard, name)
    assert rates["same_spectrum"] == rates["control"]
    assert rates["waveform"] == rates["perturbed"]


@pytest.mark.parametrize(
    ("target", "num_counted", "asr", "noise"),
    [
        # Towards firing: three clean clips do not; one of them does with the sound.
        (1, 3, 1 / 3, 1 / 3),
        # Towards missing: four do; two of them no longer.
        (0, 4, 1 / 2, 1 / 4),
        # Any change, over all clips; what is not finite is none.
        (None, 8, 3 / 8, 2 / 8),
    ],
)
def test_success_counts_clips_in_the_other_state(target, num_counted, asr, noise):
    summary = summarize(by_hand(), target=target, detects="voice")
    test = summary["test"]
    assert (test["num_clips"], test["num_counted"]) == (8, num_counted)
    assert test["asr"] == pytest.approx(asr)
    assert test["asr_waveform"] == test["asr"] and test["asr_shifted"] == 0.0
    successes = round(asr * num_counted)
    assert test["asr_ci95"] == list(wilson_interval(successes, num_counted))
    assert summary["control"]["asr"] == pytest.approx(noise)
    assert summary["detection"]["label"] == "voice"
    # A classifier counts all clips, and has no such rates.
    plain = summarize(by_hand(), target=target)
    assert "detection" not in plain and "num_counted" not in plain["test"]


def test_nothing_is_said_of_no_clips():
    voiced = Evaluation(*(column[LABELS == 1] for column in by_hand()))
    rates = detection_rates(voiced)
    assert rates["perturbed"]["false_alarm_rate"]["rate"] is None
    summary = summarize(voiced, target=1, detects="voice")
    lines = describe_detection(summary)
    assert [line.split()[0] for line in lines] == ["misses", "the"]
    quiet = Evaluation(*(column[CLEAN == 0] for column in by_hand()))
    assert summarize(quiet, target=0, detects="voice")["test"]["asr"] is None
    assert describe_detection({"test": {}}) == []

"""Classes of corpora as those of classifiers and detectors."""

import dataclasses

import numpy as np
import pytest

from uap_jax.bridges.deployed import DEPLOYED, Entry
from uap_jax.data.dataset import Dataset
from uap_jax.errors import UsageError
from uap_jax.runs.classes import match_classes
from uap_jax.runs.config import RunConfig

STATES = ("no voice", "voice")


def clips_of(*class_names):
    return Dataset(
        name="sounds",
        clips=np.zeros((len(class_names), 4), np.int16),
        labels=np.arange(len(class_names), dtype=np.int32),
        class_names=class_names,
        groups=np.array(class_names),
        names=np.array(class_names),
        sample_rate_hz=8000,
        fingerprint="",
    )


def config_for(class_names, num_classes=3, **settings):
    own = {"num_classes": num_classes, "class_names": class_names}
    return RunConfig(model="m:f", dataset="folder", own_model=own, **settings)


def test_corpus_and_model_match_by_class_names():
    named = config_for(("mid", "low", "high"))
    matched = match_classes(named, clips_of("high", "low"))
    assert matched.class_names == ("mid", "low", "high")
    assert matched.labels.tolist() == [2, 1]
    with pytest.raises(UsageError, match=r"among mid, low, high, got folder with loud"):
        match_classes(named, clips_of("high", "loud"))
    three = clips_of("high", "low", "mid")
    assert match_classes(config_for(None), three) is three
    with pytest.raises(UsageError, match=r"of 3 classes, got folder of 2: high, low"):
        match_classes(config_for(None), clips_of("high", "low"))
    untrained = RunConfig(dataset="folder", data_dir="/sounds")
    with pytest.raises(UsageError, match="2 classes in /sounds, got only 'a'"):
        match_classes(untrained, clips_of("a"))


@pytest.mark.parametrize(
    ("names", "present", "labels"),
    [
        (("voice",), None, [1]),
        (("voice", "noise"), None, [1, 0]),
        (("no voice", "voice"), None, [0, 1]),
        (("no voice",), None, [0]),
        (("dog", "man", "woman"), "man, woman", [0, 1, 1]),
        (("voice", "song"), "song", [0, 1]),
    ],
)
def test_a_corpus_as_the_states_of_a_detector(names, present, labels):
    matched = match_classes(config_for(STATES, 2, present=present), clips_of(*names))
    assert matched.class_names == STATES
    assert matched.labels.tolist() == labels


def test_the_card_says_what_does_not_hold_the_label(monkeypatch):
    card = Entry(*["words"] * 8, absent=("_silence_",))
    monkeypatch.setitem(DEPLOYED, "m:f", card)
    matched = match_classes(config_for(STATES, 2), clips_of("yes", "_silence_", "no"))
    assert matched.labels.tolist() == [1, 0, 1]


def test_unclear_classes_of_a_detector_are_refused():
    with pytest.raises(UsageError, match=r"^--present: .* hold 'voice', some of a, b$"):
        match_classes(config_for(STATES, 2), clips_of("a", "b"))
    with pytest.raises(UsageError, match=r"^--present: .* among a, b, got c, d$"):
        match_classes(config_for(STATES, 2, present="d,a,c"), clips_of("a", "b"))
    plain = dataclasses.replace(config_for(("a", "b"), 2), present="a")
    with pytest.raises(UsageError, match=r"^--present: m:f is no detector$"):
        match_classes(plain, clips_of("a", "b"))

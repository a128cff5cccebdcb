"""Success rates and levels, against plain NumPy on toy logits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax.attacks import Perturbation, perturbation_waveform
from uap_jax.data.dataset import Dataset
from uap_jax.evaluation import (
    Evaluation,
    attack_success_rate,
    evaluate_perturbation,
    select,
    summarize,
    waveform_gain,
)
from uap_jax.evaluation.success import BLOCK_SIZE, PART_SIZE, predict_in_parts

NUM_SAMPLES, NUM_CLASSES = 64, 3
LEVELS = ("snr_db", "snr_ac_db", "relative_loudness_db")
RNG = np.random.default_rng(11)
TEMPLATES = RNG.standard_normal((NUM_CLASSES, NUM_SAMPLES)).astype(np.float32)
VARIABLES = {"templates": TEMPLATES}


def toy_logits(variables, x):
    return (x - 0.5) @ variables["templates"].T


def make_dataset(num_clips=70, *, silent=()):
    """Quiet clips of one template each with noise, as PCM."""
    rng = np.random.default_rng(12)
    labels = (np.arange(num_clips) % NUM_CLASSES).astype(np.int32)
    gain = rng.uniform(500, 3000, (num_clips, 1))
    noise = 0.3 * rng.standard_normal((num_clips, NUM_SAMPLES))
    clips = np.round(gain * (TEMPLATES[labels] + noise)).astype(np.int16)
    clips[list(silent)] = 0
    names = np.array([f"{index}.wav" for index in range(num_clips)])
    return Dataset(
        name="toy",
        clips=clips,
        labels=labels,
        class_names=("a", "b", "c"),
        groups=names,
        names=names,
        sample_rate_hz=8000,
        fingerprint="toy",
    )


def make_perturbation(space="tanh", scale=0.05):
    # Towards class 1, so that some predictions change.
    return Perturbation(jnp.asarray(scale * TEMPLATES[1]), space=space)


def evaluate(dataset, perturbation, *, indices=None, **changes):
    arguments = {
        "scaling": "fixed",
        "sound": np.asarray(perturbation_waveform(perturbation)),
        "gain": 1.0,
        "key": jax.random.key(5),
    }
    indices = np.arange(len(dataset.labels)) if indices is None else indices
    return evaluate_perturbation(
        toy_logits, VARIABLES, dataset, indices, perturbation, **(arguments | changes)
    )


def plain_box(waveform, scaling):
    if scaling == "fixed":
        return np.clip((waveform + 1) / 2, 0, 1)
    if scaling == "peak":
        return 0.5 + 0.5 * waveform / np.max(np.abs(waveform), axis=1, keepdims=True)
    low = np.min(waveform, axis=1, keepdims=True)
    return (waveform - low) / (np.max(waveform, axis=1, keepdims=True) - low)


def plain_predictions(x):
    return np.argmax((x - 0.5) @ np.float64(TEMPLATES).T, axis=1)


def plain_rms(x):
    return np.sqrt(np.mean(x**2, axis=1))


@pytest.mark.parametrize(
    ("scaling", "space"),
    [("fixed", "tanh"), ("peak", "signal"), ("minmax", "tanh")],
)
def test_against_plain_numpy(scaling, space):
    dataset = make_dataset()
    scale = 0.1 if scaling == "fixed" else 0.8
    perturbation = make_perturbation(space, scale)
    gain = 0.4
    result = evaluate(dataset, perturbation, scaling=scaling, gain=gain)

    v = np.float64(perturbation.value)
    waveform = dataset.clips / 32768
    x = plain_box(waveform, scaling)
    if space == "tanh":
        perturbed = 0.5 + 0.5 * np.tanh(np.arctanh((2 * x - 1) * (1 - 1e-7)) + v)
        sound = np.tanh(v)
    else:
        perturbed = np.clip(x + v, 0, 1)
        sound = np.clip(2 * v, -1, 1)
    recording = np.clip(np.round((waveform + gain * sound) * 32768), -32768, 32767)
    delta = perturbed - x
    np.testing.assert_array_equal(result.labels, dataset.labels)
    np.testing.assert_array_equal(result.clean, plain_predictions(x))
    np.testing.assert_array_equal(result.perturbed, plain_predictions(perturbed))
    np.testing.assert_array_equal(
        result.waveform, plain_predictions(plain_box(recording / 32768, scaling))
    )
    expected = 20 * np.log10(plain_rms(x) / plain_rms(delta))
    np.testing.assert_allclose(result.snr_db, expected, atol=1e-3)
    ac = [signal - signal.mean(axis=1, keepdims=True) for signal in (x, delta)]
    expected = 20 * np.log10(plain_rms(ac[0]) / plain_rms(ac[1]))
    np.testing.assert_allclose(result.snr_ac_db, expected, atol=1e-3)
    peaks = np.max(np.abs(delta), axis=1) / np.max(np.abs(x), axis=1)
    np.testing.assert_allclose(
        result.relative_loudness_db, 20 * np.log10(peaks), atol=1e-3
    )
    # The victim is right when clean, and the perturbation does something.
    assert np.mean(result.clean == result.labels) > 0.95
    assert np.mean(result.perturbed == 1) > 0.6
    assert {column.dtype for column in result[:7]} == {np.dtype(np.int32)}
    assert {column.dtype for column in result[7:]} == {np.dtype(np.float32)}


def test_controls_have_the_rms_of_the_perturbation():
    dataset = make_dataset()
    perturbation = make_perturbation("signal", 0.02)
    result = evaluate(dataset, perturbation)
    x = plain_box(dataset.clips / 32768, "fixed")
    rms = np.sqrt(np.mean(np.float64(perturbation.value) ** 2))
    expected = 20 * np.log10(plain_rms(x) / rms)
    difference = result.control_snr_db - expected
    # Of 64 samples the RMS scatters by a few tenths of a dB; and no two are the same.
    assert np.max(np.abs(difference)) < 3 and abs(np.mean(difference)) < 0.3
    assert len(np.unique(difference.round(4))) > 60
    np.testing.assert_allclose(result.same_spectrum_snr_db, expected, atol=1e-3)
    targeted = [np.mean(column == 1) for column in (result.control, result.perturbed)]
    assert targeted[0] < targeted[1]


def evaluate_silence(logits_fn, num_clips, sound, *, scaling="fixed"):
    """The single sound alone, as every clip is silent."""
    return evaluate_perturbation(
        logits_fn,
        VARIABLES,
        make_dataset(200, silent=range(200)),
        np.arange(num_clips),
        make_perturbation(),
        scaling=scaling,
        sound=np.float32(sound),
        gain=1.0,
        key=jax.random.key(1),
    )


def any_sound(variables, x):
    heard = jnp.max(jnp.abs(x - 0.5), axis=1) > 1e-6
    return jnp.stack([~heard, heard], axis=1).astype(jnp.float32)


def place_of_peak(variables, x):
    return jnp.abs(x - 0.5)


def clicks(**levels):
    return [levels.get(f"at_{index}", 0.0) for index in range(NUM_SAMPLES)]


@pytest.mark.parametrize(("step", "expected"), [(0.4, 0), (0.6, 1)])
def test_waveform_is_saved_as_pcm16(step, expected):
    """A sound of less than half a step is lost, however sensitive the classifier."""
    result = evaluate_silence(any_sound, 5, np.full(NUM_SAMPLES, step / 32768))
    np.testing.assert_array_equal(result.waveform, expected)


def test_shifts():
    """A click is heard at its position, and shifted at every other."""
    result = evaluate_silence(place_of_peak, 200, clicks(at_7=0.5))
    np.testing.assert_array_equal(result.waveform, 7)
    assert len(np.unique(result.shifted)) > 0.8 * NUM_SAMPLES
    assert result.shifted.min() >= 0 and result.shifted.max() < NUM_SAMPLES


def test_white_noise_is_of_each_clip_and_the_other_control_of_all():
    result = evaluate_silence(place_of_peak, 200, clicks())
    assert len(np.unique(result.control)) > 0.8 * NUM_SAMPLES
    assert len(np.unique(result.same_spectrum)) == 1


def test_waveform_is_clipped_at_full_scale():
    sound = clicks(at_7=1.5, at_9=3.0)
    result = evaluate_silence(place_of_peak, 3, sound, scaling="peak")
    # Both are full scale then, and the first of equals counts.
    np.testing.assert_array_equal(result.waveform, 7)


def test_logits_that_are_not_finite_are_never_a_success():
    def broken(variables, x):
        return jnp.where(jnp.max(x) > 0.5, jnp.nan, 0.0) + jnp.zeros((len(x), 3))

    result = evaluate_silence(broken, 5, clicks(at_7=0.5))
    np.testing.assert_array_equal(result.clean, 0)
    for column in (*result[2:4], result.control, result.same_spectrum):
        np.testing.assert_array_equal(column, -1)
    for target in (None, 0):
        summary = summarize(result, target=target)
        control = summary["control"]
        for part in (summary["test"], control, control["same_spectrum"]):
            assert (part["asr"], part["num_non_finite"]) == (0.0, 5)


def test_no_class_differs_from_an_unknown_one():
    clean, perturbed = np.array([-1, -1, 0, 0]), np.array([-1, 1, -1, 1])
    assert attack_success_rate(perturbed, clean, target=None) == 0.25
    assert attack_success_rate(perturbed, clean, target=1) == 0.5


def test_blocks_do_not_matter(tmp_path):
    dataset = make_dataset(BLOCK_SIZE + 6)
    np.save(tmp_path / "clips.npy", dataset.clips)
    clips = np.load(tmp_path / "clips.npy", mmap_mode="r")
    dataset = dataclasses.replace(dataset, clips=clips)
    perturbation = make_perturbation()
    calls = []
    every = evaluate(dataset, perturbation, progress=lambda *call: calls.append(call))
    assert len(every.clean) == BLOCK_SIZE + 6
    assert calls == [("evaluating", 64, 70), ("evaluating", 70, 70)]
    for num_clips in (1, PART_SIZE + 1, BLOCK_SIZE):
        some = evaluate(dataset, perturbation, indices=np.arange(num_clips))
        for result, expected in zip(some, every, strict=True):
            np.testing.assert_array_equal(result, expected[:num_clips])
    # Any order, but for noise and shifts, which belong to the position.
    order = np.array([69, 3, 41])
    some = evaluate(dataset, perturbation, indices=order)
    for field in ("labels", "clean", "perturbed", "waveform", "snr_db", "snr_ac_db"):
        np.testing.assert_array_equal(
            getattr(some, field), getattr(every, field)[order], err_msg=field
        )


@pytest.mark.parametrize("num_clips", [1, PART_SIZE, PART_SIZE + 1, 3 * PART_SIZE])
def test_parts_after_the_last_clip_are_not_classified(num_clips):
    heard = []

    def counted(variables, x):
        assert x.shape[0] == PART_SIZE
        jax.debug.callback(lambda part: heard.append(part.shape[0]), x)
        return place_of_peak(variables, x)

    x = jax.random.uniform(jax.random.key(0), (3 * PART_SIZE, NUM_SAMPLES))
    count = jnp.asarray(num_clips, jnp.int32)
    result = predict_in_parts(counted, VARIABLES, x, count)
    jax.effects_barrier()
    assert sum(heard) == -(-num_clips // PART_SIZE) * PART_SIZE
    expected = np.argmax(place_of_peak(VARIABLES, x), axis=1)
    np.testing.assert_array_equal(result[:num_clips], expected[:num_clips])


@pytest.mark.parametrize("scaling", ["fixed", "minmax"])
def test_silent_clips_have_no_levels(scaling):
    dataset = make_dataset(8, silent=(2, 5))
    result = evaluate(dataset, make_perturbation(), scaling=scaling)
    silent = np.isin(np.arange(8), (2, 5))
    for field in ("control_snr_db", "same_spectrum_snr_db", *LEVELS):
        np.testing.assert_array_equal(np.isnan(getattr(result, field)), silent)
    test = summarize(result, target=None)["test"]
    assert test["num_silent"] == 2 and test["num_clips"] == 8
    assert test["snr_db"] == pytest.approx(np.mean(result.snr_db[~silent]), rel=1e-6)


def test_attack_success_rate():
    predictions = np.array([0, 1, 1, 2], np.int32)
    clean = np.array([0, 1, 2, 2], np.int32)
    assert attack_success_rate(predictions, clean, target=None) == 0.25
    assert attack_success_rate(predictions, clean, target=1) == 0.5
    assert attack_success_rate(predictions, clean, target=3) == 0.0
    none = np.zeros(0, np.int32)
    for few, many in ((none, none), (clean[:2], clean), (clean[:, None], clean)):
        with pytest.raises(ValueError, match=r"predictions: expected at least one"):
            attack_success_rate(few, many, target=None)


def hand_made(**changes):
    nan = np.nan
    columns = {
        "labels": [0, 0, 1, 1, 2],
        "clean": [0, 1, 1, 1, 2],
        "perturbed": [1, 1, 1, 0, 2],
        "waveform": [1, 1, 1, 1, 1],
        "shifted": [0, 1, 1, 1, 2],
        "control": [0, 1, 1, 1, 0],
        "same_spectrum": [1, -1, 1, 0, 0],
        "snr_db": [10, 20, nan, 30, 40],
        "snr_ac_db": [1, 2, nan, 3, 4],
        "relative_loudness_db": [-1, -2, nan, -3, -4],
        "control_snr_db": [5, 5, nan, 5, 9],
        "same_spectrum_snr_db": [5, 5, nan, 5, 5],
    }
    columns = columns | changes
    arrays = [np.asarray(columns[field]) for field in Evaluation._fields]
    return Evaluation(*arrays)


def test_summarize_untargeted():
    summary = summarize(hand_made(), target=None)
    assert summary["clean_accuracy"] == 0.8
    test = summary["test"]
    assert test["asr"] == 0.4
    # Wilson, 2 of 5.
    assert test["asr_ci95"] == pytest.approx([0.117621, 0.769276], abs=1e-6)
    # Clips 0, 2, 3, 4 are right when clean; 0 and 3 change.
    assert test["asr_clean_correct"] == 0.5
    assert test["accuracy_perturbed"] == 0.4
    assert (test["snr_db"], test["snr_ac_db"]) == (25.0, 2.5)
    assert test["relative_loudness_db"] == -2.5
    assert (test["asr_waveform"], test["asr_shifted"]) == (0.4, 0.0)
    assert (test["num_clips"], test["num_silent"]) == (5, 1)
    control = summary["control"]
    assert control["asr"] == 0.2
    assert control["accuracy_perturbed"] == 0.6
    assert control["snr_db"] == 6.0
    assert control["same_spectrum"] == {
        "asr": 0.6,
        "asr_ci95": pytest.approx([0.230724, 0.882379], abs=1e-6),
        "accuracy_perturbed": 0.2,
        "num_non_finite": 1,
        "snr_db": 5.0,
    }


def test_summarize_targeted():
    summary = summarize(hand_made(), target=1)
    test = summary["test"]
    assert test["asr"] == 0.6
    # Right when clean and not of class 1: clips 0 and 4, of which 0 says 1.
    assert test["asr_clean_correct"] == 0.5
    assert (test["asr_waveform"], test["asr_shifted"]) == (1.0, 0.6)
    assert summary["control"]["asr"] == 0.6
    assert summary["control"]["same_spectrum"]["asr"] == 0.4


def test_summarize_without_eligible_or_audible_clips():
    wrong = hand_made(clean=[1, 1, 0, 0, 0])
    assert summarize(wrong, target=None)["test"]["asr_clean_correct"] is None
    # All that are right are of the target class.
    same = hand_made(clean=[1, 1, 1, 1, 0])
    assert summarize(same, target=1)["test"]["asr_clean_correct"] is None
    silence = [np.nan] * 5
    silent = hand_made(
        snr_db=silence,
        snr_ac_db=silence,
        relative_loudness_db=silence,
        control_snr_db=silence,
        same_spectrum_snr_db=silence,
    )
    summary = summarize(silent, target=None)
    assert summary["test"]["num_silent"] == 5
    assert summary["test"]["snr_db"] is None and summary["control"]["snr_db"] is None


def test_select():
    evaluation = hand_made()
    some = select(evaluation, evaluation.labels == 1)
    np.testing.assert_array_equal(some.perturbed, [1, 0])
    np.testing.assert_array_equal(some.snr_db, [np.nan, 30])
    some = select(evaluation, np.array([4, 0]))
    np.testing.assert_array_equal(some.labels, [2, 0])


def test_waveform_gain():
    dataset = make_dataset()
    every = np.arange(70)
    waveform = dataset.clips / 32768
    peaks = np.max(np.abs(waveform), axis=1)
    ranges = np.max(waveform, axis=1) - np.min(waveform, axis=1)
    assert waveform_gain(dataset, every, scaling="fixed") == 1.0
    result = waveform_gain(dataset, every, scaling="peak")
    assert result == pytest.approx(np.median(peaks), rel=1e-6)
    result = waveform_gain(dataset, every, scaling="minmax")
    assert result == pytest.approx(np.median(ranges) / 2, rel=1e-6)
    result = waveform_gain(dataset, every[5:6], scaling="peak")
    assert result == pytest.approx(peaks[5], rel=1e-6)


def test_gain_gives_a_clip_of_median_scale_what_the_attack_added():
    """In signal space the two ways of adding the sound are then the same."""
    dataset = make_dataset(1)
    perturbation = make_perturbation("signal", 0.02)
    gain = waveform_gain(dataset, np.arange(1), scaling="peak")
    waveform = dataset.clips / 32768
    sound = np.asarray(perturbation_waveform(perturbation))
    peak = np.max(np.abs(waveform))
    added = (waveform + gain * sound) / (2 * peak) + 0.5
    expected = plain_box(waveform, "peak") + np.asarray(perturbation.value)
    np.testing.assert_allclose(added, expected, atol=1e-6)

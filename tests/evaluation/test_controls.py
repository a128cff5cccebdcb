"""The controls: what they are, and what of a success they explain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax.attacks import Perturbation, perturbation_waveform
from uap_jax.data.dataset import Dataset
from uap_jax.evaluation import (
    does_as_well,
    evaluate_perturbation,
    explain_success,
    same_spectrum,
    summarize,
    white_noise,
    wilson_interval,
)

NUM_SAMPLES = 256
LENGTHS = (1, 2, 3, 8, 101, 16_000)


def random_sound(num_samples, *, seed=0, space="tanh"):
    """A coloured one, with a mean."""
    noise = np.random.default_rng(seed).normal(0.01, 0.02, num_samples)
    value = np.convolve(noise, [0.7, 0.5, 0.2], mode="same")[:num_samples]
    return Perturbation(jnp.asarray(value, jnp.float32), space=space)


def drawn(perturbation, *, seed=0):
    return np.asarray(same_spectrum(perturbation, jax.random.key(seed)).value)


@pytest.mark.parametrize("num_samples", LENGTHS)
def test_magnitudes_and_rms_of_float64(num_samples):
    perturbation = random_sound(num_samples)
    v, u = np.float64(perturbation.value), drawn(perturbation)
    assert u.dtype == np.float32 and u.shape == v.shape
    expected, actual = (np.abs(np.fft.rfft(sound)) for sound in (v, u.astype(float)))
    np.testing.assert_allclose(actual, expected, atol=1e-6 * expected.max())
    rms = [np.sqrt(np.mean(sound.astype(float) ** 2)) for sound in (v, u)]
    assert rms[1] == pytest.approx(rms[0], rel=1e-6)
    assert np.mean(u, dtype=float) == pytest.approx(np.mean(v), abs=1e-7)


def test_phases_are_uniform():
    """Whatever those of the perturbation are: here zero, a click."""
    value = jnp.zeros(16_001).at[0].set(1.0)
    phases = np.angle(np.fft.rfft(drawn(Perturbation(value, space="signal"))))[1:]
    counts, _ = np.histogram(phases, bins=8, range=(-np.pi, np.pi))
    # 1,000 expected in each, of standard deviation 30.
    assert abs(counts - 1000).max() < 120


def test_the_key_decides():
    perturbation = random_sound(1000)
    first, again, other = (drawn(perturbation, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    v = np.float64(perturbation.value)
    sounds = np.array([v, first, other]) - v.mean()
    correlations = np.corrcoef(sounds)
    assert np.abs(correlations[np.triu_indices(3, 1)]).max() < 0.2


def test_signs_at_half_the_sample_rate():
    alternating = jnp.asarray([1.0, -1.0] * 4)
    perturbation = Perturbation(alternating, space="signal")
    sounds = np.array([drawn(perturbation, seed=seed) for seed in range(20)])
    signs = sounds[:, :1]
    np.testing.assert_allclose(sounds, signs * np.asarray(alternating), atol=1e-6)
    assert set(np.sign(signs).ravel()) == {-1.0, 1.0}


@pytest.mark.parametrize("num_samples", LENGTHS)
def test_silence_stays_silence(num_samples):
    silence = Perturbation(jnp.zeros(num_samples), space="tanh")
    np.testing.assert_array_equal(drawn(silence), 0.0)
    noise = white_noise(silence, jax.random.key(0), num_clips=2).value
    np.testing.assert_array_equal(noise, np.zeros((2, num_samples)))


def test_settings_stay():
    perturbation = Perturbation(
        jnp.ones(4), space="tanh", scaling="peak", sample_rate_hz=8000, epsilon=1e-3
    )
    for control in (
        same_spectrum(perturbation, jax.random.key(0)),
        white_noise(perturbation, jax.random.key(0), num_clips=3),
    ):
        assert (control.space, control.scaling) == ("tanh", "peak")
        assert (control.sample_rate_hz, control.epsilon) == (8000, 1e-3)


def test_white_noise():
    perturbation = random_sound(400)
    noise = white_noise(perturbation, jax.random.key(0), num_clips=50).value
    rms = np.sqrt(np.mean(np.float64(perturbation.value) ** 2))
    assert np.std(noise) == pytest.approx(rms, rel=0.02)
    magnitudes = np.mean(np.abs(np.fft.rfft(noise)) ** 2, axis=0)[1:-1]
    assert magnitudes.max() < 3 * magnitudes.min()
    assert len(np.unique(noise)) > 0.99 * noise.size


def tone(frequency, *, level):
    phase = 2 * np.pi * frequency * np.arange(NUM_SAMPLES) / NUM_SAMPLES
    return (level * np.cos(phase)).astype(np.float32)


def band_logits(template, x):
    """Says 1 where there is much sound in the bins of the template."""
    magnitudes = jnp.abs(jnp.fft.rfft(x - 0.5))
    heard = magnitudes @ template
    return jnp.stack([jnp.full_like(heard, 0.05), heard], axis=1)


def matched_logits(template, x):
    """Says 1 where the sound itself is heard, to the sample."""
    heard = (x - 0.5) @ template
    return jnp.stack([jnp.full_like(heard, 0.5), heard], axis=1)


CHIRP = np.sum([tone(f, level=0.01) for f in range(40, 60)], axis=0)
IN_BAND = np.float32((np.arange(NUM_SAMPLES // 2 + 1) // 20) == 2) / NUM_SAMPLES


@pytest.mark.parametrize("target", [None, 1])
@pytest.mark.parametrize(
    ("logits_fn", "template", "same", "sentence"),
    [
        (band_logits, IN_BAND, 1.0, "Noise of the same spectrum does as well"),
        (matched_logits, CHIRP / np.sum(CHIRP**2), 0.0, ""),
    ],
    ids=["hears the colour", "hears the waveform"],
)
def test_colour_and_waveform(logits_fn, template, same, sentence, target):
    rng = np.random.default_rng(1)
    clips = np.array([tone(5, level=level) for level in rng.uniform(0.1, 0.3, 60)])
    names = np.array(list(map(str, range(60))))
    dataset = Dataset(
        name="tones",
        clips=clips,
        labels=np.zeros(60, np.int32),
        class_names=("tone", "sound"),
        groups=names,
        names=names,
        sample_rate_hz=8000,
        fingerprint="",
    )
    perturbation = Perturbation(jnp.asarray(CHIRP), space="signal")
    evaluation = evaluate_perturbation(
        logits_fn,
        jnp.asarray(template),
        dataset,
        np.arange(60),
        perturbation,
        scaling="fixed",
        sound=np.asarray(perturbation_waveform(perturbation)),
        gain=1.0,
        key=jax.random.key(3),
    )
    summary = summarize(evaluation, target=target)
    test, control = summary["test"], summary["control"]
    assert summary["clean_accuracy"] == test["asr"] == 1.0
    assert control["same_spectrum"]["asr"] == same
    assert control["same_spectrum"]["snr_db"] == pytest.approx(test["snr_db"], abs=0.1)
    assert control["asr"] == 0.0
    said = explain_success(test, control)
    assert said.startswith(sentence) and bool(said) == bool(sentence)


def rates(num_successes, *, num_clips=100):
    interval = list(wilson_interval(num_successes, num_clips))
    return {"asr": num_successes / num_clips, "asr_ci95": interval}


@pytest.mark.parametrize(
    ("test", "control", "expected"),
    [
        (rates(90), rates(90), True),
        (rates(90), rates(95), True),
        # Wilson: 90 of 100 is 0.826 to 0.945, 75 is 0.657 to 0.825, 76 to 0.834.
        (rates(90), rates(76), True),
        (rates(90), rates(75), False),
        (rates(9), rates(2), True),
        ({"asr": 0.9}, {"asr": 0.8}, False),
        ({"asr": 0.9}, {"asr": 0.9}, True),
        (rates(90), {"asr": 0.8, "asr_ci95": [None, np.nan]}, False),
        ({"asr": None}, {"asr": 0.9}, False),
        (rates(90), {}, False),
    ],
)
def test_does_as_well(test, control, expected):
    assert does_as_well(control, test) is expected


@pytest.mark.parametrize(
    ("white", "same", "said"),
    [
        (
            46,
            91,
            "Noise of the same spectrum does as well: the success is the col",
        ),
        (88, 92, "Noise of the same RMS does as well, white or of the same spectrum"),
        (
            88,
            10,
            "White noise of the same RMS does as well: the success is the le",
        ),
        (46, 73, "Noise of the same spectrum reaches at least half"),
        (46, 44, ""),
        (8, 8, ""),
        # Of a run before the second control.
        (88, None, "White noise of the same RMS does as well"),
        (46, None, ""),
    ],
)
def test_what_is_said_of_a_success(white, same, said):
    control = rates(white)
    if same is not None:
        control["same_spectrum"] = rates(same)
    explanation = explain_success(rates(89), control)
    assert explanation.startswith(said) and bool(explanation) == bool(said)


def test_nothing_is_said_where_there_is_no_success():
    assert explain_success(rates(0), rates(0) | {"same_spectrum": rates(0)}) == ""

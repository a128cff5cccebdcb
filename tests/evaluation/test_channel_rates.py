"""Success after channels: what is counted, on which clips, and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax.attacks import Perturbation
from uap_jax.audio import channels
from uap_jax.data.dataset import Dataset
from uap_jax.evaluation.channels import (
    describe_channels,
    evaluate_channels,
    evaluate_moments,
    spread,
)
from uap_jax.evaluation.codecs import CODECS

N, NUM_CLIPS = 64, 70


def dataset_of(waveforms, labels):
    names = np.arange(len(waveforms)).astype(str)
    return Dataset(
        name="toy",
        clips=np.round(waveforms * 32767).astype(np.int16),
        labels=np.asarray(labels, np.int32),
        class_names=("a", "b"),
        groups=names,
        names=names,
        sample_rate_hz=16_000,
        fingerprint="toy",
    )


def power_logits(variables, x):
    """Class 1 where odd bins, which a clip leaves empty, have power.

    How much it takes grows with the power of the even bins, higher ones first.
    """
    power = jnp.square(jnp.abs(jnp.fft.rfft(x - 0.5)))
    odd = jnp.sum(power[:, 1::2], axis=1)
    even = power[:, ::2] @ jnp.arange(0.0, N // 2 + 1, 2)
    needed = variables["threshold"] + variables["share"] * even
    return jnp.stack([jnp.zeros_like(odd), odd - needed], axis=1)


def wave(bin_, phase=0.0):
    return np.cos(2 * np.pi * bin_ * np.arange(N) / N + phase)


CLIPS = np.stack([0.3 * wave(4 + 2 * (i % 3), i) for i in range(NUM_CLIPS)])
DATASET = dataset_of(CLIPS, np.zeros(NUM_CLIPS))
SOUND = Perturbation(jnp.asarray(0.05 * wave(5), jnp.float32), space="signal")
VARIABLES = {"threshold": jnp.float32(1.0), "share": jnp.float32(0.0)}
SHARED = {"target": 1, "scaling": "fixed", "key": jax.random.key(0)}
WHAT = (power_logits, VARIABLES, DATASET, np.arange(NUM_CLIPS), SOUND)


def test_a_victim_of_power_spectra_hears_the_same_at_every_offset():
    # Two of three clips take 1.5 and 2.2, the third 2.9; the sound has 2.6.
    variables = {"threshold": jnp.float32(0.0), "share": jnp.float32(0.016)}
    what = (power_logits, variables, DATASET)
    moments = evaluate_moments(*what, np.arange(60), SOUND, **SHARED)
    expected = np.mean(np.arange(60) % 3 < 2)
    assert moments["asr"] == [expected] * 100
    assert (moments["mean"], moments["worst_decile"]) == pytest.approx([expected] * 2)
    seconds = np.array(moments["offsets_s"])
    assert np.all(np.diff(seconds) >= 0) and seconds[-1] < N
    assert moments["num_clips"] == 60
    # Fewer clips at an offset: even and odd ones in turn.
    moments = evaluate_moments(*what, np.arange(NUM_CLIPS), SOUND, **SHARED)
    of_parts = [np.mean(np.arange(part, NUM_CLIPS, 2) % 3 < 2) for part in (0, 1)]
    assert moments["asr"] == of_parts * 50
    assert moments["num_clips"] == NUM_CLIPS // 2


def phase_logits(variables, x):
    """Class 1 where a clip has a positive part of one cosine."""
    score = (x - 0.5) @ jnp.asarray(wave(5), jnp.float32) - variables["threshold"]
    return jnp.stack([jnp.zeros_like(score), score], axis=1)


def test_the_curve_is_that_of_the_offset():
    variables = {"threshold": jnp.float32(1e-3)}
    what = (phase_logits, variables, DATASET, np.arange(10), SOUND)
    moments = evaluate_moments(*what, **SHARED, num_offsets=N)
    # One offset in each of N parts of the period: every one of them.
    expected = np.cos(2 * np.pi * 5 * np.arange(N) / N) > 2e-3
    np.testing.assert_array_equal(moments["asr"], expected.astype(float))
    assert moments["mean"] == pytest.approx(np.mean(expected))
    assert moments["worst_decile"] == 0.0


def test_rows_are_of_the_same_clips_with_controls_through_the_same_channel():
    rows = {
        "as it is": channels.looped(),
        "silent": channels.compose(channels.moment(), channels.gain(-300)),
        "half": channels.compose(channels.looped(), channels.gain(-6.0206)),
    }
    entries = evaluate_channels(*WHAT, rows, gain=1.0, **SHARED)
    by_name = {entry["channel"]: entry for entry in entries}
    assert list(by_name) == list(rows)
    loud, silent, half = by_name.values()
    assert loud["asr"] == loud["asr_waveform"] == 1.0
    assert loud["control"]["same_spectrum"]["asr"] == 1.0
    assert loud["accuracy_perturbed"] == 0.0 and loud["num_clips"] == NUM_CLIPS
    assert silent["asr"] == silent["control"]["asr"] == silent["asr_waveform"] == 0.0
    assert silent["accuracy_perturbed"] == 1.0
    # 0.3 of full scale against 2 x 0.05.
    assert loud["snr_ac_db"] == pytest.approx(20 * np.log10(3), abs=0.01)
    assert half["snr_ac_db"] == pytest.approx(loud["snr_ac_db"] + 6.02, abs=0.01)
    low, high = loud["asr_ci95"]
    assert 0.9 < low < high == 1.0
    lines = describe_channels(entries)
    assert len(lines) == 3 and lines[0].startswith("as it is: ASR 1.000 [0.9")


def test_clips_are_spread_over_all():
    np.testing.assert_array_equal(spread(np.arange(10), 5), [0, 2, 4, 6, 8])
    np.testing.assert_array_equal(spread(np.arange(3), 5), [0, 1, 2])


def test_rows_through_a_codec_tell_its_delay_and_what_it_leaves_of_clean_clips():
    name = "mu-law 64 kbit/s"
    (entry,) = evaluate_channels(
        *WHAT,
        {name: channels.looped()},
        codecs={name: CODECS[name]},
        gain=1.0,
        max_clips=8,
        **SHARED,
    )
    assert entry["clean_accuracy"] == 1.0 and entry["asr"] == 1.0
    assert entry["delay_s"] == 0.0 and 60 < entry["kbit_s"] < 70
    assert entry["num_clips"] == 8

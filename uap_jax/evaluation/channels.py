"""What a sound does after channels: at any moment, in a band, in rooms.

Every row has the same clips and, through the same channel, both controls. Channels are
drawn from a key of the evaluation, which no step of an attack has used.
"""

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.attacks import LogitsFn, Perturbation, perturbation_waveform
from uap_jax.attacks.equations import perturb, succeeds, to_space
from uap_jax.audio import levels
from uap_jax.audio.box import to_box
from uap_jax.audio.channels import Channel, received
from uap_jax.data.dataset import Dataset, ProgressFn, to_waveform
from uap_jax.evaluation.codecs import Codec, through_codec
from uap_jax.evaluation.controls import same_spectrum, white_noise
from uap_jax.evaluation.intervals import wilson_interval
from uap_jax.evaluation.success import BLOCK_SIZE, mean_level, predict_in_parts

# Clips of a row; clips and offsets of the curve. With four predictions a clip and row,
# and one at each offset, four rows cost 9,600 evaluations of the classifier.
MAX_CLIPS = 200
CURVE_CLIPS, NUM_OFFSETS = 64, 100
_OFFSETS = 2**32 - 3
_NONE: Mapping[str, Any] = MappingProxyType({})


def evaluate_channels(
    logits_fn: LogitsFn,
    variables: Any,
    dataset: Dataset,
    indices: np.ndarray,
    perturbation: Perturbation,
    rows: Mapping[str, Channel],
    *,
    target: int | None,
    scaling: str,
    gain: float,
    key: jax.Array,
    codecs: Mapping[str, Codec] = _NONE,
    max_clips: int = MAX_CLIPS,
    progress: ProgressFn | None = None,
) -> list[dict[str, Any]]:
    """Evaluates a sound after each of several channels.

    Args:
        logits_fn: The classifier.
        variables: Its weights.
        dataset: The corpus.
        indices: `[M]` test clips, of which at most `max_clips` are used, evenly spread.
        perturbation: The sound, `[P]`, any P.
        rows: Channels by what they are called.
        target: The class to say, or None.
        scaling: Scaling of waveforms to the box.
        gain: Factor of the sound on raw recordings, see `waveform_gain`.
        key: Random key; consumed.
        codecs: Of rows, by the same names, that go through a codec with all that is in
            the clip, the clean clips too.
        max_clips: Most clips of a row.
        progress: Called after each row.

    Returns:
        An entry for each row: "channel", "asr", "asr_ci95", "accuracy_perturbed",
        "snr_ac_db" (at the microphone), "asr_waveform" (the sound after the channel
        added to raw recordings), "num_clips", and "control" with the same rates of
        noise, see `summarize`. With a codec "clean_accuracy", "delay_s", "kbit_s" too.
    """
    chosen = spread(indices, max_clips)
    dataset.ensure(chosen)
    labels = np.asarray(dataset.labels[chosen])
    noise_key, phase_key, channel_key = jax.random.split(key, 3)
    coloured = same_spectrum(perturbation, phase_key)
    sound = perturbation_waveform(perturbation)
    columns: dict[str, list[list[np.ndarray]]] = {name: [] for name in rows}
    told: dict[str, dict[str, float]] = {name: {} for name in rows}
    starts = range(0, len(chosen), BLOCK_SIZE)
    for start in starts:
        index = chosen[start : start + BLOCK_SIZE]
        waveform, count = _block(dataset, index), jnp.asarray(len(index), jnp.int32)
        predict = functools.partial(predict_in_parts, logits_fn, variables)
        x, _ = to_box(waveform, scaling=scaling)
        clean = predict(x, count)
        noise = white_noise(
            perturbation, jax.random.fold_in(noise_key, start), num_clips=BLOCK_SIZE
        )
        sent = jnp.stack(
            [
                jnp.broadcast_to(each, (BLOCK_SIZE, len(sound)))
                for each in (perturbation.value, noise.value, coloured.value, sound)
            ]
        )
        for row, (name, channel) in enumerate(rows.items()):
            keys = jax.vmap(jax.random.fold_in, (None, 0))(
                jax.random.fold_in(channel_key, row),
                jnp.arange(start, start + BLOCK_SIZE),
            )
            clips, snr_db = _heard(
                waveform,
                _received(channel, keys, sent, num_samples=x.shape[1]),
                jnp.asarray(gain, jnp.float32),
                space=perturbation.space,
                scaling=scaling,
            )
            row_clean = clean
            if codec := codecs.get(name):
                (through, *clips), told[name] = _coded(
                    jnp.concatenate([x[None], clips]),
                    codec,
                    scaling=scaling,
                    rate_hz=dataset.sample_rate_hz,
                )
                row_clean = predict(through, count)
            block = (row_clean, *(predict(heard, count) for heard in clips), snr_db)
            columns[name].append([np.asarray(c)[: len(index)] for c in block])
            if progress is not None:
                done = start // BLOCK_SIZE * len(rows) + row + 1
                progress("evaluating channels", done, len(rows) * len(starts))
    entries = []
    for name in rows:
        clean, heard, white, same, waveform, snr_db = (
            np.concatenate(parts) for parts in zip(*columns[name], strict=True)
        )

        def rates(predictions: np.ndarray, clean: np.ndarray = clean) -> dict[str, Any]:
            success = succeeds(predictions, clean, target)
            return {
                "asr": float(np.mean(success)),
                "asr_ci95": list(wilson_interval(int(np.sum(success)), len(success))),
                "accuracy_perturbed": float(np.mean(predictions == labels)),
            }

        entries.append(
            {
                "channel": name,
                **rates(heard),
                "asr_waveform": rates(waveform)["asr"],
                "snr_ac_db": mean_level(snr_db),
                "num_clips": len(chosen),
                "control": {**rates(white), "same_spectrum": rates(same)},
                **(
                    {"clean_accuracy": float(np.mean(clean == labels)), **told[name]}
                    if name in codecs
                    else {}
                ),
            }
        )
    return entries


def evaluate_moments(
    logits_fn: LogitsFn,
    variables: Any,
    dataset: Dataset,
    indices: np.ndarray,
    perturbation: Perturbation,
    *,
    target: int | None,
    scaling: str,
    key: jax.Array,
    max_clips: int = CURVE_CLIPS,
    num_offsets: int = NUM_OFFSETS,
    progress: ProgressFn | None = None,
) -> dict[str, Any]:
    """Evaluates a looped sound at offsets over its period.

    One offset is drawn from each of `num_offsets` equal parts of the period. Each gets
    at most `max_clips` clips, evenly spread over all; the next offset gets others, so
    that the mean is over all clips, or over as many as that allows. The arguments are
    those of `evaluate_channels`.

    Returns:
        "offsets_s" and "asr" `[num_offsets]`, their "mean" and "worst_decile" (the
        10 % quantile over offsets, which a rate from few clips makes look lower), and
        "num_clips" at an offset, at most.
    """
    max_clips = min(max_clips, BLOCK_SIZE)
    indices = spread(indices, max_clips * num_offsets)
    num_parts = -(-len(indices) // max_clips)
    dataset.ensure(indices)
    period = len(perturbation.value)
    drawn = jax.random.uniform(
        jax.random.fold_in(key, jnp.uint32(_OFFSETS)), (num_offsets,)
    )
    shares = (np.arange(num_offsets) + np.asarray(drawn, np.float64)) / num_offsets
    offsets = np.minimum(np.floor(shares * period), period - 1).astype(np.int32)
    value = np.asarray(perturbation.value)
    asr, done = np.zeros(num_offsets), 0
    for part in range(num_parts):
        # Every part of the clips has offsets over the whole period.
        index = indices[part::num_parts]
        count = jnp.asarray(len(index), jnp.int32)
        x, _ = to_box(_block(dataset, index), scaling=scaling)
        predict = functools.partial(predict_in_parts, logits_fn, variables)
        clean = np.asarray(predict(x, count))
        for position in range(part, num_offsets, num_parts):
            at_offset = np.resize(np.roll(value, -offsets[position]), x.shape[1])
            perturbed = _perturbed(x, jnp.asarray(at_offset), space=perturbation.space)
            heard = np.asarray(predict(perturbed, count))
            is_success = succeeds(heard, clean, target)[: len(index)]
            asr[position] = np.mean(is_success)
            done += 1
            if progress is not None:
                progress("evaluating moments", done, num_offsets)
    rate_hz = perturbation.sample_rate_hz or 1
    return {
        "mean": float(np.mean(asr)),
        "worst_decile": float(np.quantile(asr, 0.1)),
        "num_clips": -(-len(indices) // num_parts),
        "offsets_s": [float(offset) / rate_hz for offset in offsets],
        "asr": [float(rate) for rate in asr],
    }


def spread(indices: np.ndarray, count: int) -> np.ndarray:
    """Returns at most `count` of the indices, evenly spread over them."""
    count = min(count, len(indices))
    return indices[np.arange(count) * len(indices) // count]


def describe_channels(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a line for each row of `evaluate_channels`."""
    return [
        f"{entry['channel']}{_measured(entry)}: ASR {entry['asr']:.3f}"
        f" [{entry['asr_ci95'][0]:.3f}, {entry['asr_ci95'][1]:.3f}], on raw recordings "
        f"{entry['asr_waveform']:.3f}; white noise {entry['control']['asr']:.3f}, of "
        f"the same spectrum {entry['control']['same_spectrum']['asr']:.3f}"
        for entry in entries
    ]


def _measured(entry: Mapping[str, Any]) -> str:
    """What was measured of a row's codec, if it has one."""
    if "kbit_s" not in entry:
        return ""
    return f" ({entry['kbit_s']:.0f} measured, {1000 * entry['delay_s']:.0f} ms late)"


def _coded(
    clips: jax.Array, codec: Codec, *, scaling: str, rate_hz: int
) -> tuple[jax.Array, dict[str, float]]:
    """Clips `[K, B, N]` in the box after a codec, and what is told of it."""
    waveforms = 2 * np.asarray(clips).reshape(-1, clips.shape[2]) - 1
    coded = through_codec(waveforms, codec, sample_rate_hz=rate_hz)
    x, _ = to_box(jnp.asarray(coded.waveforms, jnp.float32), scaling=scaling)
    told = {"delay_s": coded.delay_s, "kbit_s": coded.kbit_s}
    return x.reshape(clips.shape), told


def _block(dataset: Dataset, index: np.ndarray) -> jax.Array:
    clips = np.zeros((BLOCK_SIZE, dataset.num_samples), np.float32)
    clips[: len(index)] = to_waveform(dataset.clips[index])
    return jnp.asarray(clips)


@functools.partial(jax.jit, static_argnames="num_samples")
def _received(
    channel: Channel, keys: jax.Array, sounds: jax.Array, *, num_samples: int
) -> jax.Array:
    """What of several sounds `[K, B, P]` reaches clips by one channel, `[K, B, N]`."""
    return jax.lax.map(lambda s: received(channel, keys, s, num_samples), sounds)


@functools.partial(jax.jit, static_argnames="space")
def _perturbed(x: jax.Array, value: jax.Array, *, space: str) -> jax.Array:
    return perturb(to_space(x, space=space), value, space=space)


@functools.partial(jax.jit, static_argnames=("space", "scaling"))
def _heard(
    waveform: jax.Array,
    arriving: jax.Array,
    gain: jax.Array,
    *,
    space: str,
    scaling: str,
) -> tuple[jax.Array, jax.Array]:
    """Clips with the sound and both noises, and as recordings; the SNR of the first.

    `arriving` is `[4, B, N]`, the last of them the sound as a waveform. One program for
    all channels.
    """
    x, _ = to_box(waveform, scaling=scaling)
    in_space = to_space(x, space=space)
    perturbed = [perturb(in_space, value, space=space) for value in arriving[:3]]
    mixed = waveform + gain * arriving[3]
    pcm = jnp.clip(jnp.round(mixed * 32768), -32768, 32767) / 32768
    recorded, _ = to_box(pcm, scaling=scaling)
    silent = jnp.max(waveform, axis=1) == jnp.min(waveform, axis=1)
    snr_db = levels.snr_ac_db(x, perturbed[0] - x)
    clips = jnp.stack([*perturbed, recorded])
    return clips, jnp.where(silent, jnp.nan, snr_db)

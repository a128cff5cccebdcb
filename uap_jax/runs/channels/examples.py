"""A recording with a run's sound as it arrives, for the report."""

import jax.numpy as jnp
import numpy as np

from uap_jax.attacks import Perturbation, perturbation_waveform
from uap_jax.audio.box import to_box
from uap_jax.audio.files import to_pcm16
from uap_jax.audio.placement import Placement, place
from uap_jax.data.dataset import to_waveform
from uap_jax.evaluation.success import BLOCK_SIZE, predict_in_parts
from uap_jax.reporting import Arrival as ReportArrival
from uap_jax.reporting import Example
from uap_jax.runs import store
from uap_jax.runs.channels import arrival
from uap_jax.runs.channels.arrival import Arrival
from uap_jax.runs.channels.settings import Part
from uap_jax.runs.evaluate import Evaluator


def arrivals_of(
    evaluator: Evaluator, perturbation: Perturbation, example: Example
) -> list[ReportArrival]:
    """Returns a recording with the sound begun at a moment, and in an unseen room.

    Args:
        evaluator: Of the run; without a bank of rooms there is no room.
        perturbation: The sound, `[P]`.
        example: The recording.
    """
    config, dataset = evaluator.config, evaluator.clips.dataset
    bank, rate_hz = evaluator.bank, dataset.sample_rate_hz
    sound = evaluator.gain * np.asarray(perturbation_waveform(perturbation))
    ways = [Arrival(Placement(), True, (), {}, 0, rate_hz, config.seed)]
    if bank is not None:
        rooms = arrival.unseen_rooms(bank)
        parts = (Part("rooms"),)
        ways.append(ways[0]._replace(parts=parts, rooms=rooms, direct=bank.direct))
    num_samples = len(example.clean)
    arrivals = []
    for way in ways:
        drawn = arrival.draw(way, example.name, num_sound_samples=len(sound))
        heard = (
            place(sound, num_samples, drawn.placement, sample_rate_hz=rate_hz)
            if drawn.channel is None
            else arrival.received(drawn, sound, num_samples)
        )
        mixed = to_waveform(to_pcm16(example.clean + heard))
        x, _ = to_box(jnp.asarray(mixed), scaling=config.scaling)
        block = jnp.zeros((BLOCK_SIZE, num_samples), jnp.float32).at[0].set(x)
        classifier = evaluator.victim.classifier
        (index, *_) = predict_in_parts(
            classifier.logits, classifier.variables, block, jnp.asarray(1, jnp.int32)
        )
        arrivals.append(
            ReportArrival(
                how=", ".join(drawn.words),
                prediction=store.name_of(dataset, int(index)),
                heard=mixed,
                sound=None if drawn.channel is None else heard,
            )
        )
    return arrivals

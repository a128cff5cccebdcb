"""The table of what a run's sound does after channels, whatever it was made for."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.attacks import LogitsFn, Perturbation
from uap_jax.audio import channels
from uap_jax.audio.channels import BANDS, Channel
from uap_jax.console import Console
from uap_jax.data.dataset import Dataset
from uap_jax.data.rooms import SIMULATED, Rooms
from uap_jax.evaluation.channels import (
    describe_channels,
    evaluate_channels,
    evaluate_moments,
)
from uap_jax.evaluation.codecs import CODECS
from uap_jax.models import Classifier
from uap_jax.models.detectors import detected
from uap_jax.runs.channels.settings import repeats
from uap_jax.runs.classes import clips_to_change
from uap_jax.runs.config import RunConfig
from uap_jax.runs.corpus import Clips
from uap_jax.text import format_decibel

# Clips of a row that goes through a codec; eleven codecs take about a minute.
CODEC_CLIPS = 64
# A classifier of more weights gets the table only if it is asked for: the table takes
# some 10,000 evaluations, a quarter of the time of a short run with a small network.
MAX_WEIGHTS = 5_000_000
# Rows of the table: whether the sound starts at any moment, and what it passes.
ROWS: dict[str, tuple[bool, str | None]] = {
    "with the clip": (False, None),
    "any moment": (True, None),
    "telephone band": (False, "band"),
    "any moment, telephone band": (True, "band"),
    "unseen rooms": (False, "rooms"),
    "any moment, unseen rooms": (True, "rooms"),
}
# Folded into the key of an evaluation.
_TABLE = 2**32 - 4


def table_of(config: RunConfig, bank: Rooms | None = None) -> dict[str, Channel]:
    """Returns the channels of the table of results, the same for every sound.

    With a bank of rooms those of its test too.
    """
    rate_hz = config.sample_rate_hz
    starts = channels.looped() if repeats(config) else channels.once()
    passed = {"band": channels.band(*BANDS["telephone"], sample_rate_hz=rate_hz)}
    if bank is not None:
        passed["rooms"] = channels.rooms(bank.test, direct=bank.direct)
    table = {}
    for name, (any_moment, what) in ROWS.items():
        start = channels.moment() if any_moment else starts
        if what is None:
            table[name] = start
        elif what in passed:
            table[name] = channels.compose(start, passed[what])
    return table


def asks_for_table(config: RunConfig) -> bool | None:
    """Returns whether settings ask for the table; None if they do not say."""
    if config.channel_table is not None:
        return config.channel_table
    asks = (config.channel, config.rooms, config.codec_table or None)
    return True if any(ask is not None for ask in asks) else None


def is_small(classifier: Classifier) -> bool:
    """Returns whether a classifier gets the table unasked, by its number of weights."""
    num_weights = sum(map(np.size, jax.tree.leaves(classifier.variables)))
    return 0 < num_weights <= MAX_WEIGHTS


def evaluate_table(
    perturbation: Perturbation,
    *,
    config: RunConfig,
    classifier: Classifier,
    clips: Clips,
    gain: float,
    key: jax.Array,
    console: Console,
    bank: Rooms | None = None,
) -> dict[str, Any] | None:
    """Returns "channels" of result.json, or None if the run has no such table.

    Args:
        perturbation: The sound, `[P]`.
        config: Of the run.
        classifier: The victim.
        clips: Of the run; some of the test clips are used, of a detector those that
            are not in the wanted state already.
        gain: Of the sound on raw recordings.
        key: Of the evaluation.
        console: Told of the progress.
        bank: Room responses, for rows of rooms.
    """
    is_asked = asks_for_table(config)
    if is_asked is None and not is_small(classifier):
        console.say(
            f"no table of channels: {config.model} has more than {MAX_WEIGHTS:,} "
            "weights, or they are not known; --channel_table makes one"
        )
        is_asked = False
    if is_asked is False:
        return None
    what, shared = _arguments(config, classifier, clips, key, console)
    table = table_of(config, bank)
    rows = evaluate_channels(*what, perturbation, table, gain=gain, **shared)
    if config.codec_table:
        first = next(iter(table.values()))
        rows += evaluate_channels(
            *what,
            perturbation,
            dict.fromkeys(CODECS, first),
            codecs=CODECS,
            gain=gain,
            max_clips=CODEC_CLIPS,
            **shared,
        )
    source = {} if bank is None else {"rooms": config.rooms or SIMULATED}
    moments = evaluate_moments(*what, perturbation, **shared)
    return {**source, "rows": rows, "moments": moments}


def evaluate_any_moment(
    perturbation: Perturbation,
    *,
    config: RunConfig,
    classifier: Classifier,
    clips: Clips,
    key: jax.Array,
    console: Console,
) -> dict[str, Any]:
    """Returns what "moments" of the table is for another sound of the run.

    The arguments are those of `evaluate_table`; clips and offsets are the same.
    """
    what, shared = _arguments(config, classifier, clips, key, console)
    return evaluate_moments(*what, perturbation, **shared)


def say_table(table: dict[str, Any] | None, console: Console) -> None:
    """Says the results of `evaluate_table`."""
    if not table:
        return
    how = ["after channels, computed and not played"]
    if "rooms" in table:
        how.append(f"rooms: {table['rooms']}")
    if any("kbit_s" in row for row in table["rows"]):
        how.append("codecs: real encoders")
    console.say(f"{'; '.join(how)}:")
    for line in describe_channels(table["rows"]):
        console.say(line)
    moments = table["moments"]
    console.say(
        f"at {len(moments['asr'])} offsets of the looped sound: ASR "
        f"{moments['mean']:.3f}, worst decile {moments['worst_decile']:.3f} "
        f"({moments['num_clips']} clips at each)"
    )
    for point in table.get("front", []):
        if "mean" in point:
            console.say(
                f"quietest with training ASR {point['asr_level']:g}: at any moment "
                f"{point['mean']:.3f}, worst decile {point['worst_decile']:.3f}, "
                f"mean-free SNR {format_decibel(point['snr_ac_db'])}"
            )


def _arguments(
    config: RunConfig,
    classifier: Classifier,
    clips: Clips,
    key: jax.Array,
    console: Console,
) -> tuple[tuple[LogitsFn, Any, Dataset, np.ndarray], dict[str, Any]]:
    """Returns what evaluations of a run's sound share: victim, clips, target, key."""
    test = clips.test
    if detected(clips.dataset.class_names) is not None and clips.target is not None:
        test = clips_to_change(
            classifier,
            clips.dataset,
            test,
            clips.target,
            scaling=config.scaling,
            count=len(test),
        )
    return (classifier.logits, classifier.variables, clips.dataset, test), {
        "target": clips.target,
        "scaling": config.scaling,
        "key": jax.random.fold_in(key, jnp.uint32(_TABLE)),
        "progress": console.progress,
    }

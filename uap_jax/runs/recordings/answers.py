"""What a run's model answers to recordings without and with a sound, by window."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from uap_jax.audio.files import AudioFileError, crop_or_pad, read_audio, to_pcm16
from uap_jax.data.dataset import to_waveform
from uap_jax.runs import store
from uap_jax.runs.victim import Predictor

# Windows that are classified at once.
_BLOCK = 32
# Windows of a recording that are listed.
_MAX_LISTED = 40


class Job(NamedTuple):
    """A recording and where its perturbed form goes."""

    name: str
    source: Path
    target: Path


class Answer(NamedTuple):
    """Classes of a part of a recording as long as the model's clips."""

    before: str
    after: str


def predict_windows(
    predictor: Predictor | None, jobs: Sequence[Job]
) -> dict[Job, list[Answer]]:
    """Returns the answers to the windows of recordings that are long enough."""
    if predictor is None:
        return {}
    answers: dict[Job, list[Answer]] = {}
    pairs = _window_pairs(predictor, jobs)
    size = 1
    while chunk := list(itertools.islice(pairs, _BLOCK)):
        # Few sizes, since each is compiled.
        size = max(size, 1 << (len(chunk) - 1).bit_length())
        clips = np.zeros((size, 2, predictor.classifier.num_samples), np.float32)
        clips[: len(chunk)] = [pair for _, pair in chunk]
        words = predictor.predict(clips.reshape(2 * size, -1))
        for (job, _), *answer in zip(chunk, words[::2], words[1::2], strict=False):
            answers.setdefault(job, []).append(Answer(*answer))
    return answers


def _window_pairs(
    predictor: Predictor, jobs: Sequence[Job]
) -> Iterator[tuple[Job, np.ndarray]]:
    """Yields windows `[2, N]` of recordings, without and with the sound."""
    classifier = predictor.classifier
    length = classifier.num_samples
    for job in jobs:
        # Of a few samples nothing may be left at the model's rate.
        try:
            pair = [
                read_audio(path, sample_rate_hz=classifier.sample_rate_hz or 0)
                for path in (job.source, job.target)
            ]
        except AudioFileError:
            continue
        for start in range(0, max(len(pair[0]) - length, 0) + 1, length):
            window = [
                crop_or_pad(heard[start : start + length], length) for heard in pair
            ]
            yield job, to_waveform(to_pcm16(np.stack(window)))


def describe_answers(
    answers: list[Answer], predictor: Predictor | None, wanted: str | None
) -> str:
    """Returns the end of a recording's line: its answer, or the share of windows."""
    if predictor is None or not answers:
        return ""
    if len(answers) == 1:
        return f'; "{answers[0].before}" -> "{answers[0].after}"'
    classifier = predictor.classifier
    window_s = classifier.num_samples / (classifier.sample_rate_hz or 1)
    num_changed, num_after, num_before = count(answers, wanted)
    if wanted is None:
        result = f"{num_changed / len(answers):.3f} changed"
    else:
        result = (
            f'{num_after / len(answers):.3f} are "{wanted}", without the sound '
            f"{num_before / len(answers):.3f}"
        )
    return f"; of {len(answers)} windows of {window_s:.3g} s {result}"


def by_window(answers: list[Answer]) -> str:
    """Returns a line with the answers to a recording's windows, in order."""
    listed = [f"{answer.before} -> {answer.after}" for answer in answers[:_MAX_LISTED]]
    more = len(answers) - len(listed)
    return "window by window: " + ", ".join(listed) + f", {more} more" * (more > 0)


def count(answers: list[Answer], wanted: str | None) -> tuple[int, int, int]:
    """Returns how many answers changed, and are the wanted one with and without."""
    num_changed = sum(
        answer.before != answer.after and store.NOT_FINITE not in answer
        for answer in answers
    )
    num_after = sum(answer.after == wanted for answer in answers)
    return num_changed, num_after, sum(answer.before == wanted for answer in answers)

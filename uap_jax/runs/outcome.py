"""What a run or a judgement found, in words."""

import sys
from pathlib import Path
from typing import Any

from uap_jax.errors import UsageError
from uap_jax.runs.console import Console
from uap_jax.text import format_seconds


def report_result(result: dict[str, Any], workdir: Path, console: Console) -> int:
    """Says what a finished run found; returns its exit code.

    Raises:
        UsageError: The result is not whole.
    """
    try:
        _say_result(result, workdir, console)
        stop_reason = result["stop_reason"].replace("_", " ")
        next_pass = result["num_passes"] + 1
    # Of a number in another form, formatting and arithmetic raise what they will.
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        path = workdir / "result.json"
        raise UsageError(f"{path}: expected a whole result; delete the file") from None
    if stop_reason in ("converged", "max passes", "stalled"):
        return 0
    print(
        f"error: the attack stopped in pass {next_pass}: {stop_reason}",
        file=sys.stderr,
    )
    return 1


def say_test(result: dict[str, Any], console: Console) -> None:
    """Says how a perturbation did on test clips; `result` as of `summarize`."""
    test, control = result["test"], result["control"]
    low, high = test["asr_ci95"]
    console.say(
        f"test ASR {test['asr']:.3f} [{low:.3f}, {high:.3f}] on {test['num_clips']} "
        f"clips; noise of the same RMS {control['asr']:.3f}"
    )
    console.say(
        f"SNR {_decibel(test['snr_db'])} with the resting level, "
        f"{_decibel(test['snr_ac_db'])} without; as one sound on raw recordings "
        f"{test['asr_waveform']:.3f}, shifted {test['asr_shifted']:.3f}"
    )


def _say_result(result: dict[str, Any], workdir: Path, console: Console) -> None:
    console.say(
        f"clean accuracy {result['clean_accuracy']:.3f}; training ASR "
        f"{result['train']['asr']:.3f} after {result['num_passes']} passes"
        f"{'' if result['converged'] else ' (goal not reached)'}"
    )
    say_test(result, console)
    for entry in result.get("front", []):
        console.say(_describe_point(entry))
    seconds = ", ".join(
        f"{name} {format_seconds(value)}" for name, value in result["seconds"].items()
    )
    console.say(f"time: {seconds}")
    console.say(f"{workdir / 'report.html'}")


def _describe_point(entry: dict[str, Any]) -> str:
    """Returns a line on one success rate of a front."""
    goal = f"quietest with training ASR {entry['asr_level']:g}"
    if "test" not in entry:
        return f"{goal}: not reached"
    test = entry["test"]
    return (
        f"{goal}: test ASR {test['asr']:.3f}, SNR {_decibel(test['snr_db'])}, "
        f"{_decibel(test['snr_ac_db'])} without the resting level; noise "
        f"{entry['control']['asr']:.3f}"
    )


def _decibel(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f} dB"

"""The numbers of a trial that tables can show, by their names."""

from typing import NamedTuple

from uap_jax.evaluation.codecs import CODECS
from uap_jax.runs.channels.table import ROWS

# Success rates at any moment of which tables tell the level.
RATES = (0.80, 0.85)


class Measure(NamedTuple):
    """A number of a trial."""

    label: str
    format: str
    published: str | None = None  # its field in the paper's tables


# By the path in result.json; "last." is of the last line of metrics.jsonl.
MEASURES = {
    "clean_accuracy": Measure("clean accuracy", ".3f"),
    "train.asr": Measure("training ASR", ".3f", "train_asr"),
    "test.asr": Measure("test ASR", ".3f", "test_asr"),
    "test.asr_clean_correct": Measure("test ASR, clips right when clean", ".3f"),
    "test.accuracy_perturbed": Measure(
        "accuracy under attack", ".3f", "accuracy_under_attack"
    ),
    "test.asr_waveform": Measure("one sound", ".3f"),
    "test.asr_shifted": Measure("shifted", ".3f"),
    "control.asr": Measure("noise", ".3f"),
    "control.same_spectrum.asr": Measure("noise of the same spectrum", ".3f"),
    "detection.clean.miss_rate.rate": Measure("misses, clean", ".3f"),
    "detection.perturbed.miss_rate.rate": Measure("misses", ".3f"),
    "detection.control.miss_rate.rate": Measure("misses, noise", ".3f"),
    "detection.same_spectrum.miss_rate.rate": Measure(
        "misses, noise of the same spectrum", ".3f"
    ),
    "detection.clean.false_alarm_rate.rate": Measure("false alarms, clean", ".3f"),
    "detection.perturbed.false_alarm_rate.rate": Measure("false alarms", ".3f"),
    "detection.control.false_alarm_rate.rate": Measure("false alarms, noise", ".3f"),
    "detection.same_spectrum.false_alarm_rate.rate": Measure(
        "false alarms, noise of the same spectrum", ".3f"
    ),
    "test.snr_db": Measure("SNR (dB)", ".1f", "snr_db"),
    "test.snr_ac_db": Measure("mean-free SNR (dB)", ".1f"),
    "test.relative_loudness_db": Measure(
        "loudness (dB)", ".1f", "relative_loudness_db"
    ),
    "num_passes": Measure("passes", ".1f"),
    "converged": Measure("goal reached", ".2f"),
    "passes_to_goal": Measure("passes, where the goal is reached", ".1f"),
    "last.spl_db": Measure("final SPL of v' (dB)", ".1f"),
    "last.objective": Measure("final objective", ".2f"),
    "channels.moments.mean": Measure("ASR at 100 offsets, mean", ".3f"),
    "channels.moments.worst_decile": Measure("ASR at 100 offsets, worst decile", ".3f"),
}
# No success rate without those of its controls; a label for each.
CONTROLS = {
    "test.asr": {"control.asr": "noise", "control.same_spectrum.asr": "same spectrum"}
}
for _name in (*ROWS, *CODECS):
    _path = f"channels.{_name}"
    MEASURES |= {
        f"{_path}.asr": Measure(f"ASR, {_name}", ".3f"),
        f"{_path}.asr_waveform": Measure(f"one sound, {_name}", ".3f"),
        f"{_path}.accuracy_perturbed": Measure(f"accuracy, {_name}", ".3f"),
        f"{_path}.snr_ac_db": Measure(f"mean-free SNR, {_name} (dB)", ".1f"),
    }
    CONTROLS[f"{_path}.asr"] = {
        f"{_path}.control.asr": "noise",
        f"{_path}.control.same_spectrum.asr": "same spectrum",
    }
CONTROLS["channels.moments.mean"] = CONTROLS["channels.any moment.asr"]
# Where a sound for any moment is quiet enough, see `channels.level_at`.
for _rate in RATES:
    _path, _at = f"channels.at_{_rate:.2f}", f"at {_rate:.2f} at any moment"
    MEASURES |= {
        f"{_path}.snr_ac_db": Measure(f"mean-free SNR {_at} (dB)", ".1f"),
        f"{_path}.mean": Measure(f"ASR {_at}", ".3f"),
        f"{_path}.worst_decile": Measure(f"worst decile {_at}", ".3f"),
        f"{_path}.noise": Measure(f"noise {_at}", ".3f"),
        f"{_path}.same_spectrum": Measure(f"noise of the same spectrum {_at}", ".3f"),
        f"{_path}.reached": Measure(f"trials that reach {_rate:.2f}", ".2f"),
        f"{_path}.at_0_db": Measure(f"trials that reach {_rate:.2f} at 0 dB", ".2f"),
    }

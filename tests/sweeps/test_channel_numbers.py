"""What tables know of sounds after channels: numbers by name, levels at a rate."""

import pytest
from sweeps import RESULT

from uap_jax.sweeps.tables.channels import channel_numbers, level_at, points_of
from uap_jax.sweeps.tables.measures import CONTROLS, MEASURES

CONTROL = {"asr": 0.1, "same_spectrum": {"asr": 0.2}}


def row(channel, asr):
    numbers = {"asr": asr, "asr_waveform": asr, "accuracy_perturbed": 0.3}
    return {"channel": channel, **numbers, "snr_ac_db": 3.0, "control": CONTROL}


def point(snr_ac_db, mean, worst_decile):
    rates = {"mean": mean, "worst_decile": worst_decile, "num_clips": 64}
    return {"asr_level": 0.5, "snr_ac_db": snr_ac_db, **rates, "control": CONTROL}


CHANNELS = {
    "rows": [row("with the clip", 0.9), row("MP3 32 kbit/s", 0.8)],
    "moments": {"mean": 0.9, "worst_decile": 0.7, "offsets_s": [0, 1], "asr": [1, 0.8]},
    "front": [point(0, 0.9, 0.7), point(4, 0.7, 0.6), {"asr_level": 0.4}],
}


def test_numbers_are_those_that_tables_name():
    numbers = channel_numbers({**RESULT, "channels": CHANNELS})
    names = [name for name in MEASURES if name.startswith("channels.MP3 32")]
    assert len(names) == 4
    assert {*names, *CONTROLS["channels.MP3 32 kbit/s.asr"]} <= set(numbers)
    assert numbers["channels.at_0.80.snr_ac_db"] == pytest.approx(2)
    assert numbers["channels.at_0.80.noise"] == pytest.approx(0.1)
    assert numbers["channels.at_0.80.at_0_db"] == 1
    assert {name for name in numbers if ".at_" in name} <= set(MEASURES)
    assert channel_numbers(RESULT) == {}


@pytest.mark.parametrize(
    ("points", "level_db"),
    [
        ([point(4, 0.7, 0.5), point(0, 0.9, 0.7)], 2),  # both cross at 2 dB
        ([point(4, 0.7, 0.4), point(0, 0.9, 0.8)], 2),
        ([point(4, 0.79, 0.4), point(0, 0.9, 0.65)], 0.8),  # the worst decile decides
        ([point(4, 0.7, 0.6)], None),
        ([point(4, 0.8, 0.6), point(0, 0.9, 0.7)], 4),  # no quieter sound was made
        ([], None),
    ],
)
def test_the_level_has_both_rates(points, level_db):
    told = {"rows": [], "moments": {}, "front": points}
    found = level_at(points_of({**RESULT, "channels": told}) if points else [], 0.8)
    assert found is None if level_db is None else found is not None
    if found:
        assert found["snr_ac_db"] == pytest.approx(level_db)

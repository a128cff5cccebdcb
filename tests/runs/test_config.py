"""From flags to settings: presets, overrides, what a resumed run may change."""

import dataclasses
import json
import shlex

import jax
import pytest
from absl import flags as absl_flags

from uap_jax.attacks import DDNConfig, GreedyConfig, PenaltyConfig
from uap_jax.errors import UsageError
from uap_jax.experiments import _flags
from uap_jax.runs import config, store
from uap_jax.runs import resolve as resolving
from uap_jax.training.recipes import Recipe


def resolve(*, on_accelerator=False, **given):
    return resolving.resolve(config.RunConfig(**given), on_accelerator=on_accelerator)


def apply(*overrides, attack=None):
    return resolving.apply_overrides((attack or PenaltyConfig(), Recipe()), overrides)


def test_scenario_settings_are_resolved():
    untargeted, targeted = resolve().attack, resolve(target="down").attack
    assert (untargeted.learning_rate, targeted.learning_rate) == (0.006, 0.0035)
    assert (untargeted.penalty_coefficient, targeted.penalty_coefficient) == (0.2, 0.15)
    assert (untargeted.confidence, targeted.confidence) == (40.0, 10.0)
    assert untargeted.l2_radius is None


def test_paper_preset_and_what_wins_over_it():
    paper = resolve(preset="paper")
    assert (paper.scaling, paper.num_attack_clips) == ("minmax", 3000)
    assert paper.attack.l2_radius == 6.0
    changed = resolve(
        preset="paper",
        scaling="peak",
        num_attack_clips=7,
        overrides=("l2_radius=none",),
    )
    assert (changed.scaling, changed.num_attack_clips) == ("peak", 7)
    assert changed.attack.l2_radius is None
    assert changed.attack.batch_size == 7


def test_a_batch_that_follows_from_the_clips_waits_for_the_corpus():
    assert resolve(method="decoupled", num_attack_clips=1000).attack.batch_size is None
    chosen = resolve(method="decoupled", overrides=["batch_size=30"])
    assert chosen.attack.batch_size == 30


def test_corpus_follows_the_folder(tmp_path):
    assert resolve().dataset == "synthetic_speech"
    assert resolve(data_dir=str(tmp_path)).dataset == "speech_commands"
    assert resolve().scaling == "fixed"


def test_micro_batch_follows_model_and_machine():
    def size(**changes):
        return resolve(model="sincnet_vgg19", **changes).attack.micro_batch_size

    assert size() == 1
    assert size(overrides=["micro_batch_size=5"]) == 5
    assert size(on_accelerator=True) == 100
    assert resolve().attack.micro_batch_size > 1


def test_overrides_find_their_section():
    attack, training = apply(
        "batch_size=7",
        "training.batch_size=9",
        "max_shift_s=0.2",
        "augmentation.max_gain_db=1",
        "l2_radius=3",
    )
    assert (attack.batch_size, training.batch_size) == (7, 9)
    assert training.augmentation.max_shift_s == 0.2
    assert training.augmentation.max_gain_db == 1.0
    assert attack.l2_radius == 3.0


def test_overrides_that_only_hold_together():
    _, training = apply("min_snr_db=50", "max_snr_db=60")
    augmentation = training.augmentation
    assert (augmentation.min_snr_db, augmentation.max_snr_db) == (50.0, 60.0)
    with pytest.raises(UsageError, match="min_snr_db"):
        apply("min_snr_db=50")


def test_overrides_reach_the_inner_attack():
    attack, _ = apply(
        "num_steps=7",
        "ddn.init_norm=0.5",
        "attack.ddn.gamma=0.1",
        "ddn.micro_batch_size=3",
        "attack.micro_batch_size=16",
        "shuffle=true",
        "norm=l2",
        attack=GreedyConfig(),
    )
    ddn = DDNConfig(num_steps=7, init_norm=0.5, gamma=0.1, micro_batch_size=3)
    expected = GreedyConfig(norm="l2", shuffle=True, micro_batch_size=16, ddn=ddn)
    assert attack == expected
    with pytest.raises(UsageError, match=r"shuffle expected bool, got 'maybe'"):
        apply("shuffle=maybe", attack=GreedyConfig())
    with pytest.raises(UsageError, match=r"attack\.ddn\.num_steps"):
        apply("ddn=1", attack=GreedyConfig())


def test_success_rates_of_a_front():
    attack = resolve(
        method="decoupled", overrides=["attack.asr_levels=0.5, 0.9,0.7"]
    ).attack
    # The one that is returned is among them anyway.
    assert attack.asr_levels == (0.7, 0.5) and attack.target_asr == 0.9
    with pytest.raises(UsageError, match=r"asr_levels expected float, got 'x'"):
        resolve(method="decoupled", overrides=["asr_levels=0.5,x"])
    with pytest.raises(UsageError, match="asr_levels"):
        resolve(method="decoupled", overrides=["asr_levels=0.5,2"])


def test_greedy_settings_are_resolved():
    untargeted, targeted = (
        resolve(method="greedy", target=target).attack for target in (None, "down")
    )
    assert (untargeted.radius, targeted.radius) == (0.2, 0.12)
    assert resolve(method="greedy", preset="paper").scaling == "minmax"
    with pytest.raises(UsageError, match="radius: expected a number for norm 'l2'"):
        resolve(method="greedy", overrides=["norm=l2"])


def test_an_accelerator_takes_whole_batches():
    assert resolve().attack.micro_batch_size == 25
    assert resolve(on_accelerator=True).attack.micro_batch_size == 100
    forced = resolve(on_accelerator=True, overrides=["attack.micro_batch_size=5"])
    assert forced.attack.micro_batch_size == 5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch_size", "key=value"),
        ("nonsense=1", "attack.learning_rate"),
        ("training.learning_rate=1", "training.peak_learning_rate"),
        ("attack.batch_size=ten", "expected int"),
        ("learning_rate=nan", "expected float"),
    ],
)
def test_bad_overrides_name_what_is_valid(override, message):
    with pytest.raises(UsageError, match=message):
        apply(override)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"dataset": "cats"}, "--dataset"),
        ({"dataset": "speech_commands"}, "--data_dir"),
        ({"data_dir": "/no/such/folder"}, "--data_dir"),
        ({"dataset": "synthetic_speech", "data_dir": "."}, "--data_dir"),
        ({"num_attack_clips": 0}, "--num_attack_clips"),
        ({"num_test_clips": 0}, "--num_test_clips"),
        ({"scaling": "loud"}, "scaling"),
        ({"seed": 10**11}, r"--seed: expected an integer in 0\.\.2147483647"),
        ({"overrides": ("target_asr=1.5",)}, "target_asr"),
        ({"overrides": ("max_passes=100000000000",)}, r"max_passes: .* 1\.\.1000000"),
        ({"overrides": ("learning_rate=-1",)}, "learning_rate"),
        ({"overrides": ("min_passes=101",)}, "min_passes: expected at most 100"),
        ({"overrides": ("optimizer=sorcery",)}, "optimizer"),
        ({"overrides": ("training.num_clips_seen=0",)}, "num_clips_seen"),
        ({"overrides": ("noise_share=2",)}, "noise_share"),
    ],
)
def test_bad_requests_name_the_setting(changes, name):
    with pytest.raises(UsageError, match=name) as caught:
        resolve(**changes)
    assert "\n" not in str(caught.value)


def test_resumed_run_keeps_machine_settings_and_refuses_others():
    first = resolve(on_accelerator=True)
    stored = json.loads(json.dumps(config.as_json(first)))
    again = config.resume_from(resolve(), stored)
    assert again.attack.micro_batch_size == 100
    with pytest.raises(UsageError, match=r"seed: 0 there, 1 now"):
        config.resume_from(resolve(seed=1), stored)
    # Where the recordings are and how settings came about changes no result.
    moved = dataclasses.replace(first, data_dir="/moved", preset="paper", variant="x")
    assert config.resume_from(moved, stored) == moved
    changed = dataclasses.replace(
        first, attack=dataclasses.replace(first.attack, confidence=1.0)
    )
    with pytest.raises(UsageError, match=r"attack\.confidence"):
        config.resume_from(changed, stored)


def test_settings_that_are_off_change_no_earlier_run():
    new = ("num_test_clips", "own_model", "label", "present")
    settings = config.as_json(resolve())
    earlier = {key: value for key, value in settings.items() if key not in new}
    earlier["attack"] = dict(settings["attack"])
    del earlier["attack"]["min_passes"]
    assert config.resume_from(resolve(), earlier) == resolve()
    assert config.trial_id(earlier) == config.trial_id(settings)
    for changed in (resolve(num_test_clips=5), resolve(overrides=["min_passes=5"])):
        assert config.trial_id(config.as_json(changed)) != config.trial_id(settings)
        with pytest.raises(UsageError, match="None there, 5 now"):
            config.resume_from(changed, earlier)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("seed", (0, 1)),
        ("target", (None, "down")),
        ("scaling", ("fixed", "peak")),
        ("attack_class", (None, "down", "up")),
        ("num_test_clips", (None, 5, 6)),
        ("overrides", ((), ("batch_size=5",))),
        ("preset", ("default", "paper")),
    ],
)
def test_run_names_tell_settings_apart(name, values):
    names = {resolve(**{name: value}).run_name for value in values}
    assert len(names) == len(values)


def test_custom_method_is_named_by_its_own_name():
    resolved = resolve(method="uap_jax.attacks.penalty:PENALTY")
    assert resolved.run_name.startswith("penalty-spchcmd")
    assert isinstance(resolved.attack, PenaltyConfig)
    with pytest.raises(UsageError, match=r"method: expected uap_jax\.attacks:MAGIC"):
        resolve(method="uap_jax.attacks:MAGIC")


def test_every_flag_is_a_field(tmp_path):
    """The command in config.json has the flags that give the same settings."""
    values = {
        "method": "decoupled",
        "dataset": "folder",
        "clip_samples": 4000,
        "label": "dog",
        "present": "dog,cat",
        "data_dir": str(tmp_path),
        "split": "official",
        "group_pattern": "(a)",
        "scaling": "peak",
        "target": "down",
        "num_attack_clips": 7,
        "num_test_clips": 8,
        "attack_class": "up",
        "channel": "moment,band=telephone",
        "sound_seconds": 0.25,
        "channel_table": True,
        "codec_table": True,
        "rooms": "simulated",
        "seed": 9,
        "retrain": True,
        "preset": "paper",
        "asr_levels": ("0.5", "0.9"),
        "overrides": ("batch_size=5", "training.batch_size=6"),
    }
    flags_given = absl_flags.FlagValues()
    _flags.define_settings(flag_values=flags_given)
    given = config.RunConfig(**values)
    line = config.command(given, tmp_path, cache_dir=config.default_cache_dir())
    words = [word for word in shlex.split(line)[2:] if "--workdir" not in word]
    flags_given(words)
    assert config.RunConfig(**_flags.settings(flag_values=flags_given)) == given
    assert {*values, "model"} == set(config.FLAGS)


def test_relative_data_dir_means_the_same_from_another_folder(monkeypatch, tmp_path):
    for folder in (tmp_path, tmp_path / "elsewhere"):
        (folder / "sounds").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    stored = config.as_json(resolve(data_dir="sounds"))
    assert stored["data_dir"] == str(tmp_path / "sounds")
    stored = json.loads(json.dumps(stored))
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = store.config_of(store.StoredRun(tmp_path, stored, {}))
    assert again.data_dir == str(tmp_path / "sounds")
    # As the first release stored it.
    earlier = store.StoredRun(tmp_path, stored | {"data_dir": "sounds"}, {})
    with pytest.raises(UsageError, match="--data_dir: expected the folder of speech_c"):
        store.config_of(earlier)
    given = store.config_of(earlier, data_dir=str(tmp_path / "sounds"))
    assert given.data_dir == str(tmp_path / "sounds")


def test_tilde_is_the_home_though_no_shell_has_expanded_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "sounds").mkdir()
    resolved = resolve(model="spchcmd", dataset="folder", data_dir="~/sounds")
    assert resolved.data_dir == str(tmp_path / "sounds")
    with pytest.raises(UsageError, match=f"got {tmp_path}/net.onnx, which is none"):
        resolve(model="~/net.onnx")
    values = absl_flags.FlagValues()
    flag = absl_flags.DEFINE_string("to", None, "", flag_values=values)
    values(["", "--to=~/x"])
    assert _flags.path_of(flag) == tmp_path / "x"


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("no\nbackend")])
def test_device_that_is_not_there_is_named(monkeypatch, error):
    def no_devices():
        raise error

    monkeypatch.setattr(jax, "devices", no_devices)
    with pytest.raises(UsageError, match=r"^JAX_PLATFORMS=\w*: no such device\."):
        resolve(method="greedy")

"""Manifests: what they declare, and what is wrong with damaged ones in one line."""

import itertools
import random

import pytest

from uap_jax.data.synthetic.speech import CLASS_NAMES as WORDS
from uap_jax.data.synthetic.urban import CLASS_NAMES as SCENES
from uap_jax.errors import UsageError
from uap_jax.sweeps import manifest
from uap_jax.sweeps.published import load_published

NAMES = [
    *("table_1", "table_2", "table_3", "table_4", "table_5", "table_6", "table_7"),
    "front",
    *("table_8", "table_9", "table_10", "table_11", "figure_1", "figure_2", "figure_3"),
    *("smoke", "adam", "victims", "figure_moment", "table_channels"),
]
GOOD = """
name = "try"
title = "A try"

[[trials]]
model = "cnn_rand"
method = ["greedy", "penalty"]
target = ["untargeted", "first:2"]
seed = [0, 1]
set.attack.max_passes = 3

[[trials]]
model = "cnn_gamma"
method = "penalty"
attack_class = "each"
num_attack_clips = [1, 5]
num_test_clips = 9

[trials.set]
attack.confidence = [10, 20]
training.batch_size = 7

[trials.smoke]
num_attack_clips = 2
set.attack.confidence = 30

[table]
kind = "mean"
rows = ["method", "target"]
measures = ["test.asr"]
mean_over = ["target"]
"""


def write(tmp_path, text):
    path = tmp_path / "try.toml"
    path.write_text(text)
    return path


def configs_of(path, scale="paper", class_names=SCENES):
    declared = manifest.load(path, scale=scale)
    found = manifest.configs(
        declared,
        corpus_flags=lambda _: {"dataset": None, "data_dir": None, "split": None},
        class_names=class_names if callable(class_names) else lambda _: class_names,
    )
    return [config for config, _ in found]


def classes_of(model):
    return WORDS if model == "spchcmd" else SCENES


def test_trials_are_products_of_lists(tmp_path):
    asked = configs_of(write(tmp_path, GOOD))
    first = [request for request in asked if request.model == "cnn_rand"]
    assert len(first) == 2 * 3 * 2
    assert {request.target for request in first} == {
        *(None, "air_conditioner", "car_horn")
    }
    assert all(request.overrides == ("attack.max_passes=3",) for request in first)
    second = [request for request in asked if request.model == "cnn_gamma"]
    assert len(second) == 10 * 2 * 2
    assert {request.overrides for request in second} == {
        (f"attack.confidence={value}", "training.batch_size=7") for value in (10, 20)
    }
    assert second[0].target is None
    assert {request.num_test_clips for request in asked} == {None, 9}


def test_trials_of_one_model_and_seed_follow_each_other(tmp_path):
    asked = configs_of(write(tmp_path, GOOD))
    victims = [(request.model, request.seed) for request in asked]
    changes = sum(one != other for one, other in itertools.pairwise(victims))
    assert changes == len(set(victims)) - 1


def test_smoke_changes_what_it_names(tmp_path):
    asked = configs_of(write(tmp_path, GOOD), "smoke")
    second = [request for request in asked if request.model == "cnn_gamma"]
    assert {request.num_attack_clips for request in second} == {2}
    assert {request.overrides for request in second} == {
        ("attack.confidence=30", "training.batch_size=7")
    }


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ('"each"', list(SCENES)),
        ('"first:3"', list(SCENES[:3])),
        ('"first:99"', list(SCENES)),
        ('"gun_shot|first:1"', ["gun_shot"]),
        ('"nonsense | first:1"', [SCENES[0]]),
        ('["siren", "untargeted", "first:1", "siren"]', ["siren", None, SCENES[0]]),
    ],
)
def test_targets(tmp_path, target, expected):
    text = GOOD.replace('["untargeted", "first:2"]', target)
    asked = configs_of(write(tmp_path, text))
    found = [r.target for r in asked if r.model == "cnn_rand"]
    assert list(dict.fromkeys(found)) == expected


@pytest.mark.parametrize("scale", manifest.SCALES)
@pytest.mark.parametrize("name", NAMES)
def test_every_manifest_declares_trials(name, scale):
    path = manifest.locate(name)
    declared = manifest.load(path, scale=scale)
    assert declared.name == name
    asked = configs_of(path, scale, class_names=classes_of)
    assert 0 < len(asked) <= (300 if scale == "paper" else 30)
    text = path.read_text()
    assert f"--manifest={name}" in text
    assert "# Expected time: " in text and "# Hardware: " in text
    if declared.table.published:
        panels = "AB" if declared.table.kind == "transfer" else [""]
        for panel in panels:
            assert load_published(declared.table.published + panel).cells


def test_no_manifest_is_left_out():
    assert manifest.names() == sorted(NAMES)


def test_paper_numbers_of_trials():
    def count(name):
        return len(configs_of(manifest.locate(name), class_names=classes_of))

    # Models x methods x (classes and untargeted).
    assert count("table_1") == count("table_4") == 5 * 2 * 11
    assert count("table_2") == 2 * 33
    assert count("table_3") == 10
    assert count("table_5") == 5 * 2 * 11 + 2 * 33
    assert count("table_6") == 2 * 10
    assert count("table_11") == 2 * 32
    assert count("figure_3") == 10 * 10


def changed(old, new):
    assert old in GOOD
    return GOOD.replace(old, new, 1)


WRONG = {
    'kind = "mean"': ['kind = "mode"', "kind = 3", "", 'kind = ["mean"]'],
    'model = "cnn_rand"': [
        *('model = "resnet"', "model = 3", "model = []", "model = [[]]", ""),
        *('model = {a = "cnn_rand"}', 'modell = "cnn_rand"', "model = 1979-05-27"),
    ],
    'method = ["greedy", "penalty"]': ['method = ["magic"]', 'method = ""'],
    'target = ["untargeted", "first:2"]': [
        *('target = "first:0"', 'target = "first:x"', 'target = "a||b"', "target = 1"),
        *('target = ""', 'target = "a\\u0000b"', "target = [true]", 'target = "|"'),
    ],
    "seed = [0, 1]": [
        *("seed = -1", "seed = 1.5", "seed = true", "seed = inf", 'seed = "0"'),
        *(f"seed = {'9' * 5000}", "seed = [0, [1]]"),
    ],
    "num_test_clips = 9": ["num_test_clips = 0", "num_test_clips = 1.5"],
    "set.attack.max_passes = 3": [
        *("set = 3", "set.attack.max_passes = []", "set.attack.max_passes = [[1]]"),
        *("set.attack.max_passes = 07:32:00", 'set.attack.max_passes = "\\n"'),
    ],
    'name = "try"': ['name = ""', 'name = "a/b"', 'name = "../x"', "name = 3", ""],
    'title = "A try"': ["title = 3", 'title = "two\\nlines"', ""],
    "[[trials]]": [
        "[trials]",
        "[[trails]]",
        "trials = []\n[x]",
        "[[trials]",
        "trials = 1",
    ],
    "[table]": ["[[table]]", "[tables]", "table = 3\n[more]"],
    'rows = ["method", "target"]': ["rows = []", "rows = [1]", ""],
    'measures = ["test.asr"]': ['measures = ["test.nonsense"]', "measures = 1", ""],
    "[trials.smoke]": ["[trials.smoke]\nsmoke = 3", "[trials.smoke]\nnonsense = 3"],
}


@pytest.mark.parametrize(
    "text", [changed(old, new) for old, news in WRONG.items() for new in news]
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, text):
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        configs_of(path)
    line = " ".join(str(caught.value).split())
    assert str(path) in line
    assert "expected" in line
    assert len(line) < 700


@pytest.mark.parametrize("seed", range(60))
def test_damaged_files_never_end_in_a_traceback(tmp_path, seed):
    rng = random.Random(seed)
    content = bytearray(GOOD.encode())
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(content))
        stop = min(len(content), start + rng.randint(1, 40))
        damage = rng.choice(
            [
                b"",
                bytes(rng.randrange(256) for _ in range(stop - start)),
                rng.choice(
                    [b"[", b"]", b"=", b'"', b"\n", b"{", b"\xff", b"nan", b"."]
                ),
                bytes(content[start:stop]) * 2,
            ]
        )
        content[start:stop] = damage
    path = tmp_path / "damaged.toml"
    path.write_bytes(content)
    try:
        configs_of(path)
    except UsageError as error:
        assert str(path) in str(error)


def test_files_that_are_none(tmp_path):
    with pytest.raises(UsageError, match=r"--manifest: .* one of adam, .*none"):
        manifest.load(tmp_path / "none.toml", scale="paper")
    deep = write(tmp_path, "a = " + "[" * 50_000)
    with pytest.raises(UsageError, match="TOML"):
        manifest.load(deep, scale="paper")
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(UsageError, match="trials"):
        manifest.load(tmp_path / "empty.toml", scale="paper")


def test_unknown_class_and_unknown_column_are_named(tmp_path):
    path = write(tmp_path, GOOD.replace("first:2", "cow"))
    with pytest.raises(UsageError, match=r"trials\[0\]\.target: expected one of air"):
        configs_of(path)
    declared = manifest.load(write(tmp_path, GOOD), scale="paper")
    manifest.check_table_keys(declared, ["method", "target", "seed"])
    with pytest.raises(UsageError, match=r"table: got 'target', expected some of"):
        manifest.check_table_keys(declared, ["method"])


def test_channels_are_settings_like_others(tmp_path):
    text = GOOD.replace(
        'method = ["greedy", "penalty"]',
        'method = "penalty"\nchannel = ["none", "moment,gain=-3"]\n'
        "channel_table = true\ncodec_table = [false, true]",
    ).replace(
        'attack_class = "each"',
        'channel = "moment"\nsound_seconds = [0.25, 1]\nrooms = ["none", "simulated"]',
    )
    asked = configs_of(write(tmp_path, text))
    first = [r for r in asked if r.model == "cnn_rand"]
    assert {r.channel for r in first} == {None, "moment,gain=-3"}
    assert {(r.channel_table, r.codec_table) for r in first} == {
        *((True, False), (True, True))
    }
    second = [r for r in asked if r.model == "cnn_gamma"]
    assert {(r.sound_seconds, r.rooms) for r in second} == {
        *((0.25, None), (1.0, None), (0.25, "simulated"), (1.0, "simulated"))
    }
    with pytest.raises(UsageError, match=r"trials\[1\]: --channel: expected a list"):
        configs_of(write(tmp_path, text.replace('"moment"', '"moments"')))

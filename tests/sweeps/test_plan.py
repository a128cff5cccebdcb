"""Trials of a manifest: their ids, corpora, and what is known of them."""

import pytest
from sweeps import BUILT_IN, MANIFEST, finish, plan_built_in

from uap_jax import files
from uap_jax.errors import UsageError
from uap_jax.sweeps import manifest, plan, trials


def test_a_damaged_index_is_made_again(tmp_path, write_manifest):
    path = write_manifest(MANIFEST.replace('"first:1"', '"a"'))
    planned = plan_built_in(path, tmp_path / "w")
    for damage in ("", "[]", '{"plans": 3}', '{"plans": {"quick paper": []}}', "\0"):
        (tmp_path / "w" / plan.INDEX).write_text(damage)
        assert plan.read_index(tmp_path / "w")["corpora"] == {}
    assert plan_built_in(path, tmp_path / "w") == planned


def test_half_a_result_is_none(tmp_path, write_manifest):
    trial = plan_built_in(write_manifest(MANIFEST), tmp_path)[0]
    assert trials.read_result(trial, tmp_path) is None
    finish(trial, tmp_path)
    assert trials.read_result(trial, tmp_path)["num_passes"] == 2
    whole = (trial.folder(tmp_path) / "result.json").read_text()
    for text in (whole[:-20], "", "[]", "{}", '{"test": 1}'):
        (trial.folder(tmp_path) / "result.json").write_text(text)
        assert trials.read_result(trial, tmp_path) is None


def test_ids_follow_what_changes_a_result(tmp_path, write_manifest):
    def ids(text):
        found = plan_built_in(write_manifest(text), tmp_path / "w")
        return [trial.id for trial in found]

    first = ids(MANIFEST)
    assert len(set(first)) == 4
    same = [
        MANIFEST.replace(
            "num_attack_clips = 20", 'preset = "default"\nnum_attack_clips = 20'
        ),
        MANIFEST.replace("[trials.set]", "[trials.set]\nattack.micro_batch_size = 5"),
        MANIFEST.replace("[trials.set]", "[trials.set]\nattack.target_asr = 0.9"),
        MANIFEST.replace("first:1", "a"),
    ]
    for text in same:
        assert ids(text) == first
    for old, new in [
        ("seed = 4", "seed = 5"),
        ("num_attack_clips = 20", "num_attack_clips = 21"),
        ('"peak"', '"fixed"'),
        ("max_passes = 2", "max_passes = 3"),
        ("num_clips_seen = 600", "num_clips_seen = 601"),
    ]:
        assert not set(ids(MANIFEST.replace(old, new))) & set(first)


@pytest.mark.parametrize("one_way_of_attack", [True, False])
def test_transfers_pair_models(tmp_path, write_manifest, one_way_of_attack):
    text = MANIFEST.replace('"spchcmd"', '["cnn_rand", "sincnet", "spchcmd"]')
    if not one_way_of_attack:
        block = text[text.index("[[trials]]") : text.index("[table]")]
        text = text.replace(
            block,
            block.replace('["cnn_rand", "sincnet", "spchcmd"]', '"cnn_rand"')
            + block.replace('["cnn_rand", "sincnet", "spchcmd"]', '"sincnet"').replace(
                "max_passes = 2", "max_passes = 3"
            ),
        )
    scenes = {"fingerprint": "y", "class_names": ["a", "b"], "data_dir": None}
    BUILT_IN_BOTH = BUILT_IN | {"synthetic_urban-official-50999": scenes}
    tmp_path.joinpath("w").mkdir()
    files.write_json(tmp_path / "w" / plan.INDEX, {"corpora": BUILT_IN_BOTH})
    declared = manifest.load(write_manifest(text), scale="paper")
    planned = plan.make_plan(
        declared, (plan.CorpusFlags(),), workdir=tmp_path / "w", load=lambda _: None
    )
    assert len(planned) == (12 if one_way_of_attack else 8)
    found = trials.transfers(planned)
    # Two models of scenes, either way; none of speech.
    assert len(found) == len({job.id for job in found}) == 8
    assert len({job.source.id for job in found}) == 8
    for job in found:
        assert {job.source.config["model"], job.victim.config["model"]} == {
            *("cnn_rand", "sincnet")
        }


def test_corpora_of_models():
    urban = plan.CorpusFlags("urbansound8k", "/u")
    speech = plan.CorpusFlags("speech_commands_paper32", "/s")
    assert plan.pair_corpora([], []) == (plan.CorpusFlags(),)
    assert plan.pair_corpora([], ["/x"]) == (plan.CorpusFlags(None, "/x"),)
    pairs = plan.pair_corpora([urban.dataset, speech.dataset], ["/u", "/s"])
    assert pairs == (urban, speech)
    split, whole = plan.pair_corpora(
        [urban.dataset, "folder"], ["/u", "/f"], split="paper", group_pattern="(x)"
    )
    assert (split.split, split.group_pattern) == ("paper", None)
    assert (whole.split, whole.group_pattern) == (None, "(x)")
    mixed = plan.pair_corpora(["synthetic_speech", "esc10"], ["/e"])
    assert mixed[1] == plan.CorpusFlags("esc10", "/e")
    assert plan.corpus_of("cnn_rand", pairs) == urban
    assert plan.corpus_of("spchcmd", pairs) == speech
    assert plan.corpus_of("spchcmd", (urban,)) == urban
    assert plan.corpus_of("spchcmd", (urban, mixed[1])).dataset is None
    for names, folders in [
        ([], ["/a", "/b"]),
        (["esc10"], []),
        (["esc10"], ["a", "b"]),
    ]:
        with pytest.raises(UsageError, match="--data_dir: expected"):
            plan.pair_corpora(names, folders)
    for flag, made_for in [("split", "urbansound8k"), ("group_pattern", "folder")]:
        with pytest.raises(UsageError, match=f"--{flag}: .* only {made_for}"):
            plan.pair_corpora(["esc10", "tfsr"], ["/e", "/t"], **{flag: "paper"})


def test_facts_tell_trials_apart_also_by_lists():
    config = {"target": None, "attack": {"asr_levels": [0.5, 0.9]}}
    facts = plan.facts_of(plan.Trial("x", {}, config, ""))
    assert facts["attack.asr_levels"] == (0.5, 0.9) and hash(tuple(facts.values()))


def test_time_left():
    def trial(model):
        config = {"method": "penalty", "model": model}
        return plan.Trial(model, {}, config, "")

    spent = {"penalty a": [2.0, 4.0], "other": [9.0]}
    assert trials.seconds_left([trial("a"), trial("b")], spent) == 3 + 5

"""Saved checkpoints of transformers, as `--model` names them."""

import json

import jax
import numpy as np
import pytest

from uap_jax.bridges import custom_models
from uap_jax.errors import UsageError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")
# It imports both.
tiny = pytest.importorskip("tiny_transformers")

N = tiny.NUM_SAMPLES


@pytest.fixture(scope="module", autouse=True)
def without_bars():
    transformers.utils.logging.disable_progress_bar()


def save(folder, name="ast", *, model=None, **changes):
    made, extractor = tiny.make(name, **changes)
    model = made if model is None else model
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return model, extractor


@pytest.mark.parametrize(
    "name",
    [
        "ast",
        pytest.param("wav2vec2_layer_norm", marks=pytest.mark.slow),
        pytest.param("whisper", marks=pytest.mark.slow),
    ],
)
def test_logits_are_those_of_the_pipeline(name, tmp_path):
    model, extractor = save(tmp_path, name)
    classifier, facts = custom_models.load(str(tmp_path), num_samples=N)
    x = tiny.clips(20)
    logits = jax.jit(classifier.logits)(classifier.variables, x)
    expected = tiny.pipeline_logits(model, extractor, 2.0 * x - 1.0)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    assert facts["class_names"] == tiny.CLASS_NAMES
    assert (facts["num_samples"], facts["sample_rate_hz"]) == (N, 16_000)
    assert facts["name"].startswith(tmp_path.name)
    assert "note" not in facts
    # Of another length it is another model.
    shorter = custom_models.load(str(tmp_path), num_samples=N // 2)
    assert shorter[1]["fingerprint"] != facts["fingerprint"]


def test_length_of_clips(tmp_path):
    """That of the recordings, or what the network hears of them."""
    save(tmp_path / "ast", "ast")
    save(tmp_path / "wav2vec2", "wav2vec2")
    for name, recording_s, expected in (
        ("ast", 0.5, 8000),
        ("ast", 2.0, 10_480),
        ("wav2vec2", 2.0, 32_000),
    ):
        model = str(tmp_path / name)
        assert custom_models.takes_any_length(model)
        length = custom_models.default_num_samples(model, lambda s=recording_s: s)
        assert length == expected
    with pytest.raises(UsageError, match=r"^--clip_samples: expected at most 10480,"):
        custom_models.load(str(tmp_path / "ast"), num_samples=16_000)


def test_half_precision_is_said(tmp_path):
    model, _ = tiny.make("ast")
    save(tmp_path, model=model.half())
    classifier, facts = custom_models.load(str(tmp_path), num_samples=N)
    assert facts["note"] == "weights stored as float16; the network runs in float32"
    # With the rounded weights.
    x = tiny.clips(2)
    expected = tiny.pipeline_logits(*tiny.make("ast"), 2.0 * x - 1.0)
    np.testing.assert_allclose(classifier.logits({}, x), expected, rtol=0, atol=0.05)


def test_one_label_of_several(tmp_path):
    save(tmp_path, problem_type="multi_label_classification")
    with pytest.raises(UsageError, match="--label: expected one of high, low, mid to"):
        custom_models.load(str(tmp_path), num_samples=N)
    _, facts = custom_models.load(str(tmp_path), num_samples=N, label="low")
    assert facts["class_names"] == ("no low", "low")


def edit(file, **changes):
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps(content))


def no_head(folder):
    model, _ = tiny.make("ast")
    del model.classifier
    model.save_pretrained(folder)


def other_files(folder):
    weights = folder / "model.safetensors"
    weights.rename(folder / "pytorch_model.bin")


def halve(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])


DAMAGE = {
    "no_extractor": (
        lambda folder: (folder / "preprocessor_config.json").unlink(),
        "--model: expected .*preprocessor_config.json with the settings of ASTFeature",
    ),
    "another_extractor": (
        lambda folder: edit(
            folder / "preprocessor_config.json",
            feature_extractor_type="WhisperFeatureExtractor",
        ),
        "preprocessor_config.json: expected ASTFeatureExtractor for "
        "ASTForAudioClassification, got WhisperFeatureExtractor",
    ),
    "settings": (
        lambda folder: edit(folder / "preprocessor_config.json", max_length=100),
        "extractor: expected max_length 64, as .* has it, got 100",
    ),
    "architecture": (
        lambda folder: edit(folder / "config.json", architectures=["BertModel"]),
        r"config.json: expected one of Wav2Vec2ForSequenceClassification, .* "
        r'architectures, got \["BertModel"\]',
    ),
    "names": (
        lambda folder: edit(
            folder / "config.json", id2label={i: f"LABEL_{i}" for i in range(3)}
        ),
        "config.json: expected the names of the classes in id2label, .*write them",
    ),
    "no_head": (no_head, "expected all weights of AST.*, got none for classifier"),
    "no_safetensors": (other_files, "expected a checkpoint of transformers in .*, got"),
    "half_a_file": (halve, "expected a checkpoint of transformers in .*, got"),
    "no_json": (
        lambda folder: (folder / "config.json").write_text("{"),
        "config.json: expected JSON, got",
    ),
    "list": (
        lambda folder: (folder / "config.json").write_text("[]"),
        "config.json: expected a JSON object",
    ),
    "no_config": (
        lambda folder: (folder / "config.json").unlink(),
        "--model: expected a file, or a folder with config.json, got .* without it",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_refused(kind, tmp_path):
    damage, message = DAMAGE[kind]
    save(tmp_path)
    damage(tmp_path)
    with pytest.raises(UsageError, match=message) as info:
        custom_models.load(str(tmp_path), num_samples=N)
    assert "\n" not in str(info.value)


def test_no_code_of_a_checkpoint_is_run(tmp_path):
    save(tmp_path)
    (tmp_path / "code.py").write_text("raise SystemExit('run')")
    edit(
        tmp_path / "config.json",
        auto_map={"AutoModelForAudioClassification": "code.Model"},
    )
    edit(
        tmp_path / "preprocessor_config.json",
        auto_map={"AutoFeatureExtractor": "code.Extractor"},
    )
    assert custom_models.load(str(tmp_path), num_samples=N) is not None


def test_an_early_checkpoint(tmp_path):
    """Before version 4.31 of transformers: other names, an extractor without a name."""
    model, _ = save(tmp_path, "wav2vec2")
    weights = safetensors.load_file(tmp_path / "model.safetensors")
    names = {"parametrizations.weight.original0": "weight_g"}
    names |= {"parametrizations.weight.original1": "weight_v"}
    del weights["wav2vec2.masked_spec_embed"]
    for new, old in names.items():
        (key,) = (key for key in weights if key.endswith(new))
        weights[key.replace(new, old)] = weights.pop(key)
    safetensors.save_file(
        weights, tmp_path / "model.safetensors", metadata={"format": "pt"}
    )
    file = tmp_path / "preprocessor_config.json"
    settings = json.loads(file.read_text())
    del settings["feature_extractor_type"]
    file.write_text(json.dumps(settings))
    classifier, _ = custom_models.load(str(tmp_path), num_samples=N)
    x = tiny.clips(2)
    expected = tiny.pipeline_logits(*tiny.make("wav2vec2"), 2.0 * x - 1.0)
    assert len(model.state_dict()) == len(weights) + 1
    np.testing.assert_allclose(classifier.logits({}, x), expected, rtol=0, atol=1e-4)

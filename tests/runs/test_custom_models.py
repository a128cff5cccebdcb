"""Custom models: entry points and files, attacked, evaluated again and refused."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import own_networks
import pytest
from tones import write_tones

from uap_jax.bridges import custom_models, probes
from uap_jax.console import Console
from uap_jax.errors import UsageError
from uap_jax.models import Classifier
from uap_jax.runs import store
from uap_jax.runs.config import RunConfig
from uap_jax.runs.evaluate import evaluate_stored
from uap_jax.runs.resolve import resolve
from uap_jax.runs.run import run
from uap_jax.runs.victim import load_predictor

QUICK = {
    "num_attack_clips": 12,
    "overrides": ("max_passes=2", "learning_rate=0.05"),
    "channel_table": False,
}
STATED = {
    "sample_rate_hz": own_networks.RATE_HZ,
    "num_samples": own_networks.RATE_HZ,
    "class_names": own_networks.NAMES,
    "input_range": "waveform",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_tones(tmp_path_factory.mktemp("corpus") / "tones")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def config_for(model, corpus):
    return RunConfig(
        method="penalty",
        model=str(model),
        dataset="speech_commands",
        data_dir=str(corpus),
        target="low",
        **QUICK,
    )


@pytest.fixture(scope="module")
def attacked(corpus, cache, tmp_path_factory):
    """The work directory of a run on an entry point."""
    workdir = tmp_path_factory.mktemp("runs") / "named"
    carry_out(config_for("own_networks:named", corpus), workdir, cache)
    return workdir


def carry_out(config, workdir, cache):
    (outcome,) = run(
        [resolve(config)], [workdir], cache_dir=cache, consoles=[Console()]
    )
    if isinstance(outcome, Exception):
        raise outcome


def read(path):
    return json.loads(path.read_text())


def evaluate_again(workdir, cache, **changes):
    """evaluation.json of a run's perturbation, and the run's result.json."""
    folder = workdir / "again"
    evaluate_stored(workdir, workdir=folder, cache_dir=cache, **changes)
    return read(folder / "evaluation.json"), read(workdir / "result.json")


def test_an_entry_point_is_attacked(attacked, capsys):
    result, settings = read(attacked / "result.json"), read(attacked / "config.json")
    # The corpus has its classes in another order.
    assert result["clean_accuracy"] == result["victim"]["validation_accuracy"] == 1.0
    assert result["victim"]["training"] == "given"
    own = settings["own_model"]
    assert own["class_names"] == list(own_networks.NAMES)
    assert result["victim"]["fingerprint"] == own["fingerprint"]
    assert settings["training"] is None
    problem = read(attacked / "checkpoints" / "problem.json")
    assert own["fingerprint"].startswith(problem["model"].rpartition("-")[2])
    value = np.load(attacked / "perturbation.npy")
    assert value.shape == (own_networks.RATE_HZ,) and np.any(value)


def test_evaluate_finds_what_the_run_found(attacked, cache):
    evaluation, result = evaluate_again(attacked, cache)
    for key in ("test", "control", "clean_accuracy", "victim", "target"):
        assert evaluation[key] == result[key]
    # Another model evaluates it too, even one that could not be attacked.
    other, _ = evaluate_again(attacked, cache, model="own_networks:without_gradient")
    assert other["test"]["snr_db"] == result["test"]["snr_db"]
    assert other["victim"]["name"].startswith("own_networks_without_gradient-")


def test_predicts_without_the_corpus(attacked, cache):
    predictor = load_predictor(store.read_run(attacked), cache_dir=cache)
    assert predictor.class_names == own_networks.NAMES
    assert predictor.scaling == "fixed"


def test_split_and_groups_of_another_corpus(attacked, corpus):
    done = store.read_run(attacked)
    folder = {"dataset": "folder", "data_dir": str(corpus)}
    assert store.config_of(done, **folder, group_pattern="(x)").group_pattern == "(x)"
    assert store.config_of(done, **folder).group_pattern is None
    urban = store.config_of(
        done, dataset="urbansound8k", data_dir=str(corpus), split="paper"
    )
    assert (urban.split, store.config_of(done).split) == ("paper", "official")


@pytest.mark.parametrize("message", ["sizes do not fit", "two\nlines: a\n  b", ""])
def test_an_error_inside_a_compiled_attack_is_one_line(message):
    def fail(_):
        raise RuntimeError(message)

    @jax.jit
    def call(x):
        return jax.pure_callback(fail, jax.ShapeDtypeStruct((), jnp.float32), x)

    with (
        pytest.raises(UsageError) as raised,
        custom_models.under_attack("mine:network", own_networks.named()),
    ):
        jax.block_until_ready(call(jnp.float32(1.0)))
    (line,) = str(raised.value).splitlines()
    expected = f"RuntimeError: {' '.join(message.split())}" if message else ""
    assert line.startswith("--model=mine:network: failed in an attack with Runtime")
    assert expected in line and "(test_custom_models.py, line " in line


def test_other_errors_of_jax_stay_what_they_are():
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
    with (
        pytest.raises(jax.errors.JaxRuntimeError),
        custom_models.under_attack("mine:f", own_networks.named()),
    ):
        raise error


def test_another_model_of_that_name(attacked, corpus, cache, monkeypatch):
    """Neither a finished run nor an evaluation accepts it."""
    weights = own_networks.weights()
    changed = weights | {"near": weights["near"] * np.float32(1.001)}
    monkeypatch.setattr(own_networks, "weights", lambda: changed)
    custom_models._load.cache_clear()
    with pytest.raises(UsageError, match=r"as it was attacked, got another one"):
        evaluate_stored(attacked, cache_dir=cache)
    with pytest.raises(UsageError, match=r"--workdir: .*own_model\.fingerprint: "):
        carry_out(config_for("own_networks:named", corpus), attacked, cache)
    monkeypatch.undo()
    custom_models._load.cache_clear()


def test_weights_elsewhere_and_code_tell_models_apart():
    prints = {
        custom_models.load(f"own_networks:{name}")[1]["fingerprint"]
        for name in ("named", "unnamed", "without_gradient")
    }
    assert len(prints) == 3
    first = custom_models.load("own_networks:without_gradient")[1]
    custom_models._load.cache_clear()
    assert custom_models.load("own_networks:without_gradient")[1] == first


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.003, 1 + 1e-6])
def test_weights_outside_variables(
    factor, attacked_closed, corpus, cache, monkeypatch, request
):
    """Neither resumed, evaluated nor asked for predictions after a small change."""
    run_dir, model = attacked_closed
    evaluate_again(run_dir, cache)
    load_predictor(store.read_run(run_dir), cache_dir=cache)
    changed = own_networks.weights()
    changed["cos"] = np.float32(changed["cos"] * factor)
    monkeypatch.setattr(own_networks, "weights", lambda: changed)
    custom_models._load.cache_clear()
    request.addfinalizer(custom_models._load.cache_clear)
    with pytest.raises(UsageError, match="as it was attacked"):
        evaluate_stored(run_dir, cache_dir=cache)
    with pytest.raises(UsageError, match="as it was attacked"):
        load_predictor(store.read_run(run_dir), cache_dir=cache)
    evaluate_stored(run_dir, cache_dir=cache, model=model)
    result = (run_dir / "result.json").read_bytes()
    (run_dir / "result.json").unlink()
    # The fingerprint, which names folders, sees what moves a logit by a percent.
    seen = r"another model \(its logits of the same clips|own_model\.fingerprint"
    with pytest.raises(UsageError, match=seen):
        carry_out(config_for(model, corpus), run_dir, cache)
    (run_dir / "result.json").write_bytes(result)


@pytest.fixture(scope="module")
def attacked_closed(corpus, cache, tmp_path_factory):
    """A run on an entry point whose weights are not in its variables."""
    model, workdir = "own_networks:closed", tmp_path_factory.mktemp("runs") / "closed"
    carry_out(config_for(model, corpus), workdir, cache)
    return workdir, model


def test_logits_are_compared_to_the_last_bit_where_they_can_be():
    logits = np.float32([[1.0, 2.0], [3.0, -4.0]])
    before = probes.measure(lambda: logits)
    assert before["is_exact"] and not probes.difference(before, before)
    near = probes.measure(lambda: logits * np.float32(1 + 2e-7))
    assert "differ by" in probes.difference(before, near)
    far = probes.measure(lambda: logits * np.float32(1.003))
    assert "differ by 0.003 of the largest" in probes.difference(before, far)
    assert "instead of" in probes.difference(
        before, probes.measure(lambda: logits.T[:1])
    )
    other = {"machine": before["machine"] | {"num_cores": 99}}
    assert not probes.difference(before, near | other)
    assert "another machine" in probes.difference(before, far | other)


def test_a_classifier_that_differs_each_time_is_told():
    noise = iter(np.random.default_rng(0).normal(0, 1e-6, (99, 2, 2)))
    logits = np.float32([[1.0, 2.0], [3.0, -4.0]])
    first, again = (
        probes.measure(lambda: np.float32(logits + next(noise))) for _ in range(2)
    )
    assert not first["is_exact"] and not probes.difference(first, again)
    far = probes.measure(lambda: np.float32(1.003 * logits + next(noise)))
    assert "other bits for the same clips" in probes.difference(first, far)


def test_settings_of_a_model_of_ones_own(corpus):
    given = dataclasses.replace(
        config_for("own_networks:unnamed", corpus), dataset=None
    )
    settings = resolve(given, on_accelerator=False)
    assert settings.dataset == "folder"
    assert settings.attack.micro_batch_size == 12
    assert "own_networks_unnamed-" in settings.run_name
    with pytest.raises(UsageError, match=r"'training\.seed' is none of attack"):
        resolve(dataclasses.replace(given, overrides=("training.seed=1",)))
    with pytest.raises(UsageError, match="--data_dir"):
        resolve(dataclasses.replace(given, data_dir=None))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_samples": 0}, "num_samples: expected an integer in 1.*, got 0"),
        ({"sample_rate_hz": 8e3}, "sample_rate_hz: .*got 8000.0"),
        ({"class_names": "ab"}, "class_names: expected two or more"),
        ({"class_names": ("a", "a")}, "class_names: expected two or more different"),
    ],
)
def test_own_model_checks_what_it_states(settings, message):
    with pytest.raises(ValueError, match=message):
        Classifier(None, {}, **{**own_networks.SIZES, **settings})


SOURCE = """
import jax.numpy as jnp, numpy as np, sys
from own_networks import *
number = 7
def raises(): raise KeyError("weights")
def leaves(): sys.exit(3)
def wants(path): ...
def gives(): return jax_logits
def rateless():
    return bridges.from_numpy(without_gradient_forward, num_classes=3, num_samples=8)
def without_gradient_forward(x): return x[:, :3]
def own(logits, **more): return models.Classifier(logits, weights(), **SIZES, **more)
def nan(): return own(lambda v, x: jax_logits(v, x) + jnp.nan)
def flat(): return own(lambda v, x: x[:, 0])
def pair(): return own(lambda v, x: (jax_logits(v, x), x))
def table(): return own(lambda v, x: {"logits": jax_logits(v, x)})
def counts(): return own(lambda v, x: jnp.zeros((len(x), 3), jnp.int32))
def fails(): return own(lambda v, x: jax_logits(v, x[:, :7]))
def batch(): return own(lambda v, x: jax_logits(v, x) - jax_logits(v, x).mean(0)[None])
def names(): return own(jax_logits, class_names=("a", "b"))
def one(): return own(jax_logits, class_names=("a",))
"""


@pytest.mark.parametrize(
    ("entry_point", "message"),
    [
        ("no_such_module:f", r"importing .* ModuleNotFoundError: No module named"),
        ("broken_module:f", r"importing .* SyntaxError"),
        ("my_models:nothing", "expected a function nothing in my_models, got none"),
        ("my_models:number", "got int"),
        ("my_models:raises", r"KeyError: 'weights' \(my_models.py, line 5\)"),
        ("my_models:leaves", "SystemExit: 3"),
        ("my_models:wants", "missing 1 required positional argument"),
        ("my_models:gives", "a models.Classifier, got function"),
        ("my_models:rateless", "expected a bridge with sample_rate_hz"),
        ("my_models:nan", "expected finite logits"),
        ("my_models:flat", r"expected logits float32 \[3, C\].*got float32 \[3\]"),
        ("my_models:pair", r"expected logits float32 \[3, C\].*got tuple"),
        ("my_models:table", "got dict"),
        ("my_models:counts", "got int32"),
        ("my_models:fails", r"no logits of clips \[3, 16000\]: TypeError"),
        ("my_models:batch", "logits that depend on the clip alone"),
        ("my_models:names", "expected 3 class_names, one for each logit, got 2"),
        ("my_models:one", "class_names: expected two or more different names"),
        ("own_networks:probabilities", "leave out the softmax"),
    ],
)
def test_faults_of_entry_points(entry_point, message, tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(SOURCE)
    (tmp_path / "broken_module.py").write_text("def f(:")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    with pytest.raises(UsageError, match=message) as info:
        custom_models.load(entry_point)
    assert str(info.value).startswith("--model")
    assert "\n" not in str(info.value)


def test_what_has_no_gradient_cannot_be_attacked():
    classifier, _ = custom_models.load("own_networks:without_gradient")
    with (
        pytest.raises(UsageError, match="use from_numpy_vjp"),
        custom_models.under_attack("mine", classifier),
    ):
        pass


@pytest.mark.parametrize("model", ["resnet", "net.pt", "a b:c", "m:", "", "dir.onnx"])
def test_what_is_no_model(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dir.onnx").mkdir()
    with pytest.raises(UsageError, match=r"--model: expected (one of spchcmd|a file)"):
        custom_models.check_model(model)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"to say what net.pt is made for, such as \{\"sample_rate_hz\": 16000"),
        ("{", "expected JSON such as"),
        ("[1]", "got no object"),
        ('{"rate": 1}', "got rate"),
        (json.dumps(STATED | {"class_names": "ab"}), "a list for class_names"),
        (json.dumps(STATED | {"class_names": ["a", "a"]}), "different class_names"),
        (json.dumps(STATED | {"clip_shape": [1.5]}), "a list for clip_shape"),
        *(
            (json.dumps(STATED | {key: value}), f"integer for {key}, got {text}$")
            for key in ("num_samples", "sample_rate_hz")
            for value, text in (("16000", '"16000"'), (16e3, "16000.0"), (None, "null"))
        ),
    ],
)
def test_what_a_file_is_made_for(text, message, tmp_path):
    (tmp_path / "net.pt").write_bytes(b"")
    if text is not None:
        (tmp_path / "net.pt.json").write_text(text)
    with pytest.raises(UsageError, match=rf"net\.pt\.json.*{message}"):
        custom_models.load(str(tmp_path / "net.pt"))


@pytest.mark.parametrize("name", ["net.PT", "Net.Pt2", "net.ONNX"])
def test_suffixes_in_capitals(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"")
    path.with_name(f"{name}.json").write_text(json.dumps(STATED))
    custom_models.check_model(str(path))
    # Without the libraries it says who needs them.
    loader = "ONNX file|from_onnx" if "ONNX" in name else "torch.export|from_torch_file"
    with pytest.raises(UsageError, match=f"--model: .*({loader})"):
        custom_models.load(str(path))


def test_torch_missing(tmp_path, monkeypatch):
    write_stated(tmp_path / "net.pt")
    (tmp_path / "net.pt").write_bytes(b"")
    # None is what the import system takes for a module that is not there.
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match=r"pip install 'uap_jax\[bridges\]'"):
        custom_models.load(str(tmp_path / "net.pt"))


def write_stated(path, **changes):
    path.with_name(f"{path.name}.json").write_text(json.dumps(STATED | changes))


def write_torch(path, *, factor=1.0):
    """The network of `own_networks` as TorchScript, which takes waveforms."""
    torch = pytest.importorskip("torch")

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name, array in own_networks.weights().items():
                self.register_buffer(name, torch.from_numpy(array))

        def forward(self, waveform):
            frames = waveform.reshape(waveform.shape[0], -1, 200)
            power = (frames @ self.cos) ** 2 + (frames @ self.sin) ** 2
            return factor * torch.log(power.mean(1) @ self.near + 0.1)

    example = torch.zeros(2, own_networks.RATE_HZ)
    torch.jit.trace(Network(), example).save(str(path))
    write_stated(path)


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning"
)
def test_a_file_of_torch(attacked, corpus, cache, tmp_path, capsys):
    path, workdir = tmp_path / "net.pt", tmp_path / "run"
    write_torch(path, factor=4.0)
    config = config_for(path, corpus)
    carry_out(config, workdir, cache)
    assert f"{path} is trained already: 3 classes" in capsys.readouterr().out
    evaluate_stored(workdir, cache_dir=cache)
    result = read(workdir / "result.json")
    folder = workdir / "evaluations" / result["victim"]["name"]
    evaluation = read(folder / "evaluation.json")
    for key in ("test", "control", "clean_accuracy", "victim"):
        assert evaluation[key] == result[key]
    # The same network as the entry point, so the same attack but for rounding.
    same = read(attacked / "result.json")
    assert result["clean_accuracy"] == same["clean_accuracy"]
    assert result["test"]["snr_db"] == pytest.approx(same["test"]["snr_db"], abs=1.0)
    # The attack is to go on, but the network has changed.
    (workdir / "result.json").unlink()
    write_torch(path, factor=5.0)
    with pytest.raises(UsageError, match=r"own_model\.fingerprint"):
        carry_out(config, workdir, cache)
    for changes, message in (
        ({"class_names": ["mid", "low"]}, r"net\.pt: expected logits .*\(3, 2\)"),
        ({"num_samples": "all"}, r"net\.pt\.json: expected an integer for num_samples"),
        ({"sample_rate_hz": None}, r"net\.pt\.json: .*integer for sample_rate_hz"),
        ({"input_range": "loud"}, r"net\.pt\.json: input_range: expected one of"),
        ({"clip_shape": [1, 7]}, r"net\.pt\.json: clip_shape: expected 16000"),
    ):
        write_stated(path, **changes)
        with pytest.raises(UsageError, match=message):
            custom_models.load(str(path))

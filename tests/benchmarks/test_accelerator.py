"""The accelerator benchmark: aims, the record of what fails, and all of it small."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from uap_jax.attacks import batches

NETWORKS = ("spchcmd", "cnn_rand", "cnn_gamma", "envnet_v2", "sincnet", "sincnet_vgg19")
FOLDER = Path(__file__).parents[2] / "experiments" / "benchmarks"


@pytest.fixture(scope="module")
def benchmarks():
    """The scripts as modules of their folder."""
    sys.path.insert(0, str(FOLDER))
    import accelerator
    import harness
    import rates
    from parts import page

    yield {m.__name__: m for m in (accelerator, harness, page, rates)}
    sys.path.remove(str(FOLDER))


@pytest.fixture
def page(benchmarks):
    return benchmarks["parts.page"]


@pytest.mark.parametrize(
    ("device_kind", "tflops", "precisions"),
    [
        ("NVIDIA H200", (67.0, 494.5), ("tf32", "float32")),
        ("NVIDIA H100 PCIe", (51.0, 378.0), ("tf32", "float32")),
        ("NVIDIA A100-SXM4-80GB", (19.5, 156.0), ("tf32", "float32")),
        ("NVIDIA L40S", (91.6, 183.0), ("tf32", "float32")),
        ("Tesla T4", (8.1, None), ("float32",)),
        ("NVIDIA B200", None, ("tf32", "float32")),
    ],
)
def test_rates_of_chips(benchmarks, device_kind, tflops, precisions):
    rates = benchmarks["rates"]
    assert rates.chip_tflops(device_kind) == tflops
    assert rates.precisions(device_kind, "gpu") == precisions


def test_a_cpu_has_a_measured_rate_of_float32(benchmarks):
    assert benchmarks["rates"].precisions("cpu", "cpu") == ("float32",)


def test_operations_of_a_known_network(benchmarks):
    class Linear:
        num_samples = 400

        @staticmethod
        def logits(variables, x):
            return jnp.dot(x, variables["w"])

    variables = {"w": jnp.zeros((400, 1000))}
    flops = benchmarks["rates"].flops_per_clip(Linear, variables)
    # Forwards and backwards two operations a weight, and a few for each logit.
    assert 4 * 400_000 <= flops <= 4.1 * 400_000


def gpu_record(ratio: float, times_one: float, attack_s: float) -> dict:
    """A record of all parts, as from a GPU."""
    timed = {
        "ratios": [ratio],
        "ms_per_clip": {"uap_jax": [1.0], "pytorch": [ratio]},
        "shares_of_peak": {"uap_jax": 0.3, "pytorch": 0.2},
        "compile_s": 5.0,
        "uap_jax_compile_s": 5.0,
    }
    network = {"batch_size": 100, "gradient": timed, "step": timed}
    peak = {"flops": 1e12, "source": "NVIDIA data sheet", "matmul_flops": 9e11}
    one = {"seconds": [1.0], "compile_s": 9.0, "peak_gb": 1.0, "memory": "device"}
    results = {
        1: {
            "command": "python -m uap_jax.experiments.run",
            "wall_s": 60.0,
            "seconds": {"attack": attack_s},
            "clean_accuracy": 0.9,
            "num_passes": 1,
            "test": {"asr": 0.95},
            "control": {"asr": 0.2},
        },
        2: {
            "peak": {"tf32": peak},
            "models": {"tf32": {name: dict(network) for name in NETWORKS}},
        },
        3: {
            "num_samples": 16_000,
            "penalty": {
                "num_clips": 3000,
                "widths": {"1": one, "32": one | {"seconds": [times_one]}},
            },
        },
    }
    parts = {
        str(number): {
            "title": "A part",
            "seconds": 9.0,
            "reason": None,
            "log": f"part_{number}.log",
            "results": part,
        }
        for number, part in results.items()
    }
    settings = {"command": "accelerator.py", "date": "2026-01-01", "seed": 0}
    return settings | {"small": False, "limit_s": 470, "parts": parts}


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [((1.2, 3.9, 4.0), "reached"), ((0.9, 4.1, 40.0), "not reached")],
)
def test_aims(page, measured, verdict):
    record = gpu_record(*measured)
    record["aims"] = page.aims(record)
    assert [aim["verdict"] for aim in record["aims"]] == [verdict] * 3
    assert page.as_markdown(record).count(f"| {verdict} |") == 3


def test_what_was_not_measured_is_no_success(page):
    record = gpu_record(1.2, 3.9, 4.0)
    record["parts"]["1"]["results"] = {}
    del record["parts"]["2"]["results"]["models"]["tf32"]["sincnet"]
    del record["parts"]["3"]["results"]["penalty"]["widths"]["32"]
    assert [aim["verdict"] for aim in page.aims(record)] == ["not measured"] * 3
    record["small"] = True
    assert "reached" not in [aim["verdict"] for aim in page.aims(record)]


def test_gaps_are_found_at_any_depth(page, benchmarks):
    record = gpu_record(1.2, 3.9, 4.0)["parts"]["2"]
    assert benchmarks["accelerator"].is_done(record)
    network = record["results"]["models"]["tf32"]["sincnet"]
    network["gradient"] = network["gradient"] | {"left_out": {"PyTorch": "no torch"}}
    assert page.gaps(record) == ["models, tf32, sincnet, gradient, PyTorch: no torch"]
    assert "1 left out (part_2.log)" in page.outcome(record)
    assert not benchmarks["accelerator"].is_done(record)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ValueError('no such chip')", "exit code 1: ValueError: no such chip"),
        ("time.sleep(60)", "ended after its 1 s"),
        ("", None),
    ],
)
def test_a_part_that_fails_is_recorded(benchmarks, monkeypatch, tmp_path, code, reason):
    """What it had measured before it failed is kept."""
    script = tmp_path / "child.py"
    path = tmp_path / "part_3.json"
    path.write_text('{"results": {"a": "of an earlier run"}}')
    script.write_text(
        "import pathlib, time\n"
        f'pathlib.Path({str(path)!r}).write_text(\'{{"results": {{"a": 1}}}}\')\n{code}'
    )
    accelerator = benchmarks["accelerator"]
    monkeypatch.setattr(accelerator, "__file__", str(script))
    record = accelerator.start_part(
        3, tmp_path, [], 1.0 if "sleep" in code else 30.0, {}
    )
    assert record["reason"] == reason
    assert record["results"] == {"a": 1}
    assert ("ValueError" in (tmp_path / record["log"]).read_text()) == ("raise" in code)


def test_an_opponent_that_fails_is_left_out(benchmarks, capsys):
    def missing():
        raise ModuleNotFoundError("No module named 'torch'\nand more")

    left_out: dict[str, str] = {}
    runs, first_s = benchmarks["harness"].prepared(
        {"ours": lambda: lambda: 1, "theirs": missing}, left_out
    )
    assert [*runs] == [*first_s] == ["ours"]
    assert left_out == {"theirs": "ModuleNotFoundError: No module named 'torch'"}
    assert "Traceback" in capsys.readouterr().err


def test_accelerators_take_whole_batches_by_default(monkeypatch):
    assert batches.even_share(100) == 25
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert batches.even_share(100) == 100
    assert batches.even_share(300) == 100


@pytest.mark.slow
def test_all_parts_small(tmp_path):
    """All parts run on a CPU; only opponents that are not installed are left out."""
    output = tmp_path / "small"
    done = subprocess.run(
        [
            # On two idle cores it takes less than three minutes.
            *(sys.executable, str(FOLDER / "accelerator.py"), "--small"),
            "--limit_s=900",
            *(f"--output={output}", f"--workdir={tmp_path / 'work'}"),
        ],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    record = json.loads(output.with_suffix(".json").read_text())
    parts = record["parts"]
    assert [*parts] == list("123456"), done.stderr
    assert [part["reason"] for part in parts.values()] == [None] * 6, done.stdout
    page = output.with_suffix(".md").read_text()
    gaps = [line for line in page.splitlines() if line.startswith("- Left out")]
    assert all("ModuleNotFoundError" in line for line in gaps), gaps
    assert done.returncode == (1 if gaps else 0)
    assert (
        "uap_jax"
        in parts["2"]["results"]["models"]["float32"]["sincnet_vgg19"]["step"][
            "ms_per_clip"
        ]
    )

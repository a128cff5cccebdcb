"""What the benchmarks share: flags, inputs, timing, the machine, where results go."""

import contextlib
import datetime
import importlib.metadata
import inspect
import json
import os
import platform
import sys
import time
import traceback
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags, logging

from uap_jax import models
from uap_jax.models import kernels

# OpenMP's threads wait actively for a while, at the cost of whoever comes next. An
# accelerator would lower its clock instead.
CPU_PAUSE_S = 0.3
# Of PyTorch; None: all cores.
TORCH_THREADS: int | None = None

Variables = dict[str, Any]
RunFn = Callable[[], Any]
Results = dict[str, Any]

_DEFINE = {
    int: flags.DEFINE_integer,
    bool: flags.DEFINE_bool,
    str: flags.DEFINE_string,
    Sequence: flags.DEFINE_list,
}


def launch(
    run: Callable[..., Iterator[Results]], as_markdown: Callable[[Results], str]
) -> None:
    """Runs a benchmark from the command line.

    Args:
        run: As for `define_flags`. It yields its results whenever there are more of
            them, so that a run that ends early leaves what it has.
        as_markdown: Makes a page of the results.
    """
    settings = define_flags(run)
    output = flags.DEFINE_string(
        "output", None, "Where results go, without .json and .md; None: nowhere."
    )
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS["output"])

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"expected flags only, got {argv[1:]}")
        table = ""
        for results in run(**{name: flag.value for name, flag in settings.items()}):
            table = as_markdown(results)
            if output.value is not None:
                write_results(results, table, Path(output.value))
        if table:
            print(table)

    app.run(main)


def define_flags(run: Callable[..., Any]) -> dict[str, flags.FlagHolder]:
    """Defines the flags of a function.

    Args:
        run: Its keywords are the flags, each with a default and annotated with its type
            and its help.
    """
    holders = {}
    for name, parameter in inspect.signature(run).parameters.items():
        hint, help_ = typing.get_args(parameter.annotation)
        if isinstance(hint, UnionType):  # None: nothing is said.
            hint = typing.get_args(hint)[0]
        define = _DEFINE[typing.get_origin(hint) or hint]
        default = parameter.default
        default = [*default] if isinstance(default, tuple) else default
        holders[name] = define(name, default, help_)
        # For --help.
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    return holders


def write_results(results: Results, table: str, output: Path) -> None:
    """Writes OUTPUT.json and OUTPUT.md."""
    output.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=2) + "\n"
    output.with_suffix(".json").write_text(text)
    output.with_suffix(".md").write_text(table)


def begin(*packages: str) -> Results:
    """Returns the first entries of results: the day, the machine, versions."""
    device = jax.devices()[0]
    load = os.getloadavg()[0]
    if load > 0.3:
        logging.warning("the machine is not idle: load average %.2f", load)
    machine = {
        "device": cpu_name() if device.platform == "cpu" else device.device_kind,
        "platform": device.platform,
        "cpu": cpu_name(),
        "num_cores": num_cores(),
        "load_average_before": load,
    }
    names = ("jax", "jaxlib", "flax", *packages)
    return {
        "date": datetime.date.today().isoformat(),
        "machine": machine,
        "versions": {"python": platform.python_version()}
        | {name: version_of(name) for name in names},
    }


def num_cores() -> int:
    return len(os.sched_getaffinity(0))


def version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def torch_device() -> Any:
    """Returns PyTorch's name of the device that JAX computes on, ready for timing.

    Raises:
        RuntimeError: PyTorch does not reach it.
    """
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(TORCH_THREADS or num_cores())
    # XLA tries several algorithms of a convolution too.
    torch.backends.cudnn.benchmark = True
    allow_tf32 = jax.config.jax_default_matmul_precision is None
    torch.backends.cuda.matmul.allow_tf32 = allow_tf32
    torch.backends.cudnn.allow_tf32 = allow_tf32
    if jax.default_backend() == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeError(f"torch {torch.__version__} does not reach the GPU")
    return torch.device("cuda")


def precision(name: str) -> contextlib.AbstractContextManager[Any]:
    """How factors of products are rounded: "float32", not at all, or "tf32".

    "tf32" is JAX's default on a GPU that has it; a CPU does not round. `torch_device`
    has PyTorch do the same.
    """
    is_default = name == "tf32" or jax.default_backend() == "cpu"
    return jax.default_matmul_precision(None if is_default else "highest")


def attempt(name: str, run: RunFn, left_out: dict[str, str]) -> Any:
    """Returns what `run` does; or None, with its reason in `left_out`.

    The traceback goes to standard error.
    """
    try:
        return run()
    except Exception as error:
        traceback.print_exc()
        lines = str(error).strip().splitlines() or [""]
        left_out[name] = f"{type(error).__name__}: {lines[0][:200]}"
        return None


def prepared(
    opponents: Mapping[str, Callable[[], RunFn]], left_out: dict[str, str]
) -> tuple[dict[str, RunFn], dict[str, float]]:
    """Prepares what is to be timed, and runs each once.

    Returns:
        Those that run here, and the seconds of their first calls.
    """
    runs, first_s = {}, {}

    def first(make: Callable[[], RunFn]) -> tuple[RunFn, float]:
        run = make()
        return run, seconds_of(run)

    for name, make in opponents.items():
        outcome = attempt(name, lambda make=make: first(make), left_out)
        if outcome is not None:
            runs[name], first_s[name] = outcome
    return runs, first_s


def in_turns(runs: Mapping[str, RunFn], num_repeats: int) -> dict[str, list[float]]:
    """Returns the seconds of each, timed A B A B ..."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(num_repeats):
        for name, run in runs.items():
            seconds[name].append(seconds_of(run))
    return seconds


def seconds_of(run: RunFn) -> float:
    if jax.default_backend() == "cpu":
        time.sleep(CPU_PAUSE_S)
    return timed_alone(run)


def timed_alone(run: RunFn) -> float:
    """Returns the seconds of a run, without the pause that turns need."""
    start = time.perf_counter()
    wait_for(run())
    return time.perf_counter() - start


def wait_for(result: Any) -> None:
    """Waits until both frameworks have computed what they were asked for."""
    jax.block_until_ready(result)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def fastest(
    runs: Mapping[str, RunFn], *, num_runs: int = 2
) -> tuple[str, dict[str, float]]:
    """Returns the fastest of several forms of one computation, and all best times."""
    seconds = {
        name: min(seconds_of(run) for _ in range(num_runs))
        for name, run in runs.items()
    }
    return min(seconds, key=seconds.__getitem__), seconds


def ratios(slow: Sequence[float], fast: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(slow, fast, strict=True)]


def random_clips(num_clips: int, num_samples: int, *, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 1, (num_clips, num_samples)).astype(np.float32)


def random_variables(spec: models.Architecture, *, seed: int = 0) -> Variables:
    """Random weights and statistics, without a compiled program.

    The one that draws the weights of a large network takes minutes to compile.
    """
    rng = np.random.default_rng(seed)

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        noise = rng.standard_normal(leaf.shape, np.float32)
        name = path[-1].key
        if name == "scale":  # Of either sign, as after training.
            return np.sign(noise) * (1 + np.float32(0.2) * np.abs(noise))
        if name == "var":
            return 1 + np.float32(0.2) * np.abs(noise)
        if name in ("low", "width"):  # Cycles per sample.
            return np.float32(0.01) + np.float32(0.05) * np.abs(noise)
        if leaf.ndim < 2:
            return np.float32(0.1) * noise
        return noise * np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])))

    shapes = jax.eval_shape(spec.init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def loss_of(spec: models.Architecture, form: ModuleType) -> Callable[..., Any]:
    """Returns the summed cross-entropy and the logits, of clips, weights, labels.

    `form` is `kernels.fast` or `kernels.plain`.
    """

    def loss(
        x: jax.Array, variables: Variables, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        with mock.patch.object(kernels, "ops", lambda: form):
            logits = spec.logits(variables, x)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.sum(losses), logits

    return loss


def cpu_name() -> str:
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        for line in cpu_info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine_lines(results: Results) -> list[str]:
    """Returns what a table says of the machine, the versions, the day and the gaps."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in results["versions"].items())
    return [
        f"- {machine['device']}, {machine['num_cores']} cores; load average before: "
        f"{machine['load_average_before']:.2f}.",
        f"- {versions}; {results['date']}.",
        *(f"- Left out: {name}: {why}" for name, why in left_out_of(results)),
    ]


def left_out_of(results: Results) -> list[tuple[str, str]]:
    return list(results.get("left_out", {}).items())

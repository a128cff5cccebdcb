"""Times DDN on SpchCMD against foolbox, on JAX and on PyTorch, on the same CPU.

See the README beside this file.
"""

import statistics
from typing import Any

import foolbox
import harness
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch_twin
from absl import app, flags

from uap_jax import attacks, models

_NUM_CLIPS = flags.DEFINE_integer("num_clips", 100, "Clips.", lower_bound=1)
_NUM_STEPS = flags.DEFINE_integer("num_steps", 50, "Steps of DDN.", lower_bound=1)
_NUM_REPEATS = flags.DEFINE_integer(
    "num_repeats", 5, "Timings of each, in turns.", lower_bound=1
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Where to write the results, without .json and .md; None: nowhere."
)

NUM_CLASSES = 32
# Rounding takes 50 steps of a search apart that decides between larger and smaller.
MAX_NORM_DIFFERENCE = 0.02


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, got {argv[1:]}")
    machine = harness.use_all_cores()
    spec = models.create("spchcmd", num_classes=NUM_CLASSES)
    variables = harness.random_variables(spec)
    x = harness.random_clips(_NUM_CLIPS.value, spec.num_samples, seed=1)
    labels = np.asarray(jnp.argmax(jax.jit(spec.logits)(variables, x), axis=1))
    runs = {
        "uap_jax": prepare_uap_jax(spec, variables, x, labels),
        "foolbox on JAX": prepare_foolbox_jax(spec, variables, x, labels),
    }
    twin = torch_twin.twin_of(variables, num_samples=spec.num_samples)
    for name, network in (("plain", twin), ("tuned", torch_twin.tuned(twin))):
        runs[f"foolbox on PyTorch, {name}"] = prepare_foolbox_torch(network, x, labels)
    first_s = {name: harness.seconds_of(run) for name, run in runs.items()}
    norms = {name: np.linalg.norm(run() - x, axis=1) for name, run in runs.items()}
    check_equal_work(norms)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(_NUM_REPEATS.value):
        for name, run in runs.items():
            seconds[name].append(harness.seconds_of(run))
    results = {
        "date": harness.today(),
        "machine": machine,
        "versions": harness.versions_of(("jax", "flax", "torch", "foolbox")),
        "settings": {
            "num_clips": _NUM_CLIPS.value,
            "num_samples": spec.num_samples,
            "num_steps": _NUM_STEPS.value,
            "num_repeats": _NUM_REPEATS.value,
        },
        "seconds": seconds,
        "first_call_s": first_s,
        "median_l2": {name: float(np.median(norm)) for name, norm in norms.items()},
        "ratios": {
            name: [b / a for a, b in zip(seconds["uap_jax"], values, strict=True)]
            for name, values in seconds.items()
        },
    }
    harness.write_results(results, as_markdown(results), _OUTPUT.value)


def prepare_uap_jax(
    spec: models.Architecture,
    variables: harness.Variables,
    x: np.ndarray,
    labels: np.ndarray,
) -> harness.RunFn:
    variables, clips = jax.device_put(variables), jnp.asarray(x)
    classes = jnp.asarray(labels, jnp.int32)
    config = attacks.DDNConfig(num_steps=_NUM_STEPS.value)

    def run() -> np.ndarray:
        found = attacks.ddn(spec.logits, variables, clips, classes, config=config)
        return np.asarray(clips + found.delta)

    return run


def prepare_foolbox_jax(
    spec: models.Architecture,
    variables: harness.Variables,
    x: np.ndarray,
    labels: np.ndarray,
) -> harness.RunFn:
    logits = jax.jit(spec.logits)
    variables = jax.device_put(variables)
    model = foolbox.JAXModel(lambda clips: logits(variables, clips), bounds=(0, 1))
    clips, classes = jnp.asarray(x), jnp.asarray(labels)

    def run() -> np.ndarray:
        _, found, _ = foolbox_ddn()(model, clips, classes, epsilons=None)
        return np.asarray(found)

    return run


def prepare_foolbox_torch(
    network: torch.nn.Module, x: np.ndarray, labels: np.ndarray
) -> harness.RunFn:
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    clips, classes = torch.from_numpy(x), torch.from_numpy(np.int64(labels))

    def run() -> np.ndarray:
        _, found, _ = foolbox_ddn()(model, clips, classes, epsilons=None)
        return found.numpy()

    return run


def foolbox_ddn() -> Any:
    settings = attacks.DDNConfig()
    return foolbox.attacks.DDNAttack(
        init_epsilon=settings.init_norm, steps=_NUM_STEPS.value, gamma=settings.gamma
    )


def check_equal_work(norms: dict[str, np.ndarray]) -> None:
    """Asserts that all find perturbations of the same size."""
    ours = np.median(norms["uap_jax"])
    for name, norm in norms.items():
        difference = abs(np.median(norm) / ours - 1)
        assert difference < MAX_NORM_DIFFERENCE, (name, difference)


def as_markdown(results: dict[str, Any]) -> str:
    settings = results["settings"]
    rows = [
        f"| {name} | {min(values):.2f} | {statistics.median(values):.2f} | "
        f"{statistics.median(results['ratios'][name]):.2f} | "
        f"{results['first_call_s'][name]:.1f} | {results['median_l2'][name]:.4f} |"
        for name, values in results["seconds"].items()
    ]
    size = f"{settings['num_clips']} clips x {settings['num_steps']} steps"
    lines = [
        f"# DDN on SpchCMD, {size}",
        "",
        "| seconds | min | median | median ratio | first call | median l2 found |",
        "| --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        "- The ratio is taken turn by turn: time over that of uap_jax.",
        f"- Clips of {settings['num_samples']} samples, float32, untargeted; "
        f"{settings['num_repeats']} timings of each, in turns.",
        *harness.machine_lines(results),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    app.run(main)

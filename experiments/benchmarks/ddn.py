"""Times DDN on SpchCMD against foolbox, on JAX and on PyTorch, on the same device.

See the README beside this file.
"""

import statistics
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import harness
import jax
import jax.numpy as jnp
import numpy as np

from uap_jax import attacks, models

NUM_CLASSES = 32
# Rounding takes 50 steps of a search apart that decides between larger and smaller.
MAX_NORM_DIFFERENCE = 0.02


def run(
    num_clips: Annotated[int, "Clips."] = 100,
    num_steps: Annotated[int, "Steps of DDN."] = 50,
    num_repeats: Annotated[int, "Timings of each, in turns."] = 5,
    num_samples: Annotated[int, "Samples of a clip."] = 16_000,
) -> Iterator[harness.Results]:
    results = harness.begin("torch", "foolbox")
    spec = models.create("spchcmd", num_classes=NUM_CLASSES, num_samples=num_samples)
    variables = harness.random_variables(spec)
    x = harness.random_clips(num_clips, spec.num_samples, seed=1)
    labels = np.asarray(jnp.argmax(jax.jit(spec.logits)(variables, x), axis=1))
    left_out: dict[str, str] = {}
    makers: dict[str, Callable[[], harness.RunFn]] = {
        "uap_jax": lambda: prepare_uap_jax(spec, variables, x, labels, num_steps),
        "foolbox on JAX": lambda: prepare_foolbox_jax(
            spec, variables, x, labels, num_steps
        ),
        **{
            f"foolbox on PyTorch, {variant}": lambda v=variant: prepare_foolbox_torch(
                spec, variables, x, labels, num_steps, variant=v
            )
            for variant in ("plain", "tuned")
        },
    }
    runs, first_s = harness.prepared(makers, left_out)
    norms = {
        name: float(np.median(np.linalg.norm(as_numpy(run()) - x, axis=1)))
        for name, run in runs.items()
    }
    check_equal_work(norms)
    seconds = harness.in_turns(runs, num_repeats)
    yield results | {
        "settings": {
            "num_clips": num_clips,
            "num_samples": spec.num_samples,
            "num_steps": num_steps,
            "num_repeats": num_repeats,
        },
        "seconds": seconds,
        "first_call_s": first_s,
        "median_l2": norms,
        "ratios": {
            name: harness.ratios(values, seconds["uap_jax"])
            for name, values in seconds.items()
        },
        "left_out": left_out,
    }


def prepare_uap_jax(
    spec: models.Architecture,
    variables: harness.Variables,
    x: np.ndarray,
    labels: np.ndarray,
    num_steps: int,
) -> harness.RunFn:
    variables, clips = jax.device_put((variables, x))
    classes = jnp.asarray(labels, jnp.int32)
    config = attacks.DDNConfig(num_steps=num_steps)

    def run() -> jax.Array:
        found = attacks.ddn(spec.logits, variables, clips, classes, config=config)
        return clips + found.delta

    return run


def prepare_foolbox_jax(
    spec: models.Architecture,
    variables: harness.Variables,
    x: np.ndarray,
    labels: np.ndarray,
    num_steps: int,
) -> harness.RunFn:
    import foolbox

    logits = jax.jit(spec.logits)
    variables, clips, classes = jax.device_put((variables, x, labels))
    model = foolbox.JAXModel(lambda clips: logits(variables, clips), bounds=(0, 1))
    attack = foolbox_ddn(num_steps)
    return lambda: attack(model, clips, classes, epsilons=None)[1]


def prepare_foolbox_torch(
    spec: models.Architecture,
    variables: harness.Variables,
    x: np.ndarray,
    labels: np.ndarray,
    num_steps: int,
    *,
    variant: str,
) -> harness.RunFn:
    import foolbox
    import torch
    from twins import variants_of

    device = harness.torch_device()
    networks = variants_of(
        spec.name, variables, num_samples=spec.num_samples, device=device
    )
    model = foolbox.PyTorchModel(networks[variant], bounds=(0, 1), device=device)
    clips = torch.from_numpy(x).to(device)
    classes = torch.from_numpy(np.int64(labels)).to(device)
    attack = foolbox_ddn(num_steps)
    return lambda: attack(model, clips, classes, epsilons=None)[1]


def foolbox_ddn(num_steps: int) -> Any:
    import foolbox

    settings = attacks.DDNConfig()
    return foolbox.attacks.DDNAttack(
        init_epsilon=settings.init_norm, steps=num_steps, gamma=settings.gamma
    )


def as_numpy(x: Any) -> np.ndarray:
    return np.asarray(x.cpu() if hasattr(x, "cpu") else x)


def check_equal_work(norms: dict[str, float]) -> None:
    """Asserts that all find perturbations of the same size."""
    for name, norm in norms.items():
        difference = abs(norm / norms["uap_jax"] - 1)
        assert difference < MAX_NORM_DIFFERENCE, (name, difference)


def as_markdown(results: harness.Results) -> str:
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
    harness.launch(run, as_markdown)

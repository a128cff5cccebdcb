"""Times the input gradient of ONNX networks in JAX against PyTorch.

The networks are those that the tests export, with random weights, on clips of a second
at 16 kHz. See the README beside this file.
"""

import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import harness
import jax
import numpy as np
import optax
from input_gradient import Timed, difference, scout

from uap_jax.bridges import from_onnx
from uap_jax.models import Classifier

EXPORTED = Path(__file__).parents[2] / "tests" / "bridges" / "onnx_files"
NUM_SAMPLES = 16_000
MODELS = ("waveform_cnn", "ds_cnn", "recurrent", "transformer")
WAYS = ("ONNX in JAX", "ONNX through PyTorch", "PyTorch")


def run(
    models: Annotated[Sequence[str], "Networks, in this order."] = MODELS,
    num_clips: Annotated[int, "Clips of a timing."] = 64,
    micro_batch_sizes: Annotated[
        Sequence[str], "Clips taken at once; the fastest for each way is kept."
    ] = ("8", "32"),
    num_repeats: Annotated[int, "Timings of each way, in turns."] = 7,
) -> Iterator[harness.Results]:
    sys.path.append(str(EXPORTED))
    import exported_networks

    results = harness.begin("torch", "onnx", "onnx2torch") | {
        "settings": {"num_repeats": num_repeats, "num_samples": NUM_SAMPLES},
        "models": {},
    }
    harness.torch_device()
    sizes = [int(size) for size in micro_batch_sizes]
    x = harness.random_clips(num_clips, NUM_SAMPLES, seed=1)
    labels = np.random.default_rng(1).integers(
        0, exported_networks.NUM_CLASSES, num_clips
    )
    for name in models:
        module = exported_networks.make(name, num_samples=NUM_SAMPLES)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.onnx"
            exported_networks.export(module, path, num_samples=NUM_SAMPLES)
            settings = {
                "num_samples": NUM_SAMPLES,
                "num_classes": exported_networks.NUM_CLASSES,
            }
            left_out: dict[str, str] = {}
            makers = {"PyTorch": torch_makers(module, x, labels, sizes)}
            for framework, way in (("jax", WAYS[0]), ("torch", WAYS[1])):
                classifier = harness.attempt(
                    way,
                    lambda f=framework: from_onnx(path, framework=f, **settings),  # noqa: B023
                    left_out,
                )
                if classifier is not None:
                    makers[way] = jax_makers(classifier, x, labels, sizes)
        results["models"][name] = measure(makers, num_repeats, left_out)
        yield results
        jax.clear_caches()


def measure(
    makers: dict[str, dict[str, Callable[[], Timed]]],
    num_repeats: int,
    left_out: dict[str, str],
) -> harness.Results:
    best, variants = {}, {}
    for way, forms in makers.items():
        timed = scout(forms, left_out)
        if timed is not None:
            best[way], variants[way], _ = timed
    seconds = harness.in_turns({way: t.run for way, t in best.items()}, num_repeats)
    ms = {
        way: [s / best[way].num_clips * 1e3 for s in values]
        for way, values in seconds.items()
    }
    ours = WAYS[0]
    others = [way for way in WAYS[1:] if way in best]
    return {
        "ms_per_clip": ms,
        "variants": variants,
        "ratios": {way: harness.ratios(ms[way], ms[ours]) for way in others},
        "gradients_differ_by": difference(best[ours].run(), best["PyTorch"].run()),
        "left_out": left_out,
    }


def jax_makers(
    classifier: Classifier, x: np.ndarray, labels: np.ndarray, sizes: Sequence[int]
) -> dict[str, Callable[[], Timed]]:
    def loss(clips: jax.Array, variables: Any, labels: jax.Array) -> jax.Array:
        logits = classifier.logits(variables, clips)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum()

    @jax.jit
    def gradients(variables: Any, clips: jax.Array, labels: jax.Array) -> jax.Array:
        gradient = jax.grad(loss)
        return jax.lax.map(
            lambda batch: gradient(batch[0], variables, batch[1]), (clips, labels)
        )

    def make(size: int) -> Timed:
        num_clips = len(x) // size * size
        clips = x[:num_clips].reshape(-1, size, x.shape[1])
        classes = labels[:num_clips].reshape(-1, size).astype(np.int32)
        arguments = jax.device_put((classifier.variables, clips, classes))
        return Timed(lambda: gradients(*arguments), num_clips)

    return {f"micro-batches of {n}": lambda n=n: make(n) for n in sizes}


def torch_makers(
    module: Any, x: np.ndarray, labels: np.ndarray, sizes: Sequence[int]
) -> dict[str, Callable[[], Timed]]:
    import torch
    from torch.nn import functional

    def make(size: int) -> Timed:
        num_clips = len(x) // size * size
        clips = torch.from_numpy(x[:num_clips]).split(size)
        classes = torch.from_numpy(labels[:num_clips]).split(size)

        def gradient_of(batch: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
            batch = batch.detach().requires_grad_()
            loss = functional.cross_entropy(module(batch), classes, reduction="sum")
            return torch.autograd.grad(loss, batch)[0]

        return Timed(
            lambda: torch.cat(list(map(gradient_of, clips, classes))), num_clips
        )

    return {f"micro-batches of {n}": lambda n=n: make(n) for n in sizes}


def as_markdown(results: harness.Results) -> str:
    rows, notes = [], []
    for name, found in results["models"].items():
        ms = found["ms_per_clip"]
        medians = [
            f"{statistics.median(ms[way]):.2f}" if way in ms else "" for way in WAYS
        ]
        ratios = [
            f"{statistics.median(found['ratios'][way]):.2f} "
            f"({min(found['ratios'][way]):.2f} to {max(found['ratios'][way]):.2f})"
            if way in found["ratios"]
            else ""
            for way in WAYS[1:]
        ]
        rows.append(f"| {name} | {' | '.join([*medians, *ratios])} |")
        notes += [f"- {name}: {why}." for why in found["left_out"].values()]
    return "\n".join(
        [
            "# Input gradient of ONNX networks, float32",
            "",
            f"| ms per clip | {' | '.join(WAYS)} | "
            "through PyTorch / in JAX | PyTorch / in JAX |",
            "| --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
            f"- Medians of {results['settings']['num_repeats']} timings in turns; "
            "ratios are taken pair by pair (median, smallest, largest).",
            *harness.machine_lines(results),
            *notes,
            "",
        ]
    )


if __name__ == "__main__":
    harness.launch(run, as_markdown)

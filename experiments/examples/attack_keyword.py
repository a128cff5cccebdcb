"""Attacks a PyTorch keyword classifier through the bridges and in plain JAX.

The same network, with the same weights, as a module (`bridges.from_torch`), as an
exported program (`from_torch_file`), as an ONNX file (`from_onnx`, where onnx2torch can
be loaded) and written in JAX: same clips, key and settings. See the README beside this
file.
"""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import agreement
import jax
import jax.numpy as jnp
import keyword_jax
import keyword_torch
import numpy as np
import plain_loop
import torch
from absl import app, flags, logging

from uap_jax import attacks, bridges
from uap_jax.audio.box import to_box, to_tanh_space
from uap_jax.data import corpora
from uap_jax.data.dataset import Dataset, split_clips, to_waveform
from uap_jax.environment import compile_seconds
from uap_jax.files import default_cache_dir

_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of Speech Commands recordings.", required=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/keyword", "Where the network is kept; trained if it is not there."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Where to write the results, without .json and .md; None: nowhere."
)
_TARGET = flags.DEFINE_string("target", "down", "The class to say.")
_NUM_CLIPS = flags.DEFINE_integer("num_clips", 500, "Of the penalty attack.")
_MAX_PASSES = flags.DEFINE_integer("max_passes", 10, "Of the penalty attack.")
_NUM_GREEDY_CLIPS = flags.DEFINE_integer("num_greedy_clips", 200, "Of the greedy one.")
_MAX_GREEDY_PASSES = flags.DEFINE_integer("max_greedy_passes", 5, "Likewise.")
_NUM_ROUNDS = flags.DEFINE_integer(
    "num_rounds", 5, "How often each penalty attack is timed, in turns.", lower_bound=1
)
_NUM_EPOCHS = flags.DEFINE_integer("num_epochs", 20, "Of the training.")
_SEED = flags.DEFINE_integer("seed", 0, "Of training, choice of clips and attacks.")

# OpenMP's threads wait actively for a while, at the cost of whoever comes next.
PAUSE_S = 0.3
# A greedy attack that ends before rounding has grown.
NUM_SHORT_CLIPS = 6
SHORT_DDN = attacks.DDNConfig(num_steps=5)

# Of a route, to what it found.
AttackFn = Callable[[agreement.Route], attacks.AttackResult]
RunFn = Callable[[], Any]


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, got {argv[1:]}")
    jax.config.update("jax_platforms", "cpu")
    machine = agreement.machine()
    dataset = corpora.load(
        "speech_commands",
        data_dir=Path(_DATA_DIR.value),
        cache_dir=default_cache_dir() / "corpora",
        sample_rate_hz=keyword_torch.SAMPLE_RATE_HZ,
        num_samples=keyword_torch.NUM_SAMPLES,
    )
    if _TARGET.value not in dataset.class_names:
        raise app.UsageError(
            f"--target: expected one of {dataset.class_names}, got {_TARGET.value!r}"
        )
    target = dataset.class_names.index(_TARGET.value)
    splits = split_clips(dataset)
    workdir = Path(_WORKDIR.value)
    network = network_in(workdir, dataset, splits.train)
    routes = routes_of(network, workdir, num_classes=len(dataset.class_names))

    chosen = np.random.default_rng(_SEED.value).permutation(splits.train)
    x, labels = clips_of(dataset, chosen[: _NUM_CLIPS.value])
    x_test, test_labels = clips_of(dataset, splits.test)
    key = jax.random.key(_SEED.value)
    penalty_config = attacks.resolve_penalty_config(
        attacks.PenaltyConfig(max_passes=_MAX_PASSES.value),
        targeted=True,
        num_clips=len(x),
    )
    greedy_config = attacks.GreedyConfig(max_passes=_MAX_GREEDY_PASSES.value)
    short_config = attacks.GreedyConfig(max_passes=1, ddn=SHORT_DDN)

    def penalty(route: agreement.Route) -> attacks.AttackResult:
        return attacks.penalty(
            *route, x, labels, key=key, target=target, config=penalty_config
        )

    def greedy(
        num_clips: int, config: attacks.GreedyConfig, route: agreement.Route
    ) -> attacks.AttackResult:
        some = slice(num_clips)
        return attacks.greedy(
            *route, x[some], labels[some], key=key, target=target, config=config
        )

    short_greedy = functools.partial(greedy, NUM_SHORT_CLIPS, short_config)
    long_greedy = functools.partial(greedy, _NUM_GREEDY_CLIPS.value, greedy_config)

    results: dict[str, Any] = {
        "machine": machine,
        "settings": {
            flag.name: flag.value
            for flag in (
                *(_TARGET, _NUM_CLIPS, _MAX_PASSES, _NUM_GREEDY_CLIPS),
                *(_MAX_GREEDY_PASSES, _NUM_ROUNDS, _NUM_EPOCHS, _SEED),
            )
        },
        "num_clips": {
            "penalty": len(x),
            "greedy, short": NUM_SHORT_CLIPS,
            "greedy": _NUM_GREEDY_CLIPS.value,
        },
        "clean": agreement.of_clean_clips(routes, x_test, test_labels),
    }
    for name, attack in (
        ("penalty", penalty),
        ("greedy, short", short_greedy),
        ("greedy", long_greedy),
    ):
        found, seconds = attack_all(routes, attack)
        judged = agreement.of_attack(routes, found, x_test, target=target)
        for route in routes:
            judged[route] |= seconds[route]
            logging.info("%s, %s: %s", name, route, judged[route])
        results[name] = judged
        if name == "penalty":
            num_passes = int(found["from_torch"].num_passes)
            loops = plain_loops(network, x, penalty_config, target, num_passes)
            runs = {n: functools.partial(penalty, r) for n, r in routes.items()}
            results["seconds_in_turns"] = time_in_turns(runs | loops)
    agreement.write(results, _OUTPUT.value)


def network_in(
    workdir: Path, dataset: Dataset, indices: np.ndarray
) -> keyword_torch.KeywordNetwork:
    """Returns the network of a folder, trained if there is none."""
    weights = workdir / keyword_torch.FILES["weights"]
    if not weights.exists():
        start = time.perf_counter()
        network = keyword_torch.train(
            dataset, indices, num_epochs=_NUM_EPOCHS.value, seed=_SEED.value
        )
        logging.info("trained in %.0f s", time.perf_counter() - start)
        keyword_torch.save(network, workdir)
    return keyword_torch.load(weights)


def routes_of(
    network: keyword_torch.KeywordNetwork, workdir: Path, *, num_classes: int
) -> dict[str, agreement.Route]:
    """Returns the ways to the network; the first is the one in JAX."""
    settings: dict[str, Any] = {
        "num_classes": num_classes,
        "num_samples": keyword_torch.NUM_SAMPLES,
        "sample_rate_hz": keyword_torch.SAMPLE_RATE_HZ,
        "input_range": "waveform",
    }
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    program = workdir / keyword_torch.FILES["program"]
    made = {
        "from_torch": bridges.from_torch(network, **settings),
        "from_torch_file": bridges.from_torch_file(program, **settings),
    }
    onnx = workdir / keyword_torch.FILES["onnx"]
    try:
        made["from_onnx"] = bridges.from_onnx(onnx, **settings)
    except (ImportError, FileNotFoundError) as error:
        logging.warning("left out: from_onnx: %s", error)
    variables = keyword_jax.variables_of(state)
    return {
        "jax": agreement.Route(keyword_jax.logits, variables),
        # What rounding alone does, without a bridge.
        "jax, units reversed": agreement.Route(
            keyword_jax.logits, keyword_jax.reversed_units(variables)
        ),
        **{n: agreement.Route(b.logits, b.variables) for n, b in made.items()},
    }


def clips_of(dataset: Dataset, indices: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Returns clips `[M, N]` in the box, and their labels `[M]`."""
    waveforms = jnp.asarray(to_waveform(dataset.clips[indices]))
    x, _ = to_box(waveforms, scaling="fixed")
    return x, jnp.asarray(dataset.labels[indices])


def attack_all(
    routes: dict[str, agreement.Route], attack: AttackFn
) -> tuple[dict[str, attacks.AttackResult], dict[str, dict[str, float]]]:
    """Attacks each route once; what it took, and of that to compile."""
    found, seconds = {}, {}
    for name, route in routes.items():
        before = compile_seconds()
        found[name], total_s = timed(functools.partial(attack, route))
        seconds[name] = {"total_s": total_s, "compile_s": compile_seconds() - before}
    return found, seconds


def plain_loops(
    network: torch.nn.Module,
    x: jax.Array,
    config: attacks.PenaltyConfig,
    target: int,
    num_passes: int,
) -> dict[str, RunFn]:
    """The plain loop over whole batches, and over the attack's micro-batches."""
    x_tanh = torch.from_numpy(np.array(to_tanh_space(x)))
    sizes = {
        "whole batches": config.batch_size,
        "micro-batches": config.micro_batch_size,
    }
    return {
        f"plain loop, {name}": functools.partial(
            plain_loop.penalty,
            network,
            x_tanh,
            target=target,
            num_passes=num_passes,
            micro_batch_size=size,
            config=config,
            seed=_SEED.value,
        )
        for name, size in sizes.items()
    }


def time_in_turns(runs: dict[str, RunFn]) -> dict[str, list[float]]:
    """Seconds of each run, A B C A B C ..."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(_NUM_ROUNDS.value):
        for name, run in runs.items():
            seconds[name].append(timed(run)[1])
    return seconds


def timed(run: RunFn) -> tuple[Any, float]:
    time.sleep(PAUSE_S)
    start = time.perf_counter()
    result = jax.block_until_ready(run())
    return result, time.perf_counter() - start


if __name__ == "__main__":
    app.run(main)

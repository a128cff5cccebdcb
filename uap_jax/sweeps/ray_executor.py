"""Does the work of a sweep on a Ray cluster.

A worker is a process with one GPU or, where there are none, a share of the processors.
Results are files, in a folder that all machines of the cluster share.
"""

import collections
import contextlib
import importlib.util
import logging
import os
import warnings
from collections.abc import Generator, Sequence
from typing import Any

from uap_jax.console import Console
from uap_jax.errors import UsageError
from uap_jax.sweeps import executors
from uap_jax.sweeps.ray_crew import Crew, Weights, weights_of
from uap_jax.sweeps.shared import Context
from uap_jax.sweeps.trials import Job

# Ray says nothing to its makers, and nothing on the terminal of what is said here.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_SCHEDULER_EVENTS": "0",
}
# Results do not go through Ray, which by itself would take a third of the memory.
_OBJECT_STORE_BYTES = 100_000_000


def check_installed() -> None:
    """Looks for Ray without loading it, which takes seconds.

    Raises:
        UsageError: It is not there.
    """
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--executor=ray: expected Ray; pip install '.[sweep]'")


@contextlib.contextmanager
def off_devices() -> Generator[None, None, None]:
    """Keeps JAX, if it is loaded here, off the GPUs, which are the workers'."""
    before = os.environ.get("JAX_PLATFORMS")
    os.environ["JAX_PLATFORMS"] = "cpu"
    try:
        yield
    finally:
        # What Ray starts inherits this.
        del os.environ["JAX_PLATFORMS"]
        if before is not None:
            os.environ["JAX_PLATFORMS"] = before


def run_ray(
    jobs: Sequence[Job],
    context: Context,
    console: Console,
    on_start: executors.StartFn,
    *,
    address: str | None = None,
    num_workers: int | None = None,
    max_retries: int = 3,
) -> Generator[executors.Outcome, None, None]:
    """Does the work on a Ray cluster.

    A piece whose worker dies goes to another, which goes on from its files.

    Args:
        jobs: The work.
        context: Of the sweep.
        console: Told of workers that die.
        on_start: Called when a piece begins, or begins again.
        address: Of a running cluster; None starts one on this machine, for as long.
        num_workers: None: one for each GPU of the cluster, else for two processors.
        max_retries: How often a piece begins again after its worker has died.

    Yields:
        What became of each piece.

    Raises:
        UsageError: There is no such cluster, or workers cannot work there.
    """
    queue = [(job, False) for job in jobs]
    deaths: collections.Counter[str] = collections.Counter()
    with _cluster(address) as ray:
        crew = Crew(ray, context, console, num_workers, len(jobs))
        while queue or crew.weights_in_use():
            while queue and crew.idle:
                worker = crew.idle.pop()
                taken = _choose(queue, worker.weights, crew.weights_in_use())
                job, wait = queue.pop(taken)
                on_start(job)
                crew.give(worker, job, wait=wait)
            for job, seconds, answer in crew.answers():
                if isinstance(answer, executors.Outcome):
                    yield answer
                elif answer is None:
                    queue.append((job, True))
                else:
                    deaths[job.id] += 1
                    line = executors.explain(job, answer, context)
                    line += f" ({deaths[job.id]} of {max_retries + 1} times)"
                    if deaths[job.id] > max_retries:
                        yield executors.Outcome(job, line, seconds)
                    else:
                        console.say(f"{job.label}: {line}")
                        queue.append((job, False))


@contextlib.contextmanager
def _cluster(address: str | None) -> Generator[Any, None, None]:
    """Connects to a cluster, or starts one; yields Ray."""
    os.environ |= _ENVIRONMENT
    import ray  # pyrefly: ignore[missing-import]

    own: dict[str, Any] = {"include_dashboard": False}
    own["object_store_memory"] = _OBJECT_STORE_BYTES
    try:
        with warnings.catch_warnings():
            # JAX warns of forks, but here another program follows at once.
            warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
            ray.init(
                address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                **({} if address else own),
            )
    except Exception as error:  # of no kind of its own where its start takes too long
        ray.shutdown()
        wanted = f"a cluster at {address!r}" if address else "that Ray starts here"
        raise UsageError(f"--ray_address: expected {wanted}, got: {error}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _choose(
    queue: Sequence[tuple[Job, bool]],
    held: Weights | None,
    in_use: Sequence[Weights | None],
) -> int:
    """Returns which piece a worker takes next.

    One for the weights that it has, else for those that the fewest others use: so
    several models are trained at once, rather than one that all wait for. What another
    process is at comes last.
    """
    wanted = [(wait, weights_of(job)) for job, wait in queue]
    costs = [(wait, weights != held, in_use.count(weights)) for wait, weights in wanted]
    return costs.index(min(costs))

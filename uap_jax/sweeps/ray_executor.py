"""Carries out jobs on a Ray cluster.

A worker is a process with one GPU or, where there are none, a share of the cores. Ray
restarts one that dies and repeats its job, which resumes from its files. Results are
files, in a folder that all machines of the cluster share.
"""

import contextlib
import importlib.util
import logging
import math
import os
import platform
import time
import warnings
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from uap_jax.console import Console
from uap_jax.errors import UsageError
from uap_jax.sweeps import execute
from uap_jax.sweeps.corpora import Context
from uap_jax.sweeps.execute import Outcome, StartFn
from uap_jax.sweeps.trials import Job, Transfer

# Disable Ray telemetry, and its output on this terminal.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_SCHEDULER_EVENTS": "0",
}
# Results do not go through Ray, which by default would take a third of the memory.
_OBJECT_STORE_BYTES = 100_000_000
_LOOK_EVERY_S = 1.0
_SLOW_START_S = 120.0

# Model and seed: what a worker keeps in memory from one job to the next.
Weights = tuple[str, int]


class WorkerDiedError(Exception):
    """The process of a job is gone, as often as it was repeated."""


class Worker:
    """Carries out jobs in its own process."""

    def __init__(self, context: Context, directory: Path) -> None:
        import ray  # pyrefly: ignore[missing-import]

        # Relative paths mean the same here as where the sweep was started.
        with contextlib.suppress(OSError):
            os.chdir(directory)
        self._context = context
        self._console = Console()
        runtime = ray.get_runtime_context()
        self._is_restarted = runtime.was_current_actor_reconstructed

    def start(self) -> str | None:
        """Returns what keeps this worker from working."""
        workdir = self._context.workdir
        if workdir.exists():
            return None
        return (
            "--workdir: expected a folder that all machines of the cluster share, got "
            f"{workdir}, which {platform.node()} does not see"
        )

    def work(self, job: Job, wait: bool) -> tuple[Outcome | None, bool]:
        """Returns what `run_group` does, and whether the job is repeated."""
        (outcome,) = execute.run_group([job], self._context, self._console, wait=wait)
        is_repeated, self._is_restarted = self._is_restarted, False
        return outcome, is_repeated


def check_installed() -> None:
    """Raises a UsageError without Ray; does not load it, which takes seconds."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--executor=ray: expected Ray; pip install '.[sweep]'")


def run_ray(
    jobs: Sequence[Job],
    context: Context,
    console: Console,
    on_start: StartFn,
    *,
    address: str | None = None,
    num_workers: int | None = None,
    max_retries: int = 3,
) -> Generator[Outcome, None, None]:
    """Carries out jobs on the running Ray cluster `address`, or on one started here.

    By default there is a worker for each GPU of the cluster or, without GPUs, for two
    cores. A job whose worker dies is repeated up to `max_retries` times.

    Raises:
        UsageError: There is no such cluster, or workers cannot work there.
    """
    queue = [(job, False) for job in jobs]
    held: dict[Any, Weights] = {}  # by worker
    # By the awaited answer: worker, its job or None while it starts, and since when.
    busy: dict[Any, tuple[Any, Job | None, float]] = {}
    with _cluster(address) as ray:
        num_workers, share = divide(ray, num_workers)
        create = ray.remote(Worker).options(
            # Neighbours share the memory and the cores of a machine.
            scheduling_strategy="SPREAD",
            max_restarts=len(jobs) * (max_retries + 1),
            max_task_retries=max_retries,
            **share,
        )

        def start(worker: Any) -> None:
            busy[worker.start.remote()] = (worker, None, time.perf_counter())

        def give(worker: Any) -> None:
            in_use = [held[other] for other, job, _ in busy.values() if job]
            job, wait = queue.pop(_choose(queue, held.get(worker), in_use))
            held[worker] = weights_of(job)
            on_start(job)
            answer = worker.work.remote(job, wait)
            busy[answer] = (worker, job, time.perf_counter())

        for _ in range(min(num_workers, len(jobs))):
            start(create.remote(context, Path.cwd()))
        complain_at = time.perf_counter() + _SLOW_START_S
        while queue or any(job for _, job, _ in busy.values()):
            ready, _ = ray.wait(list(busy), timeout=_LOOK_EVERY_S)
            now = time.perf_counter()
            num_running = sum(job is not None for _, job, _ in busy.values())
            num_done = len(jobs) - len(queue) - num_running
            console.progress("jobs", num_done, len(jobs))
            if not ready and not held and now > complain_at:
                complain_at = math.inf
                free = ray.available_resources()
                console.say(f"no worker has started yet; free: {free}")
            for answer in ready:
                worker, job, since = busy.pop(answer)
                result = _get(ray, answer)
                died = isinstance(result, WorkerDiedError)
                if job is not None:
                    outcome = _outcome(job, result, now - since, context, console)
                    if outcome is None:
                        queue.append((job, True))
                    else:
                        yield outcome
                    if died:
                        # Ray has restarted it, unless it died too often.
                        start(worker)
                elif died and queue and not busy:
                    raise UsageError(f"--executor=ray: no worker starts: {result}")
                elif result is not None and not died:
                    raise UsageError(result)
                if queue and not died:
                    give(worker)


def divide(ray: Any, num_workers: int | None) -> tuple[int, dict[str, float]]:
    """Returns how many workers there are, and what each has of the cluster."""
    num_gpus = int(ray.cluster_resources().get("GPU", 0))
    if num_gpus:
        return num_workers or num_gpus, {"num_gpus": 1, "num_cpus": 1}
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = [machine["CPU"] for machine in machines if machine.get("CPU")] or [1.0]
    num_workers = num_workers or max(1, int(sum(cores)) // 2)
    share = min(cores) / math.ceil(num_workers / len(cores))
    # Whole ones from one up, and four decimals below, is what Ray knows.
    share = math.floor(share) if share >= 1 else math.floor(share * 1e4) / 1e4
    return num_workers, {"num_cpus": share}


def weights_of(job: Job) -> Weights:
    """Returns what a worker keeps in memory after a job."""
    settings = (job.victim if isinstance(job, Transfer) else job).settings
    return settings["model"], settings["seed"]


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
    except Exception as error:  # Of no type of its own where the start takes too long.
        ray.shutdown()
        wanted = f"a cluster at {address!r}" if address else "that Ray starts here"
        raise UsageError(f"--ray_address: expected {wanted}, got: {error}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _choose(
    queue: Sequence[tuple[Job, bool]], held: Weights | None, in_use: Sequence[Weights]
) -> int:
    """Returns which job a worker takes next.

    One for the weights that it has, else for those that the fewest others use, so that
    several models are trained at once. Jobs in use by another process come last.
    """
    wanted = [(wait, weights_of(job)) for job, wait in queue]
    costs = [(wait, weights != held, in_use.count(weights)) for wait, weights in wanted]
    return costs.index(min(costs))


def _get(ray: Any, answer: Any) -> Any:
    """Returns an answer, or a WorkerDiedError."""
    try:
        return ray.get(answer)
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as error:
        # The rest is advice.
        last_line = str(error).strip().split("\n")[-1]
        died = WorkerDiedError(last_line.partition(" Worker exit type")[0])
        died.__cause__ = error
        return died


def _outcome(
    job: Job, answer: Any, seconds: float, context: Context, console: Console
) -> Outcome | None:
    """Returns the outcome of a job; None if another process uses its folder."""
    if isinstance(answer, WorkerDiedError):
        log = execute.open_log(job, context, console)
        return Outcome(job, execute.explain(job, answer, context, log), seconds)
    outcome, is_repeated = answer
    if is_repeated:
        console.say(f"{job.label}: resumed after its worker died")
    return outcome and outcome._replace(seconds=seconds)

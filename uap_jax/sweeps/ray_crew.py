"""Workers on a Ray cluster: what they do, and how many there are."""

import contextlib
import dataclasses
import math
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from uap_jax.console import Console
from uap_jax.errors import UsageError
from uap_jax.sweeps import executors, plan, shared
from uap_jax.sweeps.trials import Job, Transfer
from uap_jax.text import format_seconds

_LOOK_EVERY_S = 1.0
_SLOW_START_S = 120.0
# In a row, by worker.
_MAX_FAILED_STARTS = 3

# Model and seed: what a worker keeps in memory from one piece of work to the next.
Weights = tuple[str, int]


class WorkerDiedError(Exception):
    """The process that did a piece of work is gone."""


def weights_of(job: Job) -> Weights:
    config = (job.victim if isinstance(job, Transfer) else job).config
    return config["model"], config["seed"]


class Actor:
    """A worker, in its own process."""

    def start(self, context: shared.Context, directory: Path) -> str | None:
        """Loads what takes long; returns what keeps it from working."""
        # Relative paths mean the same here as where the sweep was started.
        with contextlib.suppress(OSError):
            os.chdir(directory)
        if not (context.workdir / plan.INDEX).exists():
            return (
                "--workdir: expected a folder that all machines of the cluster share, "
                f"got {context.workdir}, which {platform.node()} does not see"
            )
        self._context = context
        self._console = Console()
        self._shared = shared.Shared(context)
        return None

    def work(self, job: Job, wait: bool) -> executors.Outcome | None:
        """Does a piece of work; returns None if another process is at it."""
        around = (self._context, self._shared, self._console)
        return executors.attempt(job, *around, wait=wait)


@dataclasses.dataclass(eq=False)
class Worker:
    """A worker, as the sweep sees it."""

    actor: Any
    job: Job | None = None  # None: it starts, or has nothing to do
    since: float = dataclasses.field(default_factory=time.perf_counter)
    weights: Weights | None = None


class Crew:
    """The workers, of which one that dies is replaced."""

    def __init__(
        self,
        ray: Any,
        context: shared.Context,
        console: Console,
        num_workers: int | None,
        most: int,
    ) -> None:
        self.idle: list[Worker] = []
        self._busy: dict[Any, Worker] = {}  # by the answer that is awaited
        self._ray = ray
        self._context = context
        self._console = console
        size, share = divide(ray, num_workers)
        self._size = min(size, most)
        # Spread: neighbours share the memory and the processors of a machine.
        self._actor = ray.remote(Actor).options(scheduling_strategy="SPREAD", **share)
        self._num_failed_starts = 0
        self._has_complained = False
        for _ in range(self._size):
            self._hire()

    def weights_in_use(self) -> list[Weights | None]:
        """Returns the weights of each piece that is being done."""
        return [worker.weights for worker in self._busy.values() if worker.job]

    def give(self, worker: Worker, job: Job, *, wait: bool) -> None:
        """Gives work to one that is idle no more."""
        worker.job, worker.weights = job, weights_of(job)
        worker.since = time.perf_counter()
        self._busy[worker.actor.work.remote(job, wait)] = worker

    def answers(
        self,
    ) -> Iterator[tuple[Job, float, executors.Outcome | WorkerDiedError | None]]:
        """Waits a little for answers, and for workers to start.

        Yields:
            For each piece: what it is, the seconds it took, and what became of it;
            None if another process is at it.

        Raises:
            UsageError: Workers cannot start, or cannot work where they are.
        """
        ready, _ = self._ray.wait(list(self._busy), timeout=_LOOK_EVERY_S)
        self._show()
        for reference in ready:
            worker = self._busy.pop(reference)
            job, worker.job = worker.job, None
            try:
                answer = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                # It may be out of reach rather than dead.
                self._ray.kill(worker.actor)
                # The log has all of it.
                last_line = str(error).strip().split("\n")[-1]
                cause = last_line.partition(" Worker exit type")[0]
                answer = WorkerDiedError(cause)
                answer.__cause__ = error
                self._num_failed_starts += job is None
                if self._num_failed_starts > _MAX_FAILED_STARTS * self._size:
                    text = f"--executor=ray: workers do not start: {cause}"
                    raise UsageError(text) from error
                self._hire()
            else:
                self.idle.append(worker)
                self._num_failed_starts = 0
            if job is not None:
                yield job, time.perf_counter() - worker.since, answer
            elif isinstance(answer, str):
                raise UsageError(answer)

    def _hire(self) -> None:
        actor = self._actor.remote()
        self._busy[actor.start.remote(self._context, Path.cwd())] = Worker(actor)

    def _show(self) -> None:
        now = time.perf_counter()
        at_work = [now - worker.since for worker in self._busy.values() if worker.job]
        if at_work:
            longest = format_seconds(max(at_work))
            self._console.status(
                f"{len(at_work)} of {self._size} workers at work, for up to {longest}"
            )
        elif not self.idle and not self._has_complained:
            waited = min(now - worker.since for worker in self._busy.values())
            if waited > _SLOW_START_S:
                self._has_complained = True
                free = self._ray.available_resources()
                self._console.say(f"no worker has started yet; free: {free}")


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

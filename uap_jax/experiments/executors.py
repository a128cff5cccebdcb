"""What does the work of a sweep. An executor takes pieces of work and yields what
became of each, in any order; results are in files.
"""

import contextlib
import dataclasses
import os
import platform
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from uap_jax.data.cache import fingerprint
from uap_jax.experiments import artifacts
from uap_jax.experiments.console import Console, UsageError
from uap_jax.experiments.plan import Trial, corpus_key, note_corpus, settings_of
from uap_jax.experiments.trials import Job, Transfer, read_result

if TYPE_CHECKING:
    from uap_jax.data.dataset import Dataset, Splits
    from uap_jax.experiments.config import RunConfig

LOG = "log.txt"
# What went wrong last, in a line; not there where nothing did.
ERROR = "error.txt"


@dataclasses.dataclass(frozen=True)
class Context:
    """Where a sweep works.

    Attributes:
        workdir: Of the sweep.
        cache_dir: Where clips, models and compiled programs are kept.
        strict: Whether one bad recording is an error.
    """

    workdir: Path
    cache_dir: Path
    strict: bool


class Outcome(NamedTuple):
    """What became of a piece of work."""

    job: Job
    error: str | None  # None: it is done
    seconds: float


# Called with a piece of work when it begins.
StartFn = Callable[[Job], None]
Executor = Callable[
    [Sequence[Job], Context, Console, StartFn], Generator[Outcome, None, None]
]


def run_local(
    jobs: Sequence[Job], context: Context, console: Console, on_start: StartFn
) -> Generator[Outcome, None, None]:
    """Does the work in this process, one piece after the other.

    What another process is at comes last, and is waited for.
    """
    shared = Shared(context)
    queue = [(job, False) for job in jobs]
    for job, wait in queue:
        on_start(job)
        outcome = attempt(job, context, shared, console, wait=wait)
        if outcome is None:
            queue.append((job, True))
        else:
            yield outcome


def attempt(
    job: Job, context: Context, shared: "Shared", console: Console, *, wait: bool
) -> Outcome | None:
    """As `run_job`, but returns what became of it; None if another process is at it."""
    started = time.perf_counter()
    try:
        run_job(job, context, shared, console, wait=wait)
    except artifacts.InUseError:
        return None
    except Exception as error:
        line = explain(job, error, context)
        return Outcome(job, line, time.perf_counter() - started)
    return Outcome(job, None, time.perf_counter() - started)


class Corpora:
    """The corpora of a sweep, each loaded once, and seen to be the sweep's."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._loaded: dict[tuple[str, str | None], tuple[Dataset, Splits]] = {}

    def load(self, settings: "RunConfig", console: Console) -> "tuple[Dataset, Splits]":
        """Returns the clips that some settings name.

        Raises:
            UsageError: They cannot be used, or the sweep is about others.
        """
        from uap_jax.experiments import pipeline

        key = (corpus_key(settings), settings.data_dir)
        if key not in self._loaded:
            loaded = pipeline.load_corpus(
                settings, self._context.cache_dir, self._context.strict, console
            )
            note_corpus(self._context.workdir, settings, loaded[0])
            self._loaded[key] = loaded
        return self._loaded[key]


class Shared:
    """What pieces of work in one process share: corpora, and the last model.

    Pieces of one model follow each other, and a model can be large.
    """

    def __init__(self, context: Context) -> None:
        from uap_jax.experiments import environment

        self.clock = environment.CompileClock()
        self.corpora = Corpora(context)
        self._victim: tuple[str, Any] | None = None
        self._gains: dict[tuple[str, str], float] = {}

    def prepare_victim(
        self,
        settings: "RunConfig",
        dataset: "Dataset",
        splits: "Splits",
        *,
        cache_dir: Path,
        console: Console,
    ) -> Any:
        """As `victim.prepare`."""
        from uap_jax.experiments import victim

        key = fingerprint(
            settings.model,
            dataset.fingerprint,
            settings.scaling,
            settings.seed,
            dataclasses.asdict(settings.training),
        )
        if self._victim is None or self._victim[0] != key:
            self._victim = None
            prepared = victim.prepare(
                settings, dataset, splits, cache_dir=cache_dir, console=console
            )
            self._victim = (key, prepared)
        return self._victim[1]

    def gain(
        self, settings: "RunConfig", dataset: "Dataset", splits: "Splits"
    ) -> float:
        """As `judge.gain`, which reads all training clips."""
        from uap_jax.experiments import judge

        key = (dataset.fingerprint, settings.scaling)
        if key not in self._gains:
            self._gains[key] = judge.gain(settings, dataset, splits)
        return self._gains[key]


def run_job(
    job: Job, context: Context, shared: Shared, console: Console, *, wait: bool
) -> None:
    """Does one piece of work, or goes on with it; what it says goes to its log.

    Args:
        job: The piece.
        context: Of the sweep.
        shared: Of this process.
        console: Shows how far it is.
        wait: Whether to wait for another process that is at it.

    Raises:
        InUseError: Another process is at it, and `wait` is False.
        Exception: Whatever went wrong.
    """
    folder = job.folder(context.workdir)
    with artifacts.locked(folder, wait=wait):
        if read_result(job, context.workdir) is not None:
            return
        (folder / ERROR).unlink(missing_ok=True)
        log = _Log(folder / LOG, console)
        log.say(f"process {os.getpid()} on {platform.node()}")
        if isinstance(job, Trial):
            _run_trial(job, folder, context, shared, log)
        else:
            _run_transfer(job, folder, context, shared, log)


def _run_trial(
    trial: Trial, folder: Path, context: Context, shared: Shared, console: Console
) -> None:
    import jax

    from uap_jax.experiments import config, pipeline

    settings = settings_of(trial.request, on_accelerator=jax.default_backend() != "cpu")
    stored = artifacts.read_json(folder / "config.json")
    if stored is not None and (folder / "checkpoints").exists():
        # Of the same id: what may differ changes no result.
        mine = config.as_json(settings)
        taken = {key: mine[key] for key in ("data_dir", "preset", "variant")}
        settings = config.continue_with(
            settings, {**stored, **taken}, trial.request["overrides"]
        )
    shared.clock.seconds = 0.0
    pipeline.carry_out(
        settings,
        command=trial.command(context.workdir, context.cache_dir),
        workdir=folder,
        cache_dir=context.cache_dir,
        strict=context.strict,
        console=console,
        clock=shared.clock,
        load=lambda settings, _cache, _strict, log: shared.corpora.load(settings, log),
        prepare=shared.prepare_victim,
        gain=shared.gain,
    )


def _run_transfer(
    transfer: Transfer, folder: Path, context: Context, shared: Shared, console: Console
) -> None:
    import jax

    from uap_jax import checkpoints
    from uap_jax.evaluation.transfer import evaluate_transfer
    from uap_jax.experiments import environment, judge, victim
    from uap_jax.experiments.console import user_mistakes

    environment.cache_compilations(context.cache_dir / "compiled")
    settings = settings_of(transfer.victim.request, on_accelerator=False)
    dataset, splits = shared.corpora.load(settings, console)
    spec, trained, facts = shared.prepare_victim(
        settings, dataset, splits, cache_dir=context.cache_dir, console=console
    )
    made = transfer.source.folder(context.workdir) / "checkpoints" / "perturbation"
    with user_mistakes():
        judged = evaluate_transfer(
            spec.logits,
            trained.variables,
            dataset,
            judge.choose_test_clips(settings, dataset, splits).test,
            checkpoints.load_perturbation(made),
            scaling=settings.scaling,
            gain=shared.gain(settings, dataset, splits),
            target=victim.class_index(dataset, transfer.source.config["target"]),
            key=jax.random.fold_in(jax.random.key(settings.seed), 1),
            progress=console.progress,
        )
    result = {
        "source": transfer.source.id,
        "source_model": transfer.source.config["model"],
        "model": settings.model,
        "victim": facts,
        **judged,
    }
    artifacts.write_json(folder / "result.json", result)


class _Log(Console):
    """Writes lines to a file, and shows on another console how far the work is."""

    def __init__(self, path: Path, outer: Console) -> None:
        super().__init__()
        self._path = path
        self._outer = outer

    def say(self, line: str) -> None:
        with artifacts.naming(self._path), self._path.open("a") as file:
            file.write(f"{line}\n")

    def status(self, line: str) -> None:
        self._outer.status(line)


def explain(job: Job, error: Exception, context: Context) -> str:
    """Returns what went wrong, in one line; the whole of it goes to the log."""
    line = " ".join(str(error).split())[:300]
    if not isinstance(error, UsageError) or not line:
        line = f"{type(error).__name__}: {line}" if line else type(error).__name__
    with contextlib.suppress(OSError):
        folder = job.folder(context.workdir)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOG).open("a") as file:
            file.write("".join(traceback.format_exception(error)))
        artifacts.write_bytes(folder / ERROR, line.encode())
    return line

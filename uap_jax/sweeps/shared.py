"""What the pieces of work of a sweep share: folders, corpora, the last model, logs."""

import dataclasses
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uap_jax import files
from uap_jax.console import Console
from uap_jax.files import fingerprint
from uap_jax.sweeps.plan import Trial, corpus_key, note_corpus, settings_of

if TYPE_CHECKING:
    from uap_jax.data.dataset import Dataset, Splits
    from uap_jax.runs.beginning import Start
    from uap_jax.runs.config import RunConfig

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
        from uap_jax.runs import beginning

        key = (corpus_key(settings), settings.data_dir)
        if key not in self._loaded:
            loaded = beginning.load_corpus(
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
        from uap_jax.runs import environment

        self._context = context
        self.clock = environment.CompileClock()
        self.corpora = Corpora(context)
        self._victim: tuple[str, Any] | None = None
        self._gains: dict[tuple[str, str], float] = {}
        # Of attacks that ran with others, by trial.
        self.compile_seconds: dict[str, float] = {}

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
        from uap_jax.runs import victim

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
        from uap_jax.runs import judge

        key = (dataset.fingerprint, settings.scaling)
        if key not in self._gains:
            self._gains[key] = judge.gain(settings, dataset, splits)
        return self._gains[key]

    def begin(self, trial: Trial, folder: Path, console: Console) -> "Start":
        """As `beginning.begin`, with the settings that the trial has begun with."""
        import jax

        from uap_jax.runs import beginning, config

        settings = settings_of(
            trial.request, on_accelerator=jax.default_backend() != "cpu"
        )
        stored = files.read_json(folder / "config.json")
        if stored is not None and (folder / "checkpoints").exists():
            # Of the same id: what may differ changes no result.
            mine = config.as_json(settings)
            taken = {key: mine[key] for key in ("data_dir", "preset", "variant")}
            settings = config.continue_with(
                settings, {**stored, **taken}, trial.request["overrides"]
            )
        context = self._context
        return beginning.begin(
            settings,
            command=trial.command(context.workdir, context.cache_dir),
            workdir=folder,
            cache_dir=context.cache_dir,
            strict=context.strict,
            console=console,
            load=lambda settings, _cache, _strict, log: self.corpora.load(
                settings, log
            ),
            prepare=self.prepare_victim,
        )


def open_log(folder: Path, console: Console) -> Console:
    """Returns a console for a piece of work that begins: its lines go to its log."""
    (folder / ERROR).unlink(missing_ok=True)
    log = _Log(folder / LOG, console)
    log.say(f"process {os.getpid()} on {platform.node()}")
    return log


class _Log(Console):
    """Writes lines to a file, and shows on another console how far the work is."""

    def __init__(self, path: Path, outer: Console) -> None:
        super().__init__()
        self._path = path
        self._outer = outer

    def say(self, line: str) -> None:
        with files.naming(self._path), self._path.open("a") as file:
            file.write(f"{line}\n")

    def status(self, line: str) -> None:
        self._outer.status(line)

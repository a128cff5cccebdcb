"""From the folder of a sweep to what its report shows."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from uap_jax import files
from uap_jax.data.corpora import BUILT_IN, DEFAULT_CORPORA
from uap_jax.errors import UsageError
from uap_jax.evaluation import non_finite_logits
from uap_jax.models.registry import default_num_samples
from uap_jax.runs import store
from uap_jax.runs.run import LOG
from uap_jax.sweeps import corpora, manifest, trials
from uap_jax.sweeps.execute import ERROR
from uap_jax.sweeps.published import load_published
from uap_jax.sweeps.report import (
    Corpus,
    Failure,
    Perturbed,
    Section,
    SweepData,
    SweepExample,
)
from uap_jax.sweeps.tables import build
from uap_jax.sweeps.trials import Job, Trial

# In the paper's order.
_OF_PAPER = (
    *(f"table_{number}" for number in range(1, 12)),
    *(f"figure_{number}" for number in range(1, 4)),
)
_PANELS = {"4": ("4A", "4B")}
# The paper's examples, Appendix F.
_EXAMPLES = ("18", "19")
_NUM_LOG_BYTES = 3000


def gather(workdir: Path) -> SweepData:
    """Returns what the report of a sweep shows, and writes its tables again.

    Raises:
        UsageError: The folder holds no sweep, or a file in it is damaged.
    """

    paths = sorted(
        (workdir / "tables").glob("*.json"),
        key=lambda path: ((*_OF_PAPER, path.stem).index(path.stem), path.stem),
    )
    if not paths:
        raise UsageError(
            "--sweep: expected the work directory of a sweep, which has "
            f"tables/*.json, got {workdir}"
        )
    sections: list[Section] = []
    every: dict[str, Trial] = {}
    for path in paths:
        try:
            about = files.read_json(path) or {}
            planned = [
                trials.read_trial(identity, label, workdir)
                for identity, label in zip(
                    about["trials"], about["labels"], strict=True
                )
            ]
            declared = manifest.Manifest(
                path,
                name=path.stem,
                title=about["title"],
                scale=about["scale"],
                blocks=(),
                table=manifest.TableSpec(**about["table"]),
            )
            command = about["command"]
        except (KeyError, TypeError, ValueError):
            raise UsageError(
                f"{path}: damaged; run the sweep's command again"
            ) from None
        every |= {trial.id: trial for trial in planned}
        sections.append(_make_section(declared, planned, workdir, command))
    done = [trial for trial in every.values() if trials.good_result(trial, workdir)]
    hardware, versions = (
        list(dict.fromkeys(line for each in sections for line in each.about[key]))
        for key in ("hardware", "versions")
    )
    used = {(t.settings["dataset"], t.settings["split"]) for t in every.values()}
    noted = []
    for key, facts in corpora.read(workdir).items():
        name, split, num_samples = key.rsplit("-", 2)
        if (name, split) in used:
            sizes = len(facts["class_names"]), int(num_samples)
            is_synthetic = name in BUILT_IN
            noted.append(
                Corpus(name, split, *sizes, facts["fingerprint"], is_synthetic)
            )
    return SweepData(
        name=workdir.resolve().name,
        sections=sections,
        not_begun=[name for name in _OF_PAPER if name not in {p.stem for p in paths}],
        num_done=len(done),
        num_trials=len(every),
        corpora=noted,
        hardware=hardware,
        versions=versions,
        examples=_choose_examples(done, workdir),
        published_examples=[load_published(table) for table in _EXAMPLES],
    )


def _make_section(
    declared: manifest.Manifest, planned: Sequence[Trial], workdir: Path, command: str
) -> Section:
    table, about = build.write_tables(
        declared, planned, workdir=workdir, command=command
    )
    jobs: list[Job] = list(planned)
    if declared.table.kind == "transfer":
        jobs += trials.transfers(planned)
    failures = {job.id: _failure_of(job, workdir) for job in jobs}
    number = declared.table.published
    papers = {}
    for trial in planned:
        like = DEFAULT_CORPORA[default_num_samples(trial.settings["model"])][1]
        name = "UrbanSound8K" if like == "urbansound8k" else "Speech Commands"
        is_same = trial.settings["dataset"].startswith(name.lower().replace(" ", "_"))
        papers[trial.settings["dataset"]] = None if is_same else name
    return Section(
        about=about,
        table=table,
        corpora=list(papers),
        paper_corpora=list(papers.values()),
        published=[
            load_published(name)
            for name in (_PANELS.get(number, (number,)) if number else ())
        ],
        missing=[
            job.label for job in trials.pending(jobs, workdir) if not failures[job.id]
        ],
        failures=[failure for failure in failures.values() if failure],
        not_finite=[
            f"{job.label}: {line}"
            for job in jobs
            if (line := non_finite_logits(trials.read_result(job, workdir) or {}))
        ],
    )


def _failure_of(job: Job, workdir: Path) -> Failure | None:
    folder = job.folder(workdir)
    result = trials.read_result(job, workdir)
    error = store.fault_of(result) if result else _read_end(folder / ERROR)
    if not error:
        return None
    settings = files.read_json(folder / "config.json") or {}
    return Failure(
        label=job.label,
        error=error,
        log=str((folder / LOG).relative_to(workdir)),
        last_lines=_read_end(folder / LOG),
        command=settings.get("command", ""),
    )


def _read_end(path: Path) -> str:
    """Returns the last lines of a text; none where there is no such file."""
    content = path.read_bytes() if path.is_file() else b""
    text = content[-_NUM_LOG_BYTES:].decode("utf-8", "replace")
    if len(content) > _NUM_LOG_BYTES:
        text = text.partition("\n")[2] or text
    return text.rstrip()


def _choose_examples(done: Sequence[Trial], workdir: Path) -> list[SweepExample]:
    """Returns for each model, untargeted and targeted, a clip with each method's sound.

    The clip and the target are the first that there are, whatever came of it; each
    model and goal takes the next of a trial's clips, so that classes differ.
    """
    chosen: dict[tuple[str, bool], dict[str, Trial]] = {}
    for trial in done:
        if not (trial.folder(workdir) / "examples" / "examples.json").is_file():
            continue
        settings = trial.settings
        goal = (settings["model"], settings["target"] is None)
        methods = chosen.setdefault(goal, {})
        first = next(iter(methods.values()), trial)
        same = ("dataset", "split", "target", "seed", "scaling")
        if all(first.settings[key] == settings[key] for key in same):
            methods.setdefault(settings["method"], trial)
    joined: dict[Any, SweepExample] = {}
    for index, methods in enumerate(chosen.values()):
        for trial in methods.values():
            for example in _read_example(trial, workdir, index):
                # One example of those that differ in the method alone.
                key = (index, example.name, example.clean_prediction, example.clean)
                perturbed = joined[key].perturbed if key in joined else []
                together = [*perturbed, *example.perturbed]
                joined[key] = example._replace(perturbed=together)
    return list(joined.values())


def _read_example(trial: Trial, workdir: Path, index: int) -> Iterator[SweepExample]:
    """Yields one of a trial's examples; none where its files are incomplete."""
    folder = trial.folder(workdir) / "examples"
    try:
        entries = (files.read_json(folder / "examples.json") or {})["examples"]
        entry = entries[index % len(entries)]
        perturbed = Perturbed(
            trial.settings["method"],
            entry["perturbed_prediction"],
            *(entry[key] for key in ("snr_db", "snr_ac_db", "relative_loudness_db")),
            audio=(folder / entry["perturbed"]).read_bytes(),
        )
        yield SweepExample(
            *(trial.settings[key] for key in ("model", "target", "dataset")),
            *(entry[key] for key in ("name", "true_class", "clean_prediction")),
            clean=(folder / entry["clean"]).read_bytes(),
            perturbed=[perturbed],
        )
    except (OSError, KeyError, TypeError, ZeroDivisionError):
        return

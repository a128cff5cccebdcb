"""From the folder of a sweep to what its report shows."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from uap_jax import files
from uap_jax.data.corpora import BUILT_IN, DEFAULT_CORPORA
from uap_jax.errors import UsageError
from uap_jax.sweeps import manifest, plan, tabulate, trials
from uap_jax.sweeps.plan import Trial
from uap_jax.sweeps.published import load_published
from uap_jax.sweeps.shared import ERROR, LOG
from uap_jax.sweeps.sweep_html import (
    Corpus,
    Failure,
    Perturbed,
    Section,
    SweepData,
    SweepExample,
)
from uap_jax.sweeps.trials import Job

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
    """Returns what the report of a sweep shows, and writes its tables anew.

    Raises:
        UsageError: The folder holds no sweep, or a file in it is not as it should be.
    """
    paths = sorted((workdir / "tables").glob("*.json"), key=_place)
    if not paths:
        raise UsageError(
            "--sweep: expected the work directory of a sweep, which has "
            f"tables/*.json, got {workdir}"
        )
    index = plan.read_index(workdir)
    known = dict(_read_trials(workdir, index["plans"].values()))
    sections: list[Section] = []
    found: dict[str, Trial] = {}
    for path in paths:
        about = files.read_json(path) or {}
        try:
            own = [known[identity] for identity in about["trials"]]
            declared = _declared(path, about)
            command = about["command"]
        except (KeyError, TypeError):
            raise UsageError(
                f"{path}: expected a table whose trials are in {plan.INDEX}; write it "
                "anew with the sweep's command"
            ) from None
        found |= {trial.id: trial for trial in own}
        sections.append(_make_section(declared, own, workdir, command))
    done = [trial for trial in found.values() if _is_good(trial, workdir)]
    return SweepData(
        name=workdir.resolve().name,
        sections=sections,
        not_begun=[name for name in _OF_PAPER if name not in {p.stem for p in paths}],
        num_done=len(done),
        num_trials=len(found),
        corpora=list(_describe_corpora(index["corpora"], found.values())),
        hardware=_union(sections, "hardware"),
        versions=_union(sections, "versions"),
        examples=_choose_examples(done, workdir),
        published_examples=[load_published(table) for table in _EXAMPLES],
    )


def _place(path: Path) -> tuple[int, str]:
    """Returns where a table stands: first the paper's, then others by name."""
    is_of_paper = path.stem in _OF_PAPER
    return _OF_PAPER.index(path.stem) if is_of_paper else len(_OF_PAPER), path.stem


def _read_trials(
    workdir: Path, plans: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[str, Trial]]:
    for stored in plans:
        for entry in stored.get("trials", ()):
            try:
                yield entry["id"], Trial(**entry)
            except (KeyError, TypeError):
                raise UsageError(
                    f"{workdir / plan.INDEX}: expected trials of this version; make it "
                    "anew with the sweep's command"
                ) from None


def _declared(path: Path, about: Mapping[str, Any]) -> manifest.Manifest:
    """Returns of a manifest what its table is made by."""
    spec: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in about["table"].items()
    }
    return manifest.Manifest(
        path=path,
        name=path.stem,
        title=about["title"],
        scale=about["scale"],
        blocks=(),
        table=manifest.TableSpec(**spec),
        digest="",
    )


def _make_section(
    declared: manifest.Manifest, own: Sequence[Trial], workdir: Path, command: str
) -> Section:
    table, about = tabulate.make_table(declared, own, workdir=workdir, command=command)
    tabulate.write_files(table, about, workdir=workdir)
    jobs: list[Job] = list(own)
    if declared.table.kind == "transfer":
        jobs += trials.transfers(own)
    failures = {job.id: _failure_of(job, workdir) for job in jobs}
    number = declared.table.published
    corpora = {
        trial.config["dataset"]: _paper_corpus(trial.config["model"]) for trial in own
    }
    return Section(
        about=about,
        table=table,
        corpora=list(corpora),
        paper_corpora=[
            None if name.startswith(label.lower().replace(" ", "_")) else label
            for name, label in corpora.items()
        ],
        published=[
            load_published(name)
            for name in (_PANELS.get(number, (number,)) if number else ())
        ],
        missing=[
            job.label
            for job in trials.pending(jobs, workdir)
            if failures[job.id] is None
        ],
        failures=[failure for failure in failures.values() if failure is not None],
    )


def _paper_corpus(model: str) -> str:
    """Returns what the paper has a model judged on."""
    recorded = DEFAULT_CORPORA[model][1]
    return "UrbanSound8K" if recorded == "urbansound8k" else "Speech Commands"


def _failure_of(job: Job, workdir: Path) -> Failure | None:
    folder = job.folder(workdir)
    result = trials.read_result(job, workdir)
    if result is None:
        error = _read_end(folder / ERROR)
    else:
        error = trials.fault_of(result) or ""
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
    try:
        content = path.read_bytes()
    except OSError:
        return ""
    text = content[-_NUM_LOG_BYTES:].decode("utf-8", "replace")
    if len(content) > _NUM_LOG_BYTES:
        text = text.partition("\n")[2] or text
    return text.rstrip()


def _is_good(trial: Trial, workdir: Path) -> bool:
    result = trials.read_result(trial, workdir)
    return result is not None and trials.fault_of(result) is None


def _describe_corpora(
    stored: Mapping[str, Mapping[str, Any]], own: Iterable[Trial]
) -> Iterator[Corpus]:
    used = {(trial.config["dataset"], trial.config["split"]) for trial in own}
    for key, entry in stored.items():
        # As `plan.corpus_key`; the last is the length of a clip.
        name, split, num_samples = [*key.rsplit("-", 2), "", ""][:3]
        if (name, split) in used:
            yield Corpus(
                name=name,
                split=split,
                num_classes=len(entry.get("class_names", ())) or None,
                num_samples=int(num_samples),
                fingerprint=entry.get("fingerprint"),
                is_synthetic=name in BUILT_IN,
            )


def _union(sections: Sequence[Section], key: str) -> list[str]:
    return list(dict.fromkeys(line for each in sections for line in each.about[key]))


def _choose_examples(done: Sequence[Trial], workdir: Path) -> list[SweepExample]:
    """Returns for each model, untargeted and targeted, a clip as each method has it.

    The clip and the target are the first there are, whatever came of it; with each
    model and goal the next of a trial's clips, so that they are not all of one class.
    """
    chosen: dict[tuple[str, bool], dict[str, Trial]] = {}
    for trial in done:
        if not (trial.folder(workdir) / "examples" / "examples.json").is_file():
            continue
        config = trial.config
        methods = chosen.setdefault((config["model"], config["target"] is None), {})
        first = next(iter(methods.values()), trial)
        same = ("dataset", "split", "target", "seed", "scaling")
        if all(first.config[key] == config[key] for key in same):
            methods.setdefault(config["method"], trial)
    examples = []
    for place, methods in enumerate(chosen.values()):
        examples += _join(
            [
                example
                for trial in methods.values()
                for example in _read_example(trial, workdir, place)
            ]
        )
    return examples


def _read_example(trial: Trial, workdir: Path, place: int) -> Iterator[SweepExample]:
    """Yields one of a trial's examples; none where its files are not whole."""
    folder = trial.folder(workdir) / "examples"
    stored = files.read_json(folder / "examples.json") or {}
    try:
        entries = stored["examples"]
        entry = entries[place % len(entries)]
        yield SweepExample(
            model=trial.config["model"],
            target=trial.config["target"],
            corpus=trial.config["dataset"],
            name=entry["name"],
            true_class=entry["true_class"],
            clean_prediction=entry["clean_prediction"],
            clean=(folder / entry["clean"]).read_bytes(),
            perturbed=[
                Perturbed(
                    method=trial.config["method"],
                    prediction=entry["perturbed_prediction"],
                    snr_db=entry["snr_db"],
                    snr_ac_db=entry["snr_ac_db"],
                    relative_loudness_db=entry["relative_loudness_db"],
                    audio=(folder / entry["perturbed"]).read_bytes(),
                )
            ],
        )
    except (OSError, KeyError, TypeError, ZeroDivisionError):
        return


def _join(examples: Sequence[SweepExample]) -> list[SweepExample]:
    """Makes one of examples that differ in the method alone."""
    joined: dict[Any, list[SweepExample]] = {}
    for example in examples:
        key = (example.name, example.clean_prediction, example.clean)
        joined.setdefault(key, []).append(example)
    return [
        dataclasses.replace(
            members[0], perturbed=[p for each in members for p in each.perturbed]
        )
        for members in joined.values()
    ]

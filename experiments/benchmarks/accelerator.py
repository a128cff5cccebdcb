"""Measures this machine's accelerator in six parts, in at most eight minutes.

    python experiments/benchmarks/accelerator.py

Each part runs in a process of its own: what fails, is missing or takes too long is
recorded with its reason, and the other parts run. `--small` is the same at reduced
sizes for a CPU. Exit code 0: everything was measured; 1: something was not.
"""

import contextlib
import datetime
import os
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, NoReturn

import harness
from absl import app
from parts import PARTS, Settings, page

from uap_jax import files

RESULTS = Path(__file__).parent / "results" / "accelerator"
PACKAGES = ("torch", "foolbox", "adversarial-robustness-toolbox")
# A part stops measuring so long before its process is ended.
GRACE_S = 6

_running: dict[int, subprocess.Popen[bytes]] = {}


def run(
    parts: Annotated[Sequence[str], "Which parts."] = tuple(map(str, PARTS)),
    small: Annotated[bool, "Reduced sizes, for a CPU."] = False,
    limit_s: Annotated[
        int | None, "Seconds for all parts. Default: 470, or 175 with --small."
    ] = None,
    seed: Annotated[int, "Seed of weights, clips and attacks."] = 0,
    output: Annotated[
        str | None,
        "Where results go, without .json and .md. Default: accelerator in the folder "
        "results beside this file, or nowhere with --small.",
    ] = None,
    workdir: Annotated[
        str | None, "For caches and the parts' logs. Default: a temporary folder."
    ] = None,
    child: Annotated[int | None, "The part that this process runs."] = None,
) -> int:
    """Returns the exit code."""
    unknown = set(parts) - set(map(str, PARTS))
    if unknown:
        raise app.UsageError(f"--parts: expected some of {[*PARTS]}, got {unknown}")
    limit_s = limit_s or (175 if small else 470)
    folder = Path(workdir or tempfile.mkdtemp(prefix="accelerator_")).absolute()
    if child is not None:
        run_part(child, folder, small=small, seed=seed, limit_s=limit_s)
        return 0
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end_all)
    folder.mkdir(parents=True, exist_ok=True)
    results: harness.Results = {
        "command": shlex.join(["python", Path(__file__).name, *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "small": small,
        "seed": seed,
        "limit_s": limit_s,
        "parts": {},
    }
    deadline = time.monotonic() + limit_s
    waiting = [part for part in PARTS if str(part) in parts]
    if small:
        # The longest first, since several run at a time.
        waiting.sort(key=lambda part: -PARTS[part].weight)

    def measure(part: int) -> harness.Results:
        share_s = deadline - time.monotonic()
        if not small:
            # What a part leaves of its time, those after it have.
            weights = [PARTS[later].weight for later in waiting[waiting.index(part) :]]
            share_s *= weights[0] / sum(weights)
        share_s = max(share_s, GRACE_S)
        say(f"part {part}, {PARTS[part].title}: at most {share_s:.0f} s")
        settings = [f"--small={small}", f"--seed={seed}", f"--limit_s={share_s:.0f}"]
        # A rehearsal need not wait for optimised programs.
        fast = small and part != 1
        xla_flags = {"XLA_FLAGS": "--xla_backend_optimization_level=0"} if fast else {}
        record = start_part(part, folder, settings, share_s, xla_flags)
        say(f"part {part}: {page.outcome(record)}")
        return record

    # Times of a rehearsal say nothing, and compiling takes one core.
    with ThreadPoolExecutor(2 if small else 1) as pool:
        records = dict(zip(waiting, pool.map(measure, waiting), strict=True))
    for part, record in sorted(records.items()):
        for name in ("machine", "versions"):
            if name in record:
                results.setdefault(name, record.pop(name))
        results["parts"][part] = record
    results["aims"] = page.aims(results)
    text = page.as_markdown(results)
    print(text)
    path = Path(output) if output else None if small else RESULTS
    if path is not None:
        harness.write_results(files.finite(results), text, path)
        print(f"written: {path}.json, {path}.md")
    is_whole = all(is_done(record) for record in results["parts"].values())
    if not is_whole:
        print(f"logs with tracebacks: {folder}/part_*.log")
    return 0 if is_whole else 1


def say(line: str) -> None:
    # In one piece: parts speak at the same time.
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def is_done(record: harness.Results) -> bool:
    return record["reason"] is None and not page.gaps(record)


def start_part(
    part: int,
    folder: Path,
    settings: Sequence[str],
    limit_s: float,
    environment: Mapping[str, str],
) -> harness.Results:
    """Runs a part in its own process, and ends it with all it started at its limit."""
    log = folder / f"part_{part}.log"
    command = [
        *(sys.executable, __file__, f"--child={part}", f"--workdir={folder}"),
        *settings,
    ]
    started = time.monotonic()
    reason = None
    (folder / f"part_{part}.json").unlink(missing_ok=True)
    with log.open("w") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # PyTorch needs memory beside JAX.
            env=os.environ | environment | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        )
        _running[part] = process
        try:
            if process.wait(timeout=limit_s):
                lines = log.read_text(errors="replace").strip().splitlines() or [""]
                reason = f"exit code {process.returncode}: {lines[-1][:200]}"
        except subprocess.TimeoutExpired:
            reason = f"ended after its {limit_s:.0f} s"
        finally:
            end(process)
            del _running[part]
    record = files.read_json(folder / f"part_{part}.json") or {"results": {}}
    return record | {
        "title": PARTS[part].title,
        "seconds": time.monotonic() - started,
        "reason": reason,
        "log": log.name,
    }


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a part's process and all that it started, which may outlive it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def end_all(number: int, _: Any) -> NoReturn:
    """Ends all parts and this process, on a signal."""
    for process in list(_running.values()):
        end(process)
    os._exit(128 + number)


def cpu_seconds() -> float:
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def run_part(
    part: int, folder: Path, *, small: bool, seed: int, limit_s: float
) -> None:
    """Runs a part in this process, and writes what it yields."""
    if small:
        harness.CPU_PAUSE_S = 0.05
        # Two parts share the cores, and PyTorch's threads wait for each other.
        harness.TORCH_THREADS = 1
    settings = Settings(small, seed, time.monotonic() + limit_s - GRACE_S, folder)
    path = folder / f"part_{part}.json"
    for results in PARTS[part].run(settings):
        facts = harness.begin(*PACKAGES)
        facts["cpu_seconds"] = cpu_seconds()
        files.write_json(path, files.finite(facts | {"results": results}))


if __name__ == "__main__":
    flags = harness.define_flags(run)
    app.run(lambda _: run(**{name: flag.value for name, flag in flags.items()}))

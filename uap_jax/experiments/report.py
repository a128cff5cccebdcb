"""Writes the report of a sweep, one HTML file that opens offline, and its tables again.

    python -m uap_jax.experiments.report --sweep=runs/sweeps/paper-built_in

It covers every experiment that was run in that folder, as far as its trials are done.
"""

from absl import flags

from uap_jax.console import Console, run_app
from uap_jax.errors import UsageError
from uap_jax.files import expanded

SWEEP = flags.DEFINE_string("sweep", None, "The work directory of a sweep.")


def main() -> int:
    # After flags, whose mistakes and --help need not wait for libraries.
    from uap_jax.reporting import pages
    from uap_jax.sweeps import gathering, report

    if not SWEEP.value:
        raise UsageError("--sweep: expected the work directory of a sweep, got none")
    workdir = expanded(SWEEP.value)
    data = gathering.gather(workdir)
    path = workdir / "report.html"
    pages.write(path, report.render(data))
    console = Console()
    console.say(
        f"{len(data.sections)} tables and figures, {data.num_done} of "
        f"{data.num_trials} trials done"
    )
    console.say(f"tables: {workdir / 'tables'}")
    console.say(f"report: {path}")
    return 0


if __name__ == "__main__":
    run_app(main)

"""The local executor, with other work than attacks."""

from sweeps import MANIFEST, finish, plan_built_in

from uap_jax import files
from uap_jax.console import Console
from uap_jax.errors import UsageError
from uap_jax.sweeps import executors, shared


def run_local(planned, workdir, monkeypatch, work):
    """Runs the local executor with other work than attacks."""
    monkeypatch.setattr(executors, "_run_trial", work)
    context = shared.Context(workdir=workdir, cache_dir=workdir, strict=False)
    started = []
    outcomes = executors.run_local(planned, context, Console(), started.append)
    return list(outcomes), started


def test_what_another_process_is_at_comes_last(tmp_path, write_manifest, monkeypatch):
    planned = plan_built_in(write_manifest(MANIFEST), tmp_path)
    held = files.locked(planned[0].folder(tmp_path), wait=False)
    held.__enter__()

    def work(trial, folder, *_):
        # The other one is done while this one works on the last of its own.
        if trial is planned[3]:
            finish(planned[0], tmp_path)
            held.__exit__(None, None, None)
        assert trial is not planned[0]
        finish(trial, tmp_path)

    outcomes, started = run_local(planned, tmp_path, monkeypatch, work)
    assert [outcome.job for outcome in outcomes] == [*planned[1:], planned[0]]
    assert all(outcome.error is None for outcome in outcomes)
    assert started[0] == started[-1] == planned[0]


def test_every_error_is_an_outcome(tmp_path, write_manifest, monkeypatch):
    planned = plan_built_in(write_manifest(MANIFEST), tmp_path)
    errors = [UsageError("--x: expected y"), MemoryError(), ValueError("a\nb"), None]

    def work(trial, folder, *_):
        error = errors[planned.index(trial)]
        if error is not None:
            raise error

    outcomes, _ = run_local(planned, tmp_path, monkeypatch, work)
    assert [outcome.error for outcome in outcomes] == [
        *("--x: expected y", "MemoryError", "ValueError: a b", None)
    ]
    log = planned[2].folder(tmp_path) / shared.LOG
    assert "Traceback" in log.read_text()

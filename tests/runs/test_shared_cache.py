"""A cache that another user has written: it can be read, and not written."""

import errno
import json
import os
from pathlib import Path

import jax
import pytest

from uap_jax import environment, files
from uap_jax.console import Console
from uap_jax.runs import victim
from uap_jax.runs.corpus import Latest, load_corpus
from uap_jax.runs.store import read_config


@pytest.fixture
def read_only(monkeypatch, tmp_path):
    """Refuses to write, as to a user who may not; tests may run as root."""

    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    def mkdir(path, *_, **__):
        path.exists() or refuse(path)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(files, "locked", refuse)
    monkeypatch.setattr(files, "replacing", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)


@pytest.mark.usefixtures("read_only")
def test_clips_and_model_are_read_without_locks(finished_run, capsys, monkeypatch):
    # This process may hold the victim already.
    monkeypatch.setattr(victim, "_victims", Latest(1))
    stored = json.loads((finished_run.workdir / "config.json").read_text())
    config, folders = read_config(stored), {"cache_dir": finished_run.cache}
    corpus = load_corpus(config, strict=False, console=Console(), **folders)
    trained = victim.prepare(config, corpus, console=Console(), **folders)
    result = json.loads((finished_run.workdir / "result.json").read_text())
    assert trained.facts == result["victim"]
    assert "using spchcmd trained in" in capsys.readouterr().out


@pytest.mark.usefixtures("read_only")
def test_programs_are_not_cached_where_no_folder_can_be_made(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    environment.cache_compilations(tmp_path / "compiled")
    assert jax.config.jax_compilation_cache_dir == before

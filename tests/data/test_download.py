"""Downloads from a server on this machine that fails in every way, and archives."""

import dataclasses
import gzip
import hashlib
import http.server
import io
import json
import os
import shutil
import stat
import tarfile
import threading
import time
import zipfile

import pytest

from uap_jax.data import corpora
from uap_jax.data.download import (
    ARCHIVES,
    DownloadError,
    install,
    part_path,
    unpacking,
)
from uap_jax.files import InUseError


@dataclasses.dataclass
class Plan:
    """What the server does, one request after the other."""

    content: bytes = b""
    tag: str | None = '"one"'
    has_ranges: bool = True
    has_length: bool = True
    is_chunked: bool = False
    breaks: list = dataclasses.field(default_factory=list)  # Bytes sent, or None: all.
    statuses: list = dataclasses.field(default_factory=list)
    wrong_range: bool = False
    stall_s: float = 0.0  # Before it breaks off.
    seen: list = dataclasses.field(default_factory=list)  # Headers of the requests.


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        plan = self.server.plan
        plan.seen.append(dict(self.headers))
        status = plan.statuses.pop(0) if plan.statuses else 200
        if status != 200:
            self.send_error(status)
            return
        body, start = plan.content, 0
        asked = self.headers["Range"]
        is_same = self.headers.get("If-Range", plan.tag) == plan.tag
        if asked and plan.has_ranges and is_same:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            first = start + plan.wrong_range
            whole = len(body)
            self.send_header("Content-Range", f"bytes {first}-{whole - 1}/{whole}")
        else:
            self.send_response(200)
        body = body[start:]
        if plan.tag:
            self.send_header("ETag", plan.tag)
        if plan.is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif plan.has_length:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        breaks_at = plan.breaks.pop(0) if plan.breaks else None
        sent = body[:breaks_at]
        if plan.is_chunked:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(sent), sent))
            if breaks_at is None:
                self.wfile.write(b"0\r\n\r\n")
        else:
            self.wfile.write(sent)
        self.wfile.flush()
        if breaks_at is not None:
            time.sleep(plan.stall_s)
        self.close_connection = True

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(("127.0.0.1", 0), Handler) as running:
        running.plan = Plan()
        running.url = f"http://127.0.0.1:{running.server_address[1]}/archive"
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def tar_gz(members, *, end=None):
    """A member is a name and bytes, or a `TarInfo`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                name, content = member
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return gzip.compress(buffer.getvalue()[:end], mtime=0)


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


GOOD = (
    ("./yes/one.wav", os.urandom(50_000)),
    ("testing_list.txt", b"yes/one.wav\n"),
    ("deep/er/empty.wav", b""),
)


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.fixture
def publish(server, monkeypatch):
    """Makes the server's content the archive "corpus"."""

    def publish(content, *, suffix=".tar.gz", checksum=True, num_bytes=True, **plan):
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        archive = dataclasses.replace(
            ARCHIVES["esc50"],
            file_name=f"Archive{suffix}",
            url=server.url,
            checksum=digest if checksum is True else checksum,
            num_bytes=len(content) if num_bytes is True else num_bytes,
        )
        monkeypatch.setitem(ARCHIVES, "corpus", archive)
        server.plan = Plan(content=content, **plan)
        return server.plan

    return publish


def run(data_dir, **settings):
    settings = {"wait_s": 0.01, "timeout_s": 60.0} | settings
    return install("corpus", data_dir, **settings)


def leave_part(data_dir, content, *, notes=None):
    data_dir.mkdir(exist_ok=True)
    part = part_path("corpus", data_dir)
    part.write_bytes(content)
    if notes is not None:
        part.with_name(f"{part.name}.notes").write_text(notes)


def check_good(folder):
    for name, content in GOOD:
        assert (folder / name).read_bytes() == content
    assert sum(path.is_file() for path in folder.rglob("[!.]*")) == len(GOOD)


def only_in(data_dir):
    return sorted(path.name for path in data_dir.iterdir())


@pytest.mark.parametrize(
    ("content", "suffix"), [(tar_gz(GOOD), ".tar.gz"), (zipped(GOOD), ".zip")]
)
def test_downloads_checks_and_unpacks(publish, tmp_path, content, suffix):
    plan = publish(content, suffix=suffix)
    steps = []
    data_dir = tmp_path / "made" / "for it"
    found = run(data_dir, progress=lambda *step: steps.append(step))
    assert (found.folder, found.num_files) == (data_dir / "corpus", 3)
    assert (found.is_new, found.is_checked) == (True, True)
    assert found.checksum == ARCHIVES["corpus"].checksum
    check_good(found.folder)
    archive = data_dir / f"Archive{suffix}"
    assert archive.read_bytes() == content
    assert only_in(data_dir) == [".corpus.lock", archive.name, "corpus"]
    mode = (data_dir.stat().st_mode, found.folder.stat().st_mode)
    assert mode[0] == mode[1], "as readable for others as a new folder"
    whole = len(content)
    ends = {what: (done, total) for what, done, total in steps}
    for what in ("downloading", "checking", "unpacking"):
        assert ends[what] == (whole, whole)
    archive.unlink()
    again = run(data_dir)
    assert again == found._replace(is_new=False)
    assert len(plan.seen) == 1


def test_resumes_where_the_connection_broke(publish, tmp_path):
    content = tar_gz(GOOD)
    plan = publish(content, breaks=[20_000, 10_000, 0, 0, 5000])
    lines = []
    check_good(run(tmp_path, num_tries=3, on_retry=lines.append).folder)
    assert [seen.get("Range") for seen in plan.seen] == [
        *(None, "bytes=20000-", "bytes=30000-", "bytes=30000-", "bytes=30000-"),
        "bytes=35000-",
    ]
    assert plan.seen[1]["If-Range"] == '"one"'
    assert lines[0] == (
        f"cut off after 20000 of {len(content)} bytes; trying again in 0.01 s"
    )
    assert "trying again in 0.02 s" in lines[3]
    shutil.rmtree(tmp_path)
    plan.breaks += [20_000, 0, 0]
    plan.statuses += [200, 503, 429]
    with pytest.raises(DownloadError, match=r"cut off .* 20000 bytes are in .*gz.part"):
        run(tmp_path, num_tries=4)
    assert part_path("corpus", tmp_path).read_bytes() == content[:20_000]
    assert not (tmp_path / "corpus").exists()
    plan.breaks.clear()
    check_good(run(tmp_path).folder)
    assert plan.seen[-1]["Range"] == "bytes=20000-"


@pytest.mark.parametrize(
    ("ranges", "settings"),
    [
        # Asked to go on, this one begins again.
        ([None, "bytes=20000-"], {"has_ranges": False}),
        ([None, "bytes=20000-"], {"is_chunked": True}),
        ([None, "bytes=20000-"], {"is_chunked": True, "checksum": None}),
        # Nothing would tell whether it is still the same file.
        ([None, None], {"tag": 'W/"weak"', "checksum": None}),
        ([None, None], {"tag": None, "checksum": None}),
        ([None, "bytes=20000-"], {"tag": None}),
        ([None, "bytes=20000-", None], {"wrong_range": True}),
        ([None], {"has_length": False, "tag": None, "num_bytes": None}),
    ],
)
def test_other_ways_of_servers(publish, tmp_path, ranges, settings):
    breaks = [20_000, None] if len(ranges) > 1 else []
    plan = publish(tar_gz(GOOD), breaks=breaks, **settings)
    check_good(run(tmp_path).folder)
    assert [seen.get("Range") for seen in plan.seen] == ranges


def test_another_file_than_before_is_not_appended(publish, tmp_path):
    content = tar_gz(GOOD)
    publish(content, tag='"two"', checksum=None)
    leave_part(tmp_path, b"another archive", notes=json.dumps(['"one"', 100]))
    found = run(tmp_path)
    check_good(found.folder)
    assert not found.is_checked
    assert found.checksum == f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_part_that_is_whole_is_not_asked_for_again(publish, tmp_path):
    content = tar_gz(GOOD)
    plan = publish(content)
    leave_part(tmp_path, content, notes=json.dumps(["", len(content)]))
    check_good(run(tmp_path).folder)
    assert not plan.seen


@pytest.mark.parametrize("notes", [None, "", "[1", "{}"])
def test_part_without_its_notes(publish, tmp_path, notes):
    content = tar_gz(GOOD)
    plan = publish(content)
    leave_part(tmp_path, content[:30_000], notes=notes)
    check_good(run(tmp_path).folder)
    assert plan.seen[0]["Range"] == "bytes=30000-"
    # Longer than the archive, so that the server refuses the part.
    shutil.rmtree(tmp_path)
    leave_part(tmp_path, content + b"more", notes=notes)
    check_good(run(tmp_path).folder)
    assert plan.seen[-1].get("Range") is None


def test_silent_server(publish, tmp_path):
    content = tar_gz(GOOD)
    publish(content, breaks=[20_000, 20_000], stall_s=1.0)
    lines = []
    settings = {"timeout_s": 0.2, "num_tries": 50}
    check_good(run(tmp_path, on_retry=lines.append, **settings).folder)
    assert len(lines) >= 2
    assert {line.partition(";")[0] for line in lines} == {"timed out"}


def test_wrong_checksum(publish, tmp_path):
    plan = publish(tar_gz(GOOD), checksum="md5:00")
    for _ in range(2):
        with pytest.raises(
            DownloadError, match=r"expected md5:00, got md5:[0-9a-f]{32}"
        ):
            run(tmp_path)
        # A part would never become right.
        assert only_in(tmp_path) == [".corpus.lock"]
    assert len(plan.seen) == 2


def test_archive_that_lies_there_is_used(publish, tmp_path):
    content = tar_gz(GOOD)
    plan = publish(content)
    path = tmp_path / "Archive.tar.gz"
    path.write_bytes(b"not it")
    with pytest.raises(DownloadError, match=r"Archive\.tar\.gz: expected sha256:"):
        run(tmp_path)
    assert path.read_bytes() == b"not it"
    path.write_bytes(content)
    check_good(run(tmp_path).folder)
    assert not plan.seen


@pytest.mark.parametrize(
    "member",
    [
        ("../escaped.txt", b"out"),
        ("yes/../../escaped.txt", b"out"),
        special("link", tarfile.SYMTYPE, "/etc"),
        special("link", tarfile.SYMTYPE, "../../escaped"),
        special("link", tarfile.LNKTYPE, "../../escaped.txt"),
        special("device", tarfile.CHRTYPE),
        special("device", tarfile.BLKTYPE),
        special("pipe", tarfile.FIFOTYPE),
    ],
)
def test_dangerous_tar_is_refused(publish, tmp_path, member):
    data_dir = tmp_path / "data"
    publish(tar_gz([GOOD[0], member, ("link/x.txt", b"through")]))
    with pytest.raises(DownloadError, match=r"Archive\.tar\.gz: refused, '"):
        run(data_dir)
    assert only_in(tmp_path) == ["data"]
    assert only_in(data_dir) == [".corpus.lock", "Archive.tar.gz"]


def test_nothing_leads_out_of_the_folder(publish, tmp_path):
    out = ("../escaped.txt", "/escaped.txt", "a/../../escaped.txt")
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    members = [*((name, b"out") for name in out), (link, b"/etc")]
    publish(zipped(members), suffix=".zip")
    folder = run(tmp_path / "zip").folder
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    publish(tar_gz([("/escaped.txt", b"out")]))
    assert (run(tmp_path / "tar").folder / "escaped.txt").is_file()
    assert only_in(tmp_path) == ["tar", "zip"]
    assert only_in(tmp_path / "zip") == [".corpus.lock", "Archive.zip", "corpus"]


def damage(content, at):
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        (tar_gz(GOOD)[:30_000], ".tar.gz"),
        (tar_gz(GOOD, end=20_000), ".tar.gz"),
        (b"<html>no archive</html>", ".tar.gz"),
        (b"", ".tar.gz"),
        (zipped(GOOD)[:30_000], ".zip"),
        (damage(zipped(GOOD), 9000), ".zip"),
        (b"<html>no archive</html>", ".zip"),
    ],
)
def test_damaged_archive_leaves_nothing(publish, tmp_path, content, suffix):
    publish(content, suffix=suffix, checksum=None, num_bytes=None)
    with pytest.raises(DownloadError, match=r"cut short or damaged \(.+\); remove it"):
        run(tmp_path)
    assert only_in(tmp_path) == [".corpus.lock", f"Archive{suffix}"]


@pytest.mark.parametrize(
    ("content", "settings", "call", "message"),
    [
        (tar_gz(GOOD), {"num_bytes": 7}, {}, r"expected 7 bytes, the server has \d+$"),
        (tar_gz(GOOD), {"statuses": [404] * 9}, {}, "http://.*: HTTP 404 "),
        (tar_gz(GOOD), {"statuses": [401] * 9}, {}, "http://.*: HTTP 401 "),
        (tar_gz([special("d", tarfile.DIRTYPE)]), {}, {}, "holds no files"),
        (tar_gz(GOOD), {}, {"url": "http://127.0.0.1:1/"}, "2 tries .*, 0 bytes are"),
    ],
)
def test_archives_that_cannot_be_had(
    publish, tmp_path, content, settings, call, message
):
    plan = publish(content, **settings)
    with pytest.raises(DownloadError, match=message):
        run(tmp_path, num_tries=2, **call)
    assert len(plan.seen) == (0 if call else 1)
    assert not (tmp_path / "corpus").exists()


def test_killed_while_unpacking(publish, tmp_path, monkeypatch):
    publish(tar_gz(GOOD))
    (tmp_path / ".corpus.unfinished" / "corpus").mkdir(parents=True)

    def interrupt(what, done, total):
        if what == "unpacking":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, progress=interrupt)
    assert only_in(tmp_path) == [".corpus.lock", "Archive.tar.gz"]
    check_good(run(tmp_path).folder)


def test_folder_of_somebody_else_is_left_alone(publish, tmp_path):
    plan = publish(tar_gz(GOOD))
    (tmp_path / "corpus").mkdir()
    with pytest.raises(ValueError, match=r"data_dir: .*corpus exists, but was not"):
        run(tmp_path)
    (tmp_path / "corpus" / ".archive.json").write_text("{}")
    with pytest.raises(ValueError, match=r"data_dir: .* is damaged; remove"):
        run(tmp_path)
    assert not plan.seen


def test_full_disk_is_noticed_before(publish, tmp_path, monkeypatch):
    content = tar_gz(GOOD)
    plan = publish(content)
    usage = shutil.disk_usage(tmp_path)
    needed = 2.5 * len(content)
    monkeypatch.setattr(
        unpacking.shutil, "disk_usage", lambda _: usage._replace(free=needed - 1)
    )
    with pytest.raises(ValueError, match=r"data_dir: expected 0\.00 GB free in"):
        run(tmp_path)
    assert only_in(tmp_path) == [".corpus.lock"]
    monkeypatch.setattr(
        unpacking.shutil, "disk_usage", lambda _: usage._replace(free=needed)
    )
    check_good(run(tmp_path).folder)
    assert len(plan.seen) == 2


def test_one_process_at_a_time(publish, tmp_path):
    plan = publish(tar_gz(GOOD))

    def run_another(what, done, total):
        with pytest.raises(InUseError, match="in use by another process"):
            run(tmp_path)

    check_good(run(tmp_path, progress=run_another).folder)
    assert len(plan.seen) == 1


def test_table_of_archives(tmp_path):
    for url in ("ftp://host/x", "file:///etc/passwd", "https:///x", "x"):
        with pytest.raises(ValueError, match=r"^url: expected http:// or https://"):
            install("esc50", tmp_path, url=url)
    with pytest.raises(ValueError, match=r"^name: expected one of speech_commands"):
        install("esc500", tmp_path)
    for name, archive in ARCHIVES.items():
        assert archive.dataset in corpora.CORPUS_NAMES, name
        assert archive.url.startswith("https://")
        assert archive.file_name.endswith((".tar.gz", ".zip"))
        if archive.checksum:
            algorithm, _, digits = archive.checksum.partition(":")
            assert len(bytes.fromhex(digits)) == hashlib.new(algorithm).digest_size

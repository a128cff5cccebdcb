"""The launcher of downloads in a process of its own, against a server beside it."""

import contextlib
import http.server
import io
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile

import pytest


@pytest.fixture(scope="module")
def content():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("ESC-50-master/meta/esc50.csv", b"filename,fold\n")
        archive.writestr("ESC-50-master/audio/1.wav", os.urandom(300_000))
    return buffer.getvalue()


@pytest.fixture
def server(content):
    """Gives the first half of `content` and then nothing while `stalls` is set."""
    stalls = threading.Event()
    ranges = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers["Range"]
            ranges.append(asked)
            start = int(asked[len("bytes=") : -1]) if asked else 0
            self.send_response(206 if start else 200)
            last = len(content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("ETag", '"one"')
            self.end_headers()
            middle = len(content) // 2 if stalls.is_set() else len(content)
            self.wfile.write(content[start:middle])
            self.wfile.flush()
            while stalls.is_set():
                time.sleep(0.01)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        running.stalls, running.ranges = stalls, ranges
        running.url = f"http://127.0.0.1:{running.server_address[1]}/master.zip"
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        stalls.clear()
        running.shutdown()
        thread.join()


def start(*flags):
    # In a background job interrupts are ignored, and by whom it starts as well.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "uap_jax.experiments.download", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"no_proxy": "127.0.0.1"},
        )
    finally:
        signal.signal(signal.SIGINT, before)


def launch(*flags):
    with start(*flags) as process:
        out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_downloads_and_then_has_nothing_to_do(server, tmp_path):
    flags = ("esc50", f"--data_dir={tmp_path / 'data'}", f"--url={server.url}")
    code, out, err = launch(*flags)
    assert (code, err) == (0, "")
    folder = tmp_path / "data" / "esc50"
    assert f"unpacked 2 files into {folder}" in out
    assert "checksum is sha256:" in out and "no reference available" in out
    assert f"--dataset=esc50 --data_dir={folder}\n" in out
    assert (folder / "ESC-50-master" / "meta" / "esc50.csv").is_file()
    code, out, err = launch("--data_dir", str(tmp_path / "data"), "esc50")
    assert (code, err) == (0, "")
    assert f"nothing to do: {folder} holds 2 files" in out
    assert len(server.ranges) == 1


def test_interrupted_and_continued(server, content, tmp_path):
    flags = ("--corpus=esc50", f"--data_dir={tmp_path}", f"--url={server.url}")
    part = tmp_path / "ESC-50-master.zip.part"
    half = len(content) // 2
    server.stalls.set()
    with start(*flags) as process:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            with contextlib.suppress(FileNotFoundError):
                # What is not yet flushed is when the process ends.
                if part.stat().st_size > half - io.DEFAULT_BUFFER_SIZE:
                    break
            time.sleep(0.02)
        # What is left was sent with it.
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"0.2 MB stay in {part}" in out
    assert err == "error: interrupted; run the same command to resume\n"
    assert part.stat().st_size == half
    server.stalls.clear()
    code, out, err = launch(*flags)
    assert (code, err) == (0, "")
    assert f"resuming after 0.2 MB in {part}" in out
    assert server.ranges == [None, f"bytes={half}-"]
    assert not part.exists()


def test_failures_are_one_line(server, tmp_path):
    code, out, err = launch(
        *("speech_commands_v0.01", f"--data_dir={tmp_path}", f"--url={server.url}")
    )
    assert code == 1
    assert "licence CC BY 4.0" in out
    assert err.startswith("error: ") and err.count("\n") == 1
    assert "expected sha256:7439354" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("esc50",), "--data_dir"),
        (("esc500", "--data_dir=DIR"), "speech_commands_v0.01"),
        (("esc50", "urbansound8k", "--data_dir=DIR"), "urbansound8k"),
        (("esc50", "--data_dir=DIR/file", "--url=http://127.0.0.1:9/"), "DIR/file"),
    ],
)
def test_mistakes_are_one_line(flags, message, tmp_path):
    (tmp_path / "file").write_text("no folder")
    code, _, err = launch(*(flag.replace("DIR", str(tmp_path)) for flag in flags))
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message.replace("DIR", str(tmp_path)) in err


def test_help():
    code, out, _ = launch("--help")
    assert code == 0
    assert "speech_commands_v0.02 --data_dir" in out and "--url" in out

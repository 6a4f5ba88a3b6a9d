"""`vlm-chat --watch`: folders, animations and pipes, questions meanwhile, going back, what is refused."""

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time

import pytest
from PIL import Image
from watch_cases import watched

from vlm_core.cli import chat
from vlm_core.cli.watch import questions
from vlm_core.cli.watch.watching import Watching
from vlm_core.generation.generate import Session
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.io.frames.source import FrameSource
from vlm_core.model_folder.assemble import load
from vlm_core.text.template import TEMPLATES

SHORT = TEMPLATES["short"]
ANSWER = GenerationConfig(max_new_tokens=4)
SETTINGS = ("--max-new-tokens", "4", "--device", "cpu")


def pictures(count):
    """Images of different colours."""
    return [Image.new("RGB", (32, 32), (20 * i, 255 - 20 * i, 99)) for i in range(count)]


def jpeg(image):
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Six PNG files, whose pixels are those of `pictures`."""
    (tmp_path / "frames").mkdir()
    for i, image in enumerate(pictures(6)):
        image.save(tmp_path / "frames" / f"{i}.png")
    return tmp_path / "frames"


def call(monkeypatch, capsys, *args):
    monkeypatch.setattr(sys, "argv", ["vlm-chat", *map(str, args), *SETTINGS])
    code = chat.main()
    out, err = capsys.readouterr()
    return code, out, "\n".join(x for x in err.splitlines() if not x.startswith("vlm-core: compiling"))


def expected_answer(folder, count, question="red?"):
    """What the model answers about so many of the frames."""
    model = load(folder)[0]
    seen = [(i, image) for i, image in enumerate(pictures(count))]
    return "".join(watched(model, seen, SHORT).fork().ask(question, ANSWER))


def typed(monkeypatch, *typed_lines):
    monkeypatch.setattr(questions, "lines", lambda: iter(typed_lines))


def printed(text):
    """As the terminal shows it."""
    from vlm_core.markup.printable import printable

    return printable(text, lines=True)


def test_a_folder_is_read_to_its_end_and_answered_once(tiny_folder, folder, monkeypatch, capsys):
    code, out, err = call(monkeypatch, capsys, tiny_folder, "--watch", folder, "--ask", "red?")
    assert (code, out, err) == (0, printed(expected_answer(tiny_folder, 6)) + "\n", "")


def test_questions_meanwhile_and_about_earlier_times(tiny_folder, folder, monkeypatch, capsys):
    typed(
        monkeypatch,
        "/wait",
        "red?",
        "/at 0:03 red?",
        "/at 2s red?",
        "/status",
        "/at 1:00 red?",
        "/at 3",
        "/quit",
        "x",
    )
    code, out, err = call(monkeypatch, capsys, tiny_folder, "--watch", folder, "--keep-every", "2s")
    answers = [printed(expected_answer(tiny_folder, count)) for count in (6, 3)]
    head, ended, now, three, two, status, help_line = out.splitlines()
    assert head.startswith(f"tiny on cpu watches {folder}: a question is about the frames so far")
    assert ended == f"{folder} has ended; questions are answered as before"
    assert [now, three, two] == [f"[00:00:05] {answers[0]}", *[f"[00:00:02] {answers[1]}"] * 2]
    pattern = (
        r"at 00:00:05, ended: 6 frames read \(0 dropped, 0 damaged\), [\d.]+ ms a frame; state [\d.]+ kB; "
        r"kept states: 3 \([\d.]+ kB\), 00:00:00 to 00:00:04"
    )
    assert re.fullmatch(pattern, status)
    assert help_line.startswith("/at: unknown command or wrong arguments")
    assert (code, err) == (0, "00:01:00 has not come yet: the last frame is at 00:00:05")


def test_frames_are_thinned_out_and_limited(tiny_folder, folder, monkeypatch, capsys):
    typed(monkeypatch, "/wait", "/status")
    options = ("--rate", "10", "--fps", "5", "--max-frames", "2")
    code, out, err = call(monkeypatch, capsys, tiny_folder, "--watch", folder, *options)
    assert code == 0
    assert "at 00:00:00.20, ended: 2 frames read" in out
    assert err == "2 frames have been read, as many as max_frames allows"


def test_damaged_frames_are_left_out_and_counted(tiny_folder, folder, monkeypatch, capsys):
    for name in ("1.png", "3.png"):
        (folder / name).write_bytes(b"no image")
    typed(monkeypatch, "/wait", "/status")
    code, out, err = call(monkeypatch, capsys, tiny_folder, "--watch", folder)
    assert code == 0
    assert "4 frames read (0 dropped, 2 damaged)" in out
    assert re.fullmatch(
        r"at 00:00:01: .*/1\.png: not an image.*; damaged frames are left out and counted in /status", err
    )


def piped(folder, data, *args, wait=True):
    """`vlm-chat` with `data` on standard input."""
    command = "import sys; from vlm_core.cli.chat import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", command, str(folder), "--watch", "-", *args, *SETTINGS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    if not wait:
        process.stdin.write(data)
        process.stdin.flush()
        return process
    out, err = process.communicate(data, timeout=120)
    return process.returncode, out.decode(), err.decode()


def test_a_pipe_is_read_to_its_end(tiny_folder, folder):
    data = b"".join((folder / f"{i}.png").read_bytes() for i in range(6))
    code, out, err = piped(tiny_folder, data, "--ask", "red?")
    assert (code, out) == (0, printed(expected_answer(tiny_folder, 6)) + "\n"), err


def test_a_pipe_that_ends_in_the_middle_of_a_frame_is_told_and_answered(tiny_folder, folder):
    data = b"".join((folder / f"{i}.png").read_bytes() for i in range(3))
    code, out, err = piped(tiny_folder, data + jpeg(pictures(1)[0])[:-30], "--ask", "red?")
    assert (code, out) == (0, printed(expected_answer(tiny_folder, 3)) + "\n")
    assert re.search(
        "the stream ended in the middle of frame 4, after [0-9]+ of its bytes; this frame is left out", err
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no frame has been read: standard input has ended without one"),
        (b"no images", "no JPEG or PNG image in the stream"),
    ],
)
def test_a_pipe_without_frames(tiny_folder, data, message):
    code, out, err = piped(tiny_folder, data, "--ask", "red?")
    assert (code, out) == (2, "")
    assert message in err


def test_a_stalled_pipe_is_told_and_ctrl_c_answers(tiny_folder, folder):
    data = b"".join((folder / f"{i}.png").read_bytes() for i in range(3))
    process = piped(tiny_folder, data, "--ask", "red?", "--stall", "0.5s", wait=False)
    line = b""
    while b"no data" not in line:
        line = process.stderr.readline()
        assert line, "it has ended"
    assert line == b"standard input: no data for 0.5 s, before frame 4\n"
    process.send_signal(signal.SIGINT)
    out, err = process.stdout.read(), process.stderr.read()
    process.stdin.close()
    assert (process.wait(60), err) == (0, b"")
    assert out.decode() == printed(expected_answer(tiny_folder, 3)) + "\n"
    process.stdout.close()
    process.stderr.close()


def test_questions_come_from_the_terminal_while_frames_come_through_the_pipe(tiny_folder, folder, tmp_path):
    """The terminal has line editing; the writer of the pipe stops in the middle of a frame, and answers go on."""
    reading, writing = os.pipe()
    pid, terminal = pty.fork()
    if not pid:
        os.dup2(reading, 0)
        os.environ.update(TERM="dumb", XDG_STATE_HOME=str(tmp_path))
        command = "import sys; from vlm_core.cli.chat import main; sys.exit(main())"
        os.execv(
            sys.executable,
            [sys.executable, "-c", command, str(tiny_folder), "--watch", "-", "--rate", "1", *SETTINGS],
        )
    os.close(reading)

    def until(end):
        output = b""
        while end not in output:
            assert select.select([terminal], [], [], 60)[0], (
                f"waited in vain for {end!r} after {output[-300:]!r}"
            )
            output += os.read(terminal, 65536)
        return output.decode()

    frames = [(folder / f"{i}.png").read_bytes() for i in range(3)]
    os.write(writing, b"".join(frames) + frames[0][:40])
    until(b"exits\r\n> ")
    os.write(terminal, b"/wait 0:02\r")
    until(b"> ")
    os.write(terminal, b"red?\r")
    assert f"[00:00:02] {printed(expected_answer(tiny_folder, 3))}" in until(b"> ").replace("\r\n", "\n")
    os.close(writing)
    os.write(terminal, b"/wait\r")
    assert "ended in the middle of frame 4, after 40 of its bytes" in until(b"> ")
    os.write(terminal, b"/status\r")
    assert "at 00:00:02, ended: 3 frames read" in until(b"> ")
    os.write(terminal, b"\x04")
    assert os.waitpid(pid, 0)[1] == 0
    os.close(terminal)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--watch", "none"], "none: no such file, folder or camera"),
        (["--watch", "rtsp://camera"], "rtsp://camera: URLs are not supported; pipe the stream in: ffmpeg"),
        (["--watch", "one.png"], "one.png: a single image, not a video or an animation"),
        (
            ["--watch", "/dev/null", "--rate", "2"],
            "--rate: a camera has times of its own; --fps leaves frames out",
        ),
        (["--watch", ".", "--image", "one.png"], "--image: with --watch all images come from the stream"),
        (["--watch", ".", "--video", "one.png"], "--video: with --watch all images come from the stream"),
        (["--watch", ".", "--resume", "a.state"], "--resume: it is for conversations, not for --watch"),
        (["--watch", ".", "--state-cache", "c"], "--state-cache: it is for conversations, not for --watch"),
        (["--watch", ".", "--stall", "2s"], "--stall is for --watch -"),
        (["--watch", ".", "--ask", "q", "--keep-every", "2s"], "--keep-every: --ask is about the end"),
        (["--watch", ".", "--ask", "q", "--keep-mb", "2"], "--keep-mb: --ask is about the end"),
        (["--fps", "2"], "--fps is for --watch"),
        (["--keep-every", "2s"], "--keep-every is for --watch"),
        (["--max-frames", "2"], "--max-frames is for --watch"),
    ],
)
def test_what_is_refused_before_the_model_is_read(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    pictures(1)[0].save("one.png")
    (tmp_path / "model").mkdir()  # reading it would be another error
    code, _, err = call(monkeypatch, capsys, "model", *options)
    assert code == 2
    assert err.startswith(f"vlm-chat: {message}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fps", "0"], "argument --fps: expected a number above 0 and at most 1000, got '0'"),
        (["--rate", "nan"], "argument --rate: expected a number above 0"),
        (["--watch", ""], "argument --watch: an empty path"),
        (["--stall", "0"], "argument --stall: expected a time above 0"),
        (["--keep-every", "soon"], "argument --keep-every: 'soon' is no time"),
    ],
)
def test_wrong_values_of_options(monkeypatch, capsys, options, message):
    monkeypatch.setattr(sys, "argv", ["vlm-chat", "model", "--watch", ".", *options])
    with pytest.raises(SystemExit):
        chat.main()
    assert message in capsys.readouterr().err


def test_a_pipe_that_is_a_terminal_is_refused(tiny_folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    code, _, err = call(monkeypatch, capsys, tiny_folder, "--watch", "-")
    assert code == 2
    assert err.startswith("vlm-chat: --watch -: standard input is a terminal; pipe images into it: ffmpeg")


def slow_frames(stop):
    """A live source of as many frames as wanted."""

    def items():
        number = 0
        while not stop.is_set():
            yield float(number), number
            number += 1
            time.sleep(0.001)

    return FrameSource("numbers", items(), lambda i: pictures(1)[0], live=True)


def test_watching_goes_on_while_an_answer_is_generated(tiny_model, capsys):
    """The answer is that of the moment of the question."""
    stop = threading.Event()
    watching = Watching(Session(tiny_model).watch([], SHORT), slow_frames(stop), None, announce=False)
    while not watching.watcher.frames:
        time.sleep(0.01)
    fork = watching.fork()
    asked_at = fork.frames
    questions._answer(watching, fork, "red?", GenerationConfig(max_new_tokens=30))
    assert watching.watcher.frames > asked_at + 1
    assert fork.frames == asked_at
    stop.set()
    watching.close()
    shown = capsys.readouterr().out
    assert shown == printed("".join(fork.ask("red?", GenerationConfig(max_new_tokens=30)))) + "\n"


def test_frames_that_come_too_fast_are_dropped_and_counted(tiny_model):
    stop = threading.Event()
    watching = Watching(Session(tiny_model).watch([], SHORT), slow_frames(stop), None, announce=False)
    while watching.watcher.frames < 20:
        time.sleep(0.01)
    stop.set()
    assert watching.wait(60)
    read, last = watching.watcher.frames, watching.watcher.time
    assert watching.reader.dropped > 0
    assert read + watching.reader.dropped == last + 1, "the newest frames are read"
    assert f"{watching.reader.dropped} dropped" in watching.status()


def test_an_error_of_the_thread_is_not_lost(tiny_folder, folder, monkeypatch, capsys):
    def broken(self, time, image):
        raise RuntimeError("out of order")

    monkeypatch.setattr("vlm_core.generation.watch.watcher.Watcher.append", broken)
    code, _, err = call(monkeypatch, capsys, tiny_folder, "--watch", folder, "--ask", "red?")
    assert code == 70
    assert "internal error: RuntimeError: out of order" in err

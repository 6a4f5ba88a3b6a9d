"""`vlm-chat --watch` with files: questions meanwhile, going back, what is refused, answers while frames come."""

import re
import sys
import threading
import time

import pytest
from watch_commands import SHORT, call, expected_answer, pictures, printed

from vlm_core.cli import chat, prompt
from vlm_core.cli.watch import questions
from vlm_core.cli.watch.watch_thread import WatchThread
from vlm_core.generation.generate import Session
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.io.frames.source import FrameSource


def typed(monkeypatch, *typed_lines):
    monkeypatch.setattr(prompt, "lines", lambda: iter(typed_lines))


def test_a_folder_is_read_to_its_end_and_answered_once(tiny_folder, frame_folder, monkeypatch, capsys):
    code, out, err = call(monkeypatch, capsys, tiny_folder, "--watch", frame_folder, "--ask", "red?")
    assert (code, out, err) == (0, printed(expected_answer(tiny_folder, 6)) + "\n", "")


def test_questions_meanwhile_and_about_earlier_times(tiny_folder, frame_folder, monkeypatch, capsys):
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
    code, out, err = call(monkeypatch, capsys, tiny_folder, "--watch", frame_folder, "--keep-every", "2s")
    answers = [printed(expected_answer(tiny_folder, count)) for count in (6, 3)]
    head, ended, now, three, two, status, help_line = out.splitlines()
    assert head.startswith(f"tiny on cpu watches {frame_folder}: a question is about the frames so far")
    assert ended == f"{frame_folder} has ended; questions are answered as before"
    assert [now, three, two] == [f"[00:00:05] {answers[0]}", *[f"[00:00:02] {answers[1]}"] * 2]
    pattern = (
        r"at 00:00:05, ended: 6 frames read \(0 dropped, 0 damaged\), [\d.]+ ms a frame; state [\d.]+ kB; "
        r"kept states: 3 \([\d.]+ kB\), 00:00:00 to 00:00:04"
    )
    assert re.fullmatch(pattern, status)
    assert help_line.startswith("/at: unknown command or wrong arguments")
    assert (code, err) == (0, "00:01:00 has not come yet: the last frame is at 00:00:05")


def test_frames_are_thinned_out_and_limited(tiny_folder, frame_folder, monkeypatch, capsys):
    typed(monkeypatch, "/wait", "/status")
    options = ("--rate", "10", "--fps", "5", "--max-frames", "2")
    code, out, err = call(monkeypatch, capsys, tiny_folder, "--watch", frame_folder, *options)
    assert code == 0
    assert "at 00:00:00.20, ended: 2 frames read" in out
    assert err == "2 frames have been read, as many as max_frames allows"


def test_damaged_frames_are_left_out_and_counted(tiny_folder, frame_folder, monkeypatch, capsys):
    for name in ("1.png", "3.png"):
        (frame_folder / name).write_bytes(b"no image")
    typed(monkeypatch, "/wait", "/status")
    code, out, err = call(monkeypatch, capsys, tiny_folder, "--watch", frame_folder)
    assert code == 0
    assert "4 frames read (0 dropped, 2 damaged)" in out
    assert re.fullmatch(
        r"at 00:00:01: .*/1\.png: not an image.*; damaged frames are left out and counted in /status", err
    )


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
    thread = WatchThread(Session(tiny_model).watch([], SHORT), slow_frames(stop), None, announce=False)
    while not thread.watcher.frames:
        time.sleep(0.01)
    fork = thread.fork()
    asked_at = fork.frames
    questions._answer(thread, fork, "red?", GenerationConfig(max_new_tokens=30))
    assert thread.watcher.frames > asked_at + 1
    assert fork.frames == asked_at
    stop.set()
    thread.close()
    shown = capsys.readouterr().out
    assert shown == printed("".join(fork.ask("red?", GenerationConfig(max_new_tokens=30)))) + "\n"


def test_frames_that_come_too_fast_are_dropped_and_counted(tiny_model):
    stop = threading.Event()
    thread = WatchThread(Session(tiny_model).watch([], SHORT), slow_frames(stop), None, announce=False)
    while thread.watcher.frames < 20:
        time.sleep(0.01)
    stop.set()
    assert thread.wait(60)
    read, last = thread.watcher.frames, thread.watcher.time
    assert thread.reader.dropped > 0
    assert read + thread.reader.dropped == last + 1, "the newest frames are read"
    assert f"{thread.reader.dropped} dropped" in thread.status()


def test_an_error_of_the_thread_is_not_lost(tiny_folder, frame_folder, monkeypatch, capsys):
    def broken(self, time, image):
        raise RuntimeError("out of order")

    monkeypatch.setattr("vlm_core.generation.watch.watcher.Watcher.append", broken)
    code, _, err = call(monkeypatch, capsys, tiny_folder, "--watch", frame_folder, "--ask", "red?")
    assert code == 70
    assert "internal error: RuntimeError: out of order" in err

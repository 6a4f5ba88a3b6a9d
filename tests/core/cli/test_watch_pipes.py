"""`vlm-chat --watch -`: frames from standard input, also while questions come from the terminal."""

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys

import pytest
from watch_commands import SETTINGS, call, expected_answer, pictures, printed


def jpeg(image):
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


def piped(model_folder, data, *options, wait=True):
    """`vlm-chat` with `data` on standard input."""
    command = "import sys; from vlm_core.cli.chat import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", command, str(model_folder), "--watch", "-", *options, *SETTINGS],
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


@pytest.mark.slow
def test_a_pipe_is_read_to_its_end(tiny_folder, frame_folder):
    data = b"".join((frame_folder / f"{i}.png").read_bytes() for i in range(6))
    code, out, err = piped(tiny_folder, data, "--ask", "red?")
    assert (code, out) == (0, printed(expected_answer(tiny_folder, 6)) + "\n"), err


@pytest.mark.slow
def test_a_pipe_that_ends_in_the_middle_of_a_frame_is_told_and_answered(tiny_folder, frame_folder):
    data = b"".join((frame_folder / f"{i}.png").read_bytes() for i in range(3))
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


@pytest.mark.slow
def test_a_stalled_pipe_is_told_and_ctrl_c_answers(tiny_folder, frame_folder):
    data = b"".join((frame_folder / f"{i}.png").read_bytes() for i in range(3))
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


@pytest.mark.slow
def test_questions_come_from_the_terminal_while_frames_come_through_the_pipe(
    tiny_folder, frame_folder, tmp_path
):
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

    frames = [(frame_folder / f"{i}.png").read_bytes() for i in range(3)]
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


def test_a_pipe_that_is_a_terminal_is_refused(tiny_folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    code, _, err = call(monkeypatch, capsys, tiny_folder, "--watch", "-")
    assert code == 2
    assert err.startswith("vlm-chat: --watch -: standard input is a terminal; pipe images into it: ffmpeg")

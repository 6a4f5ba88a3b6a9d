"""`vlm-chat --watch` with `--save` and `--resume`: a stream goes on later, or is asked about without more frames."""

import pytest
from watch_commands import call, expected_answer, pictures, printed

from vlm_core.cli import prompt
from vlm_core.generation.session_file import read_manifest


def folder(path, images):
    path.mkdir()
    for i, image in enumerate(images):
        image.save(path / f"{i}.png")
    return path


@pytest.fixture
def halves(tmp_path):
    """Folders with the first four and the last two of six frames."""
    seen = pictures(6)
    return folder(tmp_path / "a", seen[:4]), folder(tmp_path / "b", seen[4:])


@pytest.fixture
def saved(tiny_folder, halves, tmp_path, monkeypatch, capsys):
    options = ("--watch", halves[0], "--ask", "red?", "--keep-every", "1s", "--save", tmp_path / "s.state")
    code, out, err = call(monkeypatch, capsys, tiny_folder, *options)
    assert (code, out, err) == (0, printed(expected_answer(tiny_folder, 4)) + "\n", "")
    return tmp_path / "s.state"


def test_a_stream_goes_on_with_its_kept_states(tiny_folder, halves, saved, monkeypatch, capsys):
    typed = ["/wait", "red?", "/at 0:03 red?", "/at 0:01 red?"]
    monkeypatch.setattr(prompt, "lines", lambda: iter(typed))
    options = ("--watch", halves[1], "--resume", saved, "--save", saved)
    code, out, err = call(monkeypatch, capsys, tiny_folder, *options)
    *told, now, last, earlier = out.splitlines()  # the end of the source may be told before the first lines
    assert len(told) == 3
    assert f"{saved}: 4 frames, the last one at 00:00:03" in told
    assert now == f"[00:00:04] {printed(expected_answer(tiny_folder, 6))}"
    assert last == f"[00:00:03] {printed(expected_answer(tiny_folder, 4))}"
    assert earlier == f"[00:00:01] {printed(expected_answer(tiny_folder, 2))}"
    assert (code, err) == (0, "")
    stream = read_manifest(saved).stream
    assert (stream.frames, stream.time) == (6, 4.0)
    assert [(moment.frames, moment.time) for moment in stream.kept] == [(i + 1, float(i)) for i in range(4)]


def test_questions_about_a_saved_stream(tiny_folder, saved, monkeypatch, capsys):
    expected = printed(expected_answer(tiny_folder, 4))
    code, out, err = call(monkeypatch, capsys, tiny_folder, "--resume", saved, "--ask", "red?")
    assert (code, out, err) == (0, expected + "\n", "")
    monkeypatch.setattr(prompt, "lines", lambda: iter(["red?", "red?", "/at 2s red?"]))
    code, out, err = call(monkeypatch, capsys, tiny_folder, "--resume", saved)
    head, resumed, *answers = out.splitlines()
    assert head.startswith("tiny on cpu: a question is about the frames so far")
    assert resumed == f"{saved}: 4 frames, the last one at 00:00:03"
    rewound = f"[00:00:02] {printed(expected_answer(tiny_folder, 3))}"
    assert (code, answers, err) == (0, [*[f"[00:00:03] {expected}"] * 2, rewound], "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--as-video", "--watch", "."], "--as-video: the frames in s.state were read as images"),
        (["--image", "a/0.png"], "--image: with --watch all images come from the stream"),
        (["--state-cache", "c"], "--state-cache: it is for conversations, not for --watch"),
        (["--fps", "2"], "--fps is for --watch"),
    ],
)
def test_what_is_refused_with_a_saved_stream(
    tiny_folder, saved, tmp_path, monkeypatch, capsys, options, message
):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(monkeypatch, capsys, tiny_folder, "--resume", "s.state", *options)
    assert (code, out) == (2, "")
    assert err.startswith(f"vlm-chat: {message}")


def test_a_conversation_is_not_continued_by_watching(tiny_folder, halves, tmp_path, monkeypatch, capsys):
    talk = tmp_path / "talk.state"
    assert call(monkeypatch, capsys, tiny_folder, "--ask", "red?", "--save", talk)[0] == 0
    code, _, err = call(monkeypatch, capsys, tiny_folder, "--watch", halves[1], "--resume", talk)
    assert (code, err) == (
        2,
        f"vlm-chat: {talk}: the state of a conversation; --watch continues that of a stream",
    )


def test_nothing_to_save(tiny_folder, tmp_path, monkeypatch, capsys):
    empty = folder(tmp_path / "a", pictures(1))
    (empty / "0.png").write_bytes(b"no image")
    monkeypatch.setattr(prompt, "lines", lambda: iter(["/wait"]))
    code, _, err = call(monkeypatch, capsys, tiny_folder, "--watch", empty, "--save", tmp_path / "s")
    assert code == 2
    assert err.endswith("vlm-chat: nothing to save: no frame has been read")
    assert not (tmp_path / "s").exists()

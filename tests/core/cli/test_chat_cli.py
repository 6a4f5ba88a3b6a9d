"""`vlm-chat` as a person uses it: several images, an answer that is stopped, lines that are edited, pasted paths."""

import os
import pty
import select
import signal
import subprocess
import sys
from threading import Thread

import pytest
from PIL import Image

from vlm_core.cli import chat, prompt
from vlm_core.cli.prompt import Interrupt, image_files
from vlm_core.errors import UserError
from vlm_core.generation.conversation import Conversation
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.text.template import TEMPLATES

TEMPLATE = TEMPLATES["llava-v1"]


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["red.png", "two words.png", "it's.png"]
    for i, name in enumerate(names):
        Image.new("RGB", (8, 8), (80 * i, 10, 10)).save(tmp_path / name)
    return names


def call(monkeypatch, capsys, *args):
    monkeypatch.setattr(sys, "argv", ["vlm-chat", *map(str, args)])
    code = chat.main()
    return code, *capsys.readouterr()


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("red.png", ["red.png"]),
        ("two words.png", ["two words.png"]),
        ("'two words.png'", ["two words.png"]),
        ('"two words.png" red.png', ["two words.png", "red.png"]),
        ("two\\ words.png", ["two words.png"]),
        ("it's.png", ["it's.png"]),
        ("~/red.png", ["red.png"]),
    ],
)
def test_a_path_as_people_type_and_terminals_paste_it(pictures, tmp_path, monkeypatch, typed, names):
    monkeypatch.setenv("HOME", str(tmp_path))
    files = image_files(typed, quoted=True)
    assert [file.name for file in files] == names
    assert all(file.is_file() for file in files)


def test_an_argument_was_split_by_the_shell_already(pictures):
    assert [file.name for file in image_files("two words.png", quoted=False)] == ["two words.png"]
    with pytest.raises(UserError, match="no such image file"):
        image_files("'red.png'", quoted=False)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("https://a.b/c.png", "URLs are not supported"),
        ("file:///tmp/red.png", "URLs are not supported"),
        ("data:image/png;base64,AAAA", "URLs are not supported"),
        ("none.png", "none.png: no such image file"),
        (".", "is a folder"),
        ("''", "an empty path; name one image file"),
        ("/dev/zero", "/dev/zero: is no regular file; name one image file"),
        ("'none.png", "no such image file"),
    ],
)
def test_what_is_no_image_file_is_told(pictures, typed, message):
    with pytest.raises(UserError, match=message):
        image_files(typed, quoted=True)


def test_every_image_of_the_command_line_is_shown(pictures, tiny_folder, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(Conversation, "show", lambda self, path: shown.append(path.name))
    images = [word for name in pictures for word in ("--image", name)]
    code, _, err = call(monkeypatch, capsys, tiny_folder, *images, "--ask", "which?", "--max-new-tokens", "2")
    told = [line for line in err.splitlines() if not line.startswith("vlm-core: compiling the kernel")]
    assert (code, told, shown) == (0, [], pictures)


def test_a_wrong_image_is_told_before_the_model_is_read(pictures, tmp_path, monkeypatch, capsys):
    (tmp_path / "model").mkdir()  # reading it would be another error
    code, _, err = call(monkeypatch, capsys, tmp_path / "model", "--image", "red.png", "--image", "x.png")
    assert (code, err) == (2, "vlm-chat: x.png: no such image file\n")


@pytest.mark.parametrize("option", ["--save", "--resume", "--state-cache"])
def test_an_empty_path_is_not_an_option_left_out(monkeypatch, capsys, option):
    with pytest.raises(SystemExit):
        call(monkeypatch, capsys, "model", option, "")
    assert f"argument {option}: an empty path" in capsys.readouterr().err


def test_a_target_that_cannot_be_written_is_told_before_the_answer(
    tiny_folder, pictures, monkeypatch, capsys
):
    for name in (f"{pictures[0]}/a.state", f"{pictures[0]}/b/a.state"):
        code, out, err = call(monkeypatch, capsys, tiny_folder, "--ask", "which?", "--save", name)
        assert (code, out) == (2, "")
        assert err.endswith(f"/{pictures[0]}: not a folder; nothing can be written there\n")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # as of a read-only disk
    code, out, err = call(monkeypatch, capsys, tiny_folder, "--ask", "which?", "--save", "new/a.state")
    assert (code, out) == (2, "")
    assert "nothing can be written in this folder" in err


def test_a_state_cache_that_is_a_file(tiny_folder, pictures, monkeypatch, capsys):
    cache = pictures[0]
    code, out, err = call(monkeypatch, capsys, tiny_folder, "--ask", "which?", "--state-cache", cache)
    assert (code, out, err) == (2, "", f"vlm-chat: {cache}: a file, not a folder for the state cache\n")


def test_an_empty_question_is_refused(tiny_folder, monkeypatch, capsys):
    code, _, err = call(monkeypatch, capsys, tiny_folder, "--ask", "  ")
    assert (code, err) == (
        2,
        "vlm-chat: --ask: the question is empty, and there is no --image or --video to describe\n",
    )


@pytest.mark.parametrize("kept", [1, 3, 7])
def test_an_answer_left_early_is_remembered_as_far_as_it_went(tiny_model, kept):
    """The conversation goes on as if the answer had been allowed that many tokens and no more."""
    left, limited = (Conversation(tiny_model, TEMPLATE) for _ in range(2))
    answer = left.ask("is there a circle?", GenerationConfig(40))
    first = "".join(piece for piece, _ in zip(answer, range(kept), strict=False))
    answer.close()
    whole = "".join(limited.ask("is there a circle?", GenerationConfig(kept)))
    assert whole.startswith(first)
    seen, expected = ("".join(talk.ask("and red?", GenerationConfig(8))) for talk in (left, limited))
    assert seen == expected


def test_ctrl_c_is_noticed_and_the_second_one_interrupts():
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.received
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_stops_the_answer_and_keeps_the_conversation(tiny_folder, monkeypatch, capsys):
    answers = []

    def ask(self, question, decoding):
        answers.append(question)
        for i in range(5):
            if question == "stop me" and i == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield f"{i}"

    monkeypatch.setattr(Conversation, "ask", ask)
    monkeypatch.setattr(prompt, "lines", lambda: iter(["stop me", "go on", "/quit", "never"]))
    code, out, _ = call(monkeypatch, capsys, tiny_folder)
    assert (code, answers) == (0, ["stop me", "go on"])
    assert out.splitlines()[-2:] == ["012 …", "01234"]


def test_piped_lines_are_read_without_a_prompt():
    code = "from vlm_core.cli.prompt import lines; print(list(lines()))"
    done = subprocess.run(
        [sys.executable, "-c", code], input="one\n\n  two \n", capture_output=True, text=True, check=True
    )
    assert done.stdout == "['one', 'two']\n"


def read_until(terminal, end):
    """What a terminal shows up to these bytes."""
    output = b""
    while end not in output:
        assert select.select([terminal], [], [], 60)[0], f"waited in vain for {end!r} after {output[-200:]!r}"
        output += os.read(terminal, 65536)


def test_a_terminal_takes_long_lines_and_keeps_a_history(tmp_path):
    """A terminal in its line mode would cut a line at 4,095 characters."""
    line = "x" * 9000
    code = "from vlm_core.cli.prompt import lines\nfor line in lines(): print('read', len(line), line[-1])"
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "dumb"}
    terminal, end = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=end, stdout=end, stderr=end, env=env
    ) as process:
        os.close(end)
        read_until(terminal, b"> ")
        writer = Thread(target=os.write, args=(terminal, line.encode() + b"\r"))
        writer.start()  # beside the reader: the terminal shows each character as it takes it
        read_until(terminal, b"read 9000 x\r\n> ")
        writer.join()
        os.write(terminal, b"\x04")
        process.wait(timeout=60)
    os.close(terminal)
    history = tmp_path / "vlm" / "chat_history"
    assert history.read_text().splitlines()[-1] == line
    assert history.stat().st_mode & 0o077 == 0


def test_a_conversation_is_saved_and_resumed(pictures, tiny_folder, tmp_path, monkeypatch, capsys):
    """As if it had never ended; another model or template is refused before anything is asked."""
    few = ("--max-new-tokens", "4")
    talk = ("--image", "red.png", "--ask", "is there a circle?", *few)
    assert call(monkeypatch, capsys, tiny_folder, *talk, "--save", "talk.state")[0] == 0
    code, out, _ = call(monkeypatch, capsys, tiny_folder, "--resume", "talk.state", "--ask", "red?", *few)
    lines = iter(
        ["/image red.png", "is there a circle?", "/save 'b c.state'", "red?", "/cache", "/save red.png"]
    )
    monkeypatch.setattr(prompt, "lines", lambda: lines)
    _, whole, errors = call(monkeypatch, capsys, tiny_folder, *few)
    assert (code, out.strip()) == (0, whole.splitlines()[3].strip())
    assert (tmp_path / "b c.state").is_file()
    assert "state cache: hits 0, misses 2, " in whole
    assert errors.endswith("red.png exists and is no state file; name another file\n")
    code, _, err = call(
        monkeypatch, capsys, tiny_folder, "--resume", "talk.state", "--dtype", "bfloat16", "--ask", "a"
    )
    assert (code, "dtype of llm: 'float32' in the file" in err) == (2, True)
    convert = ("--resume", "talk.state", "--convert-state", "--dtype", "bfloat16", "--ask", "a", *few)
    assert call(monkeypatch, capsys, tiny_folder, *convert)[0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--save", "."], "a folder; name a file"),
        (["--save", "red.png"], "exists and is no state file"),
        (["--resume", "red.png", "--ask", "a"], "red.png: not a readable state file"),
        (["--resume", "none.state", "--ask", "a"], "none.state: cannot read this file: no such file"),
        (["--convert-state"], "--convert-state is for --resume"),
    ],
)
def test_what_is_no_state_file_is_told_before_the_model_is_read(
    pictures, tiny_folder, monkeypatch, capsys, options, message
):
    monkeypatch.setattr("vlm_core.model_folder.assemble.load", None)
    code, _, err = call(monkeypatch, capsys, tiny_folder, *options)
    assert code == 2
    assert message in err


def test_a_second_command_finds_the_states_of_the_first(pictures, tiny_folder, monkeypatch, capsys):
    asked = ("--image", "red.png", "--ask", "red?", "--max-new-tokens", "3")
    _, plain, _ = call(monkeypatch, capsys, tiny_folder, *asked)
    for counts in ("hits 0, misses 1", "hits 1, misses 0"):
        _, out, err = call(monkeypatch, capsys, tiny_folder, *asked, "--state-cache", "states")
        assert out == plain
        assert counts in err

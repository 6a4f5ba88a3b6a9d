"""Names, paths, logs and answers of foreign origin on the terminal: text, whatever they hold."""

import logging
import pickle
import sys
import warnings
from pathlib import Path

import pytest
from hostile import HOSTILE, IN_NAMES, is_inert

from vlm_core.cli import assemble, chat
from vlm_core.cli.common import Parser, run
from vlm_core.cli.output import inert, printable_records, say
from vlm_core.errors import BadSample, Problem, SpecError, UserError
from vlm_core.io.image_folder import ImageFolder
from vlm_core.io.strict_json import parse_strict, parse_strict_line
from vlm_core.markup import markdown
from vlm_core.markup.printable import json_text


def test_a_line_of_an_error_is_one_line():
    error = UserError(f"{HOSTILE}: bad", "  second")
    assert is_inert(str(error))
    assert str(error).count("\n") == 1
    assert str(UserError(*error.lines)) == str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    bad = BadSample("path", HOSTILE, "row").of_row("x")
    assert str(pickle.loads(pickle.dumps(bad))) == str(bad)
    assert is_inert(str(bad))
    assert is_inert(str(SpecError([Problem(HOSTILE, HOSTILE, HOSTILE)] * 2)))


def test_errors_logs_and_warnings_of_a_command(capfd):
    def command(args):
        logging.getLogger("some.library").warning("%s of %d", HOSTILE, 3)
        logging.getLogger("some.library").warning(f"quoted\n{HOSTILE.replace('FAKE', 'fake')}")
        sys.stderr.write(warnings.formatwarning(HOSTILE, UserWarning, "x.py", 1))
        say(HOSTILE, "second")
        raise {"user": UserError, "bug": RuntimeError}[args.kind](HOSTILE)

    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(handler)
    try:
        for kind, code in (("user", 2), ("bug", 70)):
            parser = Parser(prog="x")
            parser.add_argument("kind")
            assert run(parser, command, [kind]) == code
            out, err = capfd.readouterr()
            assert is_inert(out)
            assert is_inert(err)
            assert "of 3" in err
            assert "\nfake" not in err
    finally:
        logging.getLogger().removeHandler(handler)
    parser = Parser(prog="x")
    with pytest.raises(SystemExit):
        run(parser, command, [HOSTILE])
    assert is_inert(capfd.readouterr().err)


def test_records_are_as_before_afterwards():
    before = logging.getLogRecordFactory(), warnings.formatwarning
    with pytest.raises(KeyError), printable_records():
        raise KeyError
    assert (logging.getLogRecordFactory(), warnings.formatwarning) == before


def test_marks_of_rich_are_text():
    from rich.console import Console

    console = Console(width=200, force_terminal=True, color_system="truecolor")
    with console.capture() as captured:
        console.print(inert("[red]a[/red] :warning: [link=http://x]b"))
    assert captured.get() == "[red]a[/red] :warning: [link=http://x]b\n"


def test_values_of_a_spec(tmp_path, capsys, monkeypatch, tiny_spec):
    import yaml

    folder = tmp_path / IN_NAMES.replace("/", "")
    folder.mkdir()
    specs = [
        {**tiny_spec, "name": HOSTILE},
        {**tiny_spec, HOSTILE: 1},
        {**tiny_spec, "encoder": {"type": HOSTILE}},
        {**tiny_spec, "include": HOSTILE},
        {**tiny_spec, "template": HOSTILE},
        [HOSTILE],
    ]
    for spec in specs:
        path = folder / "spec.yaml"
        path.write_text(yaml.safe_dump(spec), encoding="utf-8")
        for flags in (["--check"], ["--check", "--set", f"encoder.{IN_NAMES}={IN_NAMES}"]):
            monkeypatch.setattr("sys.argv", ["vlm-assemble", str(path), *flags])
            assert assemble.main() == 2
            out, err = capsys.readouterr()
            assert is_inert(out)
            assert is_inert(err)
    monkeypatch.setattr("sys.argv", ["vlm-assemble", "--new-plugin", HOSTILE, HOSTILE, "--out", str(folder)])
    assert assemble.main() == 2
    assert is_inert(capsys.readouterr().err)
    monkeypatch.setattr("sys.argv", ["vlm-chat", str(folder / "none")])
    assert chat.main() == 2
    assert is_inert(capsys.readouterr().err)


class Speaker:
    """A conversation whose answers are escape sequences, piece by piece."""

    def ask(self, question, decoding):
        return iter(["a\n", *HOSTILE.replace("FAKE", "fake"), "b"])


def test_answers_of_a_model(capsys):
    chat._answer(Speaker(), "?", None)  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert is_inert(said)
    assert said.startswith("a\n\\x1b]0;pwned\\x07")


def test_markdown_of_any_text():
    from markdown_it import MarkdownIt

    for text in (
        HOSTILE,
        "# a",
        "- a",
        "1. a",
        "> a",
        "```",
        "| a |",
        "<b>",
        "[a](http://x)",
        "**a** _b_ ~~c~~",
        "&lt;",
    ):
        parsed = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(f"- {markdown.text(text)}")
        kinds = [t.type for t in parsed]
        assert kinds == [
            "bullet_list_open",
            "list_item_open",
            "paragraph_open",
            "inline",
            "paragraph_close",
            "list_item_close",
            "bullet_list_close",
        ], text
        assert {child.type for child in parsed[3].children or ()} <= {"text", "text_special"}
    block = markdown.fence("a\n```\n<b>\n````", "yaml")
    parsed = MarkdownIt("commonmark").parse("\n".join(block))
    assert [t.type for t in parsed] == ["fence"]
    assert parsed[0].content == "a\n```\n<b>\n````\n"


def test_json_keeps_its_value_and_shows_no_control():
    value = {HOSTILE: [HOSTILE, "日本", "\U000e0001", 1.5]}
    for indent in (None, 2):
        text = json_text(value, indent)
        assert is_inert(text)
        assert "日本" in text
        assert parse_strict(text, "x") == value


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"a":\nNaN}', 2),
        ('["Infinity",\n-Infinity]', 2),
        ("[1,\n1e999]", 2),
        ("[\n" + "9" * 5000 + "]", 2),
        ("[" * 10**6, 1),
        ("", 1),
        ('{"a":\n' * 10**5, 65),
        ('["\\ud83d\\ude00",\n"\\ud800"]', 2),
        ('{"\\udfff": 1}', 1),
        ('{"a": 1,\n}', 2),
    ],
)
def test_json_that_has_no_value(text, line):
    with pytest.raises(UserError, match=rf"^f\.json:{line}: "):
        parse_strict(text, "f.json")
    with pytest.raises(UserError, match=rf"^f\.json:{line + 6}: "):
        parse_strict(text, "f.json", 7)


LINES = [
    '{"a": 1, "b": [1.5, "x\\ny", {"c": null}]}',
    ' {"a": true} ',
    '{"a": 1}\r',
    '"\\ud83d\\ude00"',
    '"\\ud800"',
    '{"a": 1, "a": 2}',
    '{"a": 1} {"b": 2}',
    '{"a": 1},',
    '{"a": NaN}',
    '{"a": -Infinity}',
    '{"a": 1e999}',
    '{"a": ' + "9" * 5000 + "}",
    "[" * 64 + "]" * 64,
    "[" * 65 + "]" * 65,
    "[" * 10**5,
    '{"a": "' + "[" * 100 + '"}',
    '{"a": 1',
    '{"a": "x',
    '{"a": "\t"}',
    "",
    "x",
    "3",
]


def _outcome(parse, line: str):
    try:
        return repr(parse(line))
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_a_line_is_read_as_the_whole_text_is(line):
    """Also with each of its first characters left out, and with one doubled."""
    for n in range(min(len(line), 40) + 1):
        for text in (line[:n] + line[n + 1 :], line[:n] + line[n : n + 1] + line[n:]):
            assert _outcome(lambda t: parse_strict_line(t, "f.jsonl", 7), text) == _outcome(
                lambda t: parse_strict(t, "f.jsonl", 7, only=True), text
            )


@pytest.mark.parametrize(
    "name", ["../x.png", "/etc/passwd", "a/../../x", "http://x/y.png", "pipe:ls", "file:///etc/passwd", "", 3]
)
def test_names_of_images_outside_of_their_folder(tmp_path, name):
    with pytest.raises(BadSample, match=r"row 1: image .* must be a name inside"):
        ImageFolder(str(tmp_path)).path(name, "row 1")


def test_links_of_images_out_of_their_folder(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "a.png").write_text("")
    (inside / "b.png").symlink_to(outside / "a.png")
    (inside / "d").symlink_to(outside)
    (inside / "c.png").symlink_to(inside / "a.png")
    folder = ImageFolder(str(inside), option="--symlinks")
    for name in ("b.png", "d/a.png"):
        with pytest.raises(BadSample, match=r"by a symbolic link; allow it with --symlinks"):
            folder.path(name, "row 1")
        assert ImageFolder(str(inside), symlinks=True).path(name, "row 1") == inside / name
    assert folder.path("c.png", "row 1") == inside / "c.png"
    assert folder.path("none.png", "row 1") == inside / "none.png"
    with pytest.raises(BadSample, match="image is missing"):
        folder.locate("none.png", "row 1")
    assert folder.path(str(inside / "a.png"), "row 1") == Path(inside / "a.png")

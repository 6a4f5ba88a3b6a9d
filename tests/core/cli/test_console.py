"""What every command shares: any console encoding, versions, and sub-commands that are listed."""

import argparse
import io
import os
import subprocess
import sys

import pytest
import yaml

import vlm_bench.cli.main
import vlm_llms.export
import vlm_train.cli.main
from vlm_core.cli import assemble, chat
from vlm_core.cli.common import run
from vlm_core.cli.console import SUBSTITUTES, text
from vlm_core.errors import UserError

COMMANDS = {
    "vlm-assemble": assemble.main,
    "vlm-chat": chat.main,
    "vlm-train": vlm_train.cli.main.main,
    "vlm-bench": vlm_bench.cli.main.main,
    "export": vlm_llms.export.main,
}


def printed(monkeypatch, encoding, main, *arguments):
    """What a command writes to a console of this encoding -> (exit code, bytes)."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "argv", ["prog", *map(str, arguments)])
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        try:
            code = main()
        except SystemExit as stop:
            code = stop.code
    for stream in streams:
        stream.flush()
    return code, b"".join(stream.buffer.getvalue() for stream in streams)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_any_console_encoding_takes_the_output(monkeypatch, encoding, tiny_spec, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_spec | {"name": "größe"}, allow_unicode=True), encoding="utf-8")
    code, output = printed(monkeypatch, encoding, assemble.main, path, "--check")
    assert code == 0
    lines = output.decode(encoding)
    cross, arrow = ("x", "->") if encoding == "ascii" else ("×", "→" if encoding == "utf-8" else "->")
    assert f"2{cross}2 = 4 patches of width 16 {arrow} 4 visual tokens" in lines
    assert ("gr\\xf6\\xdfe" if encoding == "ascii" else "größe") in lines


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_user_error_is_told_on_any_console(monkeypatch, encoding):
    code, output = printed(monkeypatch, encoding, chat.main, "modèle-日本")
    assert code == 2
    assert b"\\u65e5\\u672c: no such model folder" in output


@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_version_on_an_ascii_console(monkeypatch, name):
    code, output = printed(monkeypatch, "ascii", COMMANDS[name], "--help")
    assert (code, b"usage: " in output) == (0, True)
    code, output = printed(monkeypatch, "ascii", COMMANDS[name], "--version")
    assert code == 0
    assert b"vlm-core 0." in output
    assert b"torch " in output


def test_every_substitute_is_ascii():
    assert all(plain.isascii() for plain in SUBSTITUTES.values())


@pytest.mark.slow
def test_the_c_locale_of_a_real_process(tiny_spec, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_spec))
    env = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    code = "import sys; from vlm_core.cli.assemble import main; sys.exit(main())"
    command = [sys.executable, "-c", code, str(path), "--check"]
    done = subprocess.run(command, env=env, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"2x2 = 4 patches" in done.stdout


@pytest.mark.parametrize(
    ("name", "arguments", "listed"),
    [
        ("vlm-train", [], ["run", "check", "preview", "plan", "report", "sweep"]),
        ("vlm-bench", [], ["run", "score", "submit", "judge", "report", "diff"]),
        ("vlm-bench", ["score"], ["pope", "vqa-v2", "mm-vet"]),
        ("vlm-bench", ["judge"], ["mm-vet"]),
    ],
)
def test_a_command_without_arguments_lists_its_commands(monkeypatch, name, arguments, listed):
    code, output = printed(monkeypatch, "utf-8", COMMANDS[name], *arguments)
    assert code == 2
    assert output.decode().rstrip().endswith("expected one of these commands")
    assert all(f"    {command} " in output.decode() for command in listed)


def test_text_is_read_as_utf_8_whatever_the_locale_made_of_it():
    assert text("größe") == "größe"
    assert text("gr\udcc3\udcb6\udcc3\udc9fe") == "größe"
    with pytest.raises(UserError, match="not UTF-8"):
        text("\udcff\udcfe")


def test_a_stream_that_cannot_be_reconfigured_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert run(argparse.ArgumentParser(), lambda args: sys.stdout.write("→") and 0, []) == 0
    assert sys.stdout.getvalue() == "→"

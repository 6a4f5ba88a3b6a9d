"""Fixtures of the core's tests."""

import sys

import pytest


@pytest.fixture
def cli(monkeypatch, capsys):
    """`cli(main, *arguments)` runs a command -> (exit code, stdout, stderr)."""

    def call(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["prog", *map(str, arguments)])
        try:
            code = main()
        except SystemExit as stop:  # argparse
            code = stop.code
        out = capsys.readouterr()
        return code, out.out, out.err

    return call

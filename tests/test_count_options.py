"""One rule for every number on a command line: ASCII digits alone, in a range, refused in this project's words."""

import argparse

import pytest

from vlm_bench.cli.main import build_parser as bench
from vlm_core.cli.assemble import _parser as assemble
from vlm_core.cli.chat import _parser as chat
from vlm_serve.cli.options import build_parser as serve
from vlm_serve.cli.predict import _parser as predict
from vlm_train.cli.main import _parser as train

NO_NUMBERS = ["²", "٣", "1_0", " 1", "1 ", "1.0", "1e3", "0x1", "one", "", "9" * 5000]
RANGES = {"--nnodes"}
"""`2:4` is a range of nodes, which the launcher checks."""


def options(parser):
    """Every option of a parser and of its sub-commands that takes a value."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from options(child)
        elif action.option_strings and action.nargs != 0:
            yield parser, action


def counts():
    """The options whose value is shown as N or whose default is a whole number."""
    for parser in (train(), bench(), assemble(), chat(), predict(), serve()):
        for command, action in options(parser):
            names = set(action.option_strings)
            if (action.metavar == "N" or type(action.default) is int) and not names & RANGES:
                yield command, action


def test_the_options_that_take_a_number_are_found():
    names = {name for _, action in counts() for name in action.option_strings}
    assert {
        "--nproc",
        "--rows",
        "--jobs",
        "--num-workers",
        "--max-restarts",
        "--batch-size",
        "--runs",
    } <= names
    assert {"--max-new-tokens", "--seed", "--gpus", "--text-tokens", "--concurrency"} <= names
    assert {"--port", "--slots", "--max-image-pixels"} <= names
    assert {"--max-new-tokens", "--seed", "--gpus", "--text-tokens"} <= names


def test_no_option_is_read_by_int():
    """`int` accepts digits of any script and underscores, and its message is argparse's."""
    for parser in (train(), bench(), assemble(), chat(), predict(), serve()):
        assert not [action.option_strings for _, action in options(parser) if action.type is int]


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_is_no_number_is_refused_in_one_way(text):
    for command, action in counts():
        with pytest.raises(argparse.ArgumentError, match=r"expected a whole number.*, got "):
            command._get_values(action, [text])


def test_nodes_are_counted_in_ascii_digits():
    from vlm_core.errors import UserError
    from vlm_train.distributed import launch

    args = train().parse_args(["run", "s.yaml", "--nnodes", "1٣", "--rdzv-endpoint", "a:1"])
    with pytest.raises(UserError, match="--nnodes 1٣: expected a number, or MIN:MAX"):
        launch._nodes(args)

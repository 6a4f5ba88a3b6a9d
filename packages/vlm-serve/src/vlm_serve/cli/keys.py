"""`vlm-serve keys`: add, list and remove API keys."""

from __future__ import annotations

import argparse
import sys

from vlm_core.cli.common import Parser, add_debug, local_path
from vlm_core.cli.output import say
from vlm_serve.api.guard.keys import add_key, read_keys, remove_key


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="vlm-serve keys", description="Add, list and remove the API keys of a server.")
    commands = parser.add_subparsers(dest="action", required=True, metavar="COMMAND")
    for name, text in [
        ("add", "make a key and print it; the file keeps only its hash"),
        ("list", "print the names of the keys"),
        ("remove", "remove a key; a running server refuses it within a second"),
    ]:
        child = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if name != "list":
            child.add_argument("name", metavar="NAME", help="whose key it is")
        child.add_argument("--keys", type=local_path, required=True, metavar="FILE", help="file of keys")
        add_debug(child)
    return parser


def command(args: argparse.Namespace) -> int:
    if args.action == "add":
        key = add_key(args.keys, args.name)
        say(f"the key of {args.name}; it is shown this once:", file=sys.stderr)
        say(key)
    elif args.action == "remove":
        remove_key(args.keys, args.name)
        say(f"{args.keys}: removed the key of {args.name}")
    else:
        for entry in read_keys(args.keys):
            say(f"{entry.name}  sk-vlm-{entry.id}-…  {entry.created}")
    return 0

"""`--url` and what belongs to it, of every command that asks a local model or a server."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING

from vlm_core.cli.common import seconds_above_zero
from vlm_core.errors import UserError

if TYPE_CHECKING:
    from vlm_core.remote import ChatClient

_WITH_URL = ("served_model", "api_key_env", "timeout")


def add_server(parser: argparse.ArgumentParser) -> None:
    """Add `--url`, `--model`, `--api-key-env` and `--timeout`."""
    group = parser.add_argument_group(
        "a server", "instead of a model folder; images are sent to it as they are"
    )
    group.add_argument(
        "--url",
        metavar="URL",
        help="address of any OpenAI-compatible server, such as http://localhost:8000/v1",
    )
    group.add_argument(
        "--model",
        dest="served_model",
        metavar="NAME",
        help="the server's model (default: the only one that it lists)",
    )
    group.add_argument(
        "--api-key-env",
        metavar="VARIABLE",
        help="environment variable with the server's API key (default: no key is sent)",
    )
    group.add_argument(
        "--timeout",
        type=seconds_above_zero,
        metavar="SECONDS",
        help="give up when the server sends nothing for so long (default: 600)",
    )


def check_server(args: argparse.Namespace, local: Iterable[str]) -> None:
    """Raise `UserError` unless the options are those of a model folder, or those of a server.

    `local` are the names of options that a server can't honour; they are None, False or an empty list by default.
    """
    if args.url is None:
        if given := [name for name in _WITH_URL if getattr(args, name) is not None]:
            raise UserError(f"{_option(given[0])} is for --url, which is not given")
        if args.model is None:
            raise UserError("name a model folder, or a server with --url")
        return
    if args.model is not None:
        raise UserError(
            f"{args.model}: a model folder, and --url names a server: leave out one of them; --model names the "
            "server's model"
        )
    if given := [name for name in local if getattr(args, name) not in (None, False, [])]:
        raise UserError(f"{_option(given[0])}: it is for a model in this process, not for --url")


def client_of(args: argparse.Namespace) -> ChatClient:
    """A client of the server that the options name; raises `UserError` for a wrong address or a missing key."""
    from vlm_core.remote import ChatClient, server_at
    from vlm_core.remote.server import TIMEOUT_S

    return ChatClient(server_at(args.url, args.api_key_env, args.timeout or TIMEOUT_S))


def _option(name: str) -> str:
    return "--model" if name == "served_model" else f"--{name.replace('_', '-')}"

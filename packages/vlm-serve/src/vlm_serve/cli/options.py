"""The options of `vlm-serve MODEL`, and the settings that they make."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vlm_core.cli.common import DTYPES, Parser, add_trust, count, local_path
from vlm_core.errors import UserError
from vlm_serve.api.guard.settings import ServerSettings
from vlm_serve.api.schema.places import sentence
from vlm_serve.cli.argument_types import (
    host_pattern,
    network,
    origin,
    port,
    seconds,
    seconds_or_never,
    size,
)


def build_parser(description: str | None = None) -> argparse.ArgumentParser:
    """The parser, whose destinations are fields of `ServerSettings`; an option that is left out sets none."""
    parser = Parser(
        prog="vlm-serve",
        usage="vlm-serve [OPTION …] MODEL",
        description=description,
        argument_default=argparse.SUPPRESS,
        epilog="`vlm-serve keys --help` is about API keys. docs/serving.md of the repository describes everything.",
    )
    parser.add_argument("model", type=local_path, metavar="MODEL", help="a model folder")
    _add_model(parser.add_argument_group("model"))
    _add_access(parser.add_argument_group("network and access"))
    _add_images(parser.add_argument_group("images"))
    _add_limits(parser.add_argument_group("limits"))
    _add_responses(parser.add_argument_group("stored responses"))
    _add_engine(parser.add_argument_group("engine"))
    _add_cache(parser.add_argument_group("state cache"))
    return parser


def _add_model(group: Any) -> None:
    group.add_argument(
        "--name", dest="model_name", metavar="NAME", help="its name in the API; default: the spec's"
    )
    group.add_argument(
        "--device",
        dest="devices",
        action="append",
        metavar="DEVICE",
        help="cpu, cuda, cuda:1, …; repeated: a replica on each; default: cuda if available, else cpu",
    )
    group.add_argument("--dtype", choices=DTYPES, help="convert weights to this dtype; default: as saved")
    add_trust(group)
    group.add_argument(
        "--reload",
        action="store_true",
        help="load the folder's new content once it has changed; needs memory for both meanwhile. Default: a change "
        "is reported in the log and by /health only",
    )


def _add_access(group: Any) -> None:
    group.add_argument("--host", metavar="ADDRESS", help="default 127.0.0.1: this machine only")
    group.add_argument("--port", type=port, metavar="N", help="default 8000; 0: any free one")
    group.add_argument(
        "--keys", dest="keys_file", type=local_path, metavar="FILE", help="require an API key of this file"
    )
    group.add_argument("--no-keys", action="store_true", help="accept other machines without a key")
    group.add_argument("--open-metrics", action="store_true", help="/metrics needs no key")
    group.add_argument(
        "--allow-origin",
        dest="allowed_origins",
        type=origin,
        action="append",
        metavar="ORIGIN",
        help="pages of this origin may call the API; may be repeated; default: none",
    )
    group.add_argument(
        "--allow-host",
        dest="allowed_hosts",
        action="append",
        metavar="NAME",
        help="without keys: a name under which the server may be reached, beside addresses and localhost",
    )
    group.add_argument(
        "--behind-proxy",
        dest="trusted_proxies",
        type=network,
        action="append",
        metavar="ADDRESS",
        help="a reverse proxy whose X-Forwarded-For names the client; may be repeated",
    )
    group.add_argument("--no-access-log", dest="access_log", action="store_false", help="log no requests")


def _add_images(group: Any) -> None:
    group.add_argument(
        "--allow-image-host",
        dest="image_hosts",
        type=host_pattern,
        action="append",
        metavar="HOST",
        help="fetch https images from this host (*.example.org: all below it); may be repeated; default: none",
    )
    group.add_argument(
        "--allow-image-folder",
        dest="image_folders",
        type=local_path,
        action="append",
        metavar="DIR",
        help="read file: URLs inside this folder; may be repeated; default: none",
    )
    group.add_argument(
        "--image-timeout", type=seconds, metavar="S", help="seconds for fetching one; default 10"
    )
    group.add_argument(
        "--max-images", type=count, metavar="N", help="of one request, videos included; default 32"
    )
    group.add_argument(
        "--max-image-size", dest="max_image_bytes", type=size, metavar="SIZE", help="of a file; default 20MiB"
    )
    group.add_argument(
        "--max-image-pixels",
        type=count,
        metavar="N",
        help="known before an image is decoded; default 64000000",
    )


def _add_limits(group: Any) -> None:
    for name, dest, text in [
        ("--max-body", "max_body_bytes", "of a request; default 64MiB"),
        ("--max-pending", "max_pending_bytes", "of all requests without an answer yet; default 1GiB"),
    ]:
        group.add_argument(name, dest=dest, type=size, metavar="SIZE", help=f"body {text}")
    for name, text in [
        ("--max-positions", "positions of a prompt with its answer; default 16384"),
        ("--max-choices", "the largest n of a request; default 8"),
        ("--max-connections", "default 1024"),
        ("--max-queue", "requests that wait for a slot; default 256"),
    ]:
        group.add_argument(name, type=count, metavar="N", help=text)
    group.add_argument(
        "--rate",
        dest="requests_per_minute",
        type=count,
        metavar="N",
        help="requests per minute for each key, or each address without keys; default: no limit",
    )
    group.add_argument("--burst", type=count, metavar="N", help="with --rate: requests at once; default 20")
    for name, text in [
        ("--header-timeout", "for a request's head; default 10"),
        ("--body-timeout", "for a request's body; default 60"),
        ("--send-timeout", "for a client to read the next part of an answer; default 30"),
        ("--keep-alive-timeout", "for a connection without a request; default 15"),
        ("--answer-timeout", "for an answer, waiting included; default 600"),
        ("--grace", "for answers that were begun when the server is stopped; default 30"),
    ]:
        group.add_argument(name, type=seconds, metavar="S", help=f"seconds {text}")


def _add_responses(group: Any) -> None:
    group.add_argument(
        "--max-responses",
        type=partial(count, least=0, most=1_000_000),
        metavar="N",
        help="stored responses; default 10000; 0: none",
    )
    group.add_argument(
        "--response-memory",
        dest="response_bytes",
        type=size,
        metavar="SIZE",
        help="of stored responses with their images; default 256MiB",
    )
    group.add_argument(
        "--response-age",
        type=partial(seconds, most=31_536_000),
        metavar="S",
        help="seconds for which a response is stored; default 2592000, 30 days",
    )


def _add_engine(group: Any) -> None:
    group.add_argument(
        "--slots",
        dest="max_slots",
        type=count,
        metavar="N",
        help="answers computed at once on each device; default 16",
    )
    group.add_argument(
        "--state-memory",
        dest="memory_bytes",
        type=size,
        metavar="SIZE",
        help="budget of live states on each device; default: that of all slots, or what a GPU has room for",
    )
    group.add_argument(
        "--prefill-chunk",
        type=count,
        metavar="N",
        help="positions of a prompt that are read between two steps of decoding; default 512",
    )
    group.add_argument(
        "--image-chunk",
        type=count,
        metavar="N",
        help="views of an image, or frames of a video, that are encoded between two steps of decoding; default 8",
    )
    group.add_argument(
        "--worker-timeout",
        type=seconds_or_never,
        metavar="S",
        help="seconds for one step of a worker process, and four times as many to load the model; a process that "
        "exceeds them is killed and started again; default 300; 0: never",
    )


def _add_cache(group: Any) -> None:
    group.add_argument(
        "--cache-memory",
        dest="cache_bytes",
        type=size,
        metavar="SIZE",
        help="budget of cached states on each device; default 512MiB; 0: no cache",
    )
    group.add_argument(
        "--cache-folder", type=local_path, metavar="DIR", help="keep cached states here across restarts"
    )
    group.add_argument(
        "--cache-folder-size", dest="cache_folder_bytes", type=size, metavar="SIZE", help="default 8GiB"
    )
    group.add_argument(
        "--shared-cache",
        action="store_true",
        help="one key's cached states may speed up another's requests, which shows that a prompt was asked before",
    )


def settings_of(args: argparse.Namespace) -> ServerSettings:
    """The settings of a command line; raises `UserError` for values that contradict each other."""
    values = {name: value for name, value in vars(args).items() if name in ServerSettings.model_fields}
    if "keys_file" in values and getattr(args, "no_keys", False):
        raise UserError("--keys and --no-keys contradict each other")
    if values.get("shared_cache") and "keys_file" not in values:
        raise UserError(
            "--shared-cache is about several API keys; without --keys all requests share the cache"
        )
    if "burst" in values and "requests_per_minute" not in values:
        raise UserError("--burst is for --rate, which is not given")
    if "cache_folder_bytes" in values and "cache_folder" not in values:
        raise UserError("--cache-folder-size is for --cache-folder, which is not given")
    if "allowed_hosts" in values and "keys_file" in values:
        raise UserError("--allow-host is for a server without keys; with --keys it answers under any name")
    if "image_timeout" in values and "image_hosts" not in values:
        raise UserError("--image-timeout is for --allow-image-host, which is not given")
    for folder in values.get("image_folders", ()):
        _require_folder(folder)
    try:
        settings = ServerSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{_option(first['loc'][0])}: {sentence(first)}") from None
    _check_exposure(settings, open_to_all=getattr(args, "no_keys", False))
    return settings


def _option(field: object) -> str:
    """The option that sets a field."""
    return next(a.option_strings[0] for a in build_parser()._actions if a.dest == field and a.option_strings)


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"--allow-image-folder {folder}: no such folder")


def _check_exposure(settings: ServerSettings, *, open_to_all: bool) -> None:
    """Other machines are let in with keys, or where the user says that none are wanted."""
    from vlm_serve.cli.listen import is_loopback

    if settings.needs_key or open_to_all or is_loopback(settings.host):
        return
    raise UserError(
        f"--host {settings.host} lets other machines in: ask for keys with --keys FILE (vlm-serve keys add NAME "
        "--keys FILE makes one), or say --no-keys"
    )

"""Serve a model folder: an OpenAI-compatible API and a chat page. `vlm-serve keys` manages API keys."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from vlm_core.cli.common import run
from vlm_core.errors import UserError
from vlm_core.io.atomic import require_writable_folder, write_errors
from vlm_core.io.manifest import read_manifest
from vlm_serve.api.guard.keys import read_keys
from vlm_serve.cli import keys, options
from vlm_serve.cli.listen import bound_socket


def main(argv: Sequence[str] | None = None) -> int:
    """The command `vlm-serve`; a model folder with the name `keys` is `./keys`."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["keys"]:
        return run(keys.build_parser(), keys.command, words[1:], package="vlm-serve")
    return run(options.build_parser(__doc__), _serve, words, package="vlm-serve")


def _serve(args: argparse.Namespace) -> int:
    """What needs no torch is checked first, so that it is told at once."""
    settings = options.settings_of(args)
    read_manifest(settings.model)
    if settings.keys_file is not None and not read_keys(settings.keys_file):
        text = f"vlm-serve keys add NAME --keys {settings.keys_file}"
        raise UserError(
            f"{settings.keys_file}: has no key, so that nobody could use the server; {text} adds one"
        )
    if settings.cache_folder is not None:
        require_writable_folder(settings.cache_folder)
        with write_errors(settings.cache_folder):
            settings.cache_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with bound_socket(settings.host, settings.port) as sock:
        from vlm_serve.cli.serve import serve

        return serve(settings, sock)


if __name__ == "__main__":
    sys.exit(main())

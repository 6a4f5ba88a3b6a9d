"""Serve a model folder: an OpenAI-compatible API and a chat page. `vlm-serve keys` manages API keys."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from vlm_core.cli.common import run
from vlm_serve.cli import keys, options


def main(argv: Sequence[str] | None = None) -> int:
    """The command `vlm-serve`; a model folder with the name `keys` is `./keys`."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["keys"]:
        return run(keys.build_parser(), keys.command, words[1:], package="vlm-serve")
    return run(options.build_parser(__doc__), _serve, words, package="vlm-serve")


def _serve(args: argparse.Namespace) -> int:
    settings = options.settings_of(args)
    from vlm_serve.cli.serve import serve  # torch

    return serve(settings)


if __name__ == "__main__":
    sys.exit(main())

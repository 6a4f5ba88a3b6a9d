"""Options of how an answer is made."""

from __future__ import annotations

import argparse
from functools import partial

from vlm_core.cli.common import count
from vlm_core.errors import UserError


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add `--max-new-tokens`, `--temperature`, `--top-p` and `--seed`."""
    parser.add_argument(
        "--max-new-tokens", type=count, default=256, metavar="N", help="limit of an answer; default 256"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="X",
        help="sampling temperature; default 0: greedy decoding",
    )
    parser.add_argument(
        "--top-p", type=float, default=1.0, metavar="P", help="nucleus sampling; default 1: all tokens"
    )
    seed = partial(count, least=0, most=2**63 - 1)
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="random seed of sampling; default 0"
    )


def check_sampling(args: argparse.Namespace) -> None:
    """Raise `UserError` for a temperature or a share out of range."""
    if not 0 <= args.temperature <= 100:
        raise UserError(f"--temperature {args.temperature}: expected 0 (greedy) to 100")
    if not 0 < args.top_p <= 1:
        raise UserError(f"--top-p {args.top_p}: expected a share above 0 and at most 1")

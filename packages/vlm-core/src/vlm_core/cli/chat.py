"""`vlm-chat`: ask a model about an image, once or in a conversation."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_core.cli.common import DTYPES, run
from vlm_core.errors import UserError

if TYPE_CHECKING:
    from vlm_core.conversation import Conversation
    from vlm_core.generate import Decoding

_HELP = "/image FILE shows an image with the next question, /new starts afresh, /quit or Ctrl-D ends"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vlm-chat", description=__doc__, epilog=f"In a conversation: {_HELP}."
    )
    parser.add_argument("model", metavar="MODEL", help="a model folder")
    parser.add_argument("--image", type=Path, metavar="FILE", help="an image to talk about")
    parser.add_argument("--ask", metavar="TEXT", help="ask this, print the answer and leave")
    parser.add_argument("--max-new-tokens", type=int, default=256, metavar="N")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--top-p", type=float, default=1.0, help="nucleus sampling")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, …")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights; by default as they were saved")
    return parser


def _checked(args: argparse.Namespace) -> None:
    if not 0 <= args.temperature <= 100:
        raise UserError(f"--temperature {args.temperature}: expected 0 (greedy) to 100")
    if not 0 < args.top_p <= 1:
        raise UserError(f"--top-p {args.top_p}: expected a share above 0 and at most 1")
    if args.max_new_tokens < 1:
        raise UserError(f"--max-new-tokens {args.max_new_tokens}: expected at least 1")
    if args.image and not args.image.is_file():
        raise UserError(f"{args.image}: no such image file")
    if not Path(args.model).is_dir():
        raise UserError(f"{args.model}: no such model folder; vlm-assemble and vlm-train write them")


def chat(args: argparse.Namespace) -> int:
    _checked(args)
    import torch

    from vlm_core.assemble import load
    from vlm_core.chat import refuse_unsaid
    from vlm_core.conversation import Conversation
    from vlm_core.generate import Decoding

    dtype = args.dtype and getattr(torch, args.dtype)
    model, spec = load(args.model, dtype=dtype, device=args.device)
    if args.ask is None:  # an empty question about an image is a caption's
        refuse_unsaid(spec.template)
    talk = Conversation(model, spec.template)
    decoding = Decoding(args.max_new_tokens, args.temperature, args.top_p, args.seed)
    if args.image:
        talk.show(args.image)
    if args.ask is not None:
        _say(talk, args.ask, decoding)
        return 0
    print(f"{spec.name}: {_HELP}")
    return _interact(talk, decoding)


def _say(talk: Conversation, question: str, decoding: Decoding) -> None:
    for piece in talk.ask(question, decoding):
        print(piece, end="", flush=True)
    print()


def _interact(talk: Conversation, decoding: Decoding) -> int:
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return 0
        try:
            if line == "/quit":
                return 0
            if line == "/new":
                talk.reset()
            elif line.startswith("/image "):
                talk.show(Path(line.removeprefix("/image ").strip()))
            elif line.startswith("/"):
                print(_HELP)
            elif line:
                _say(talk, line, decoding)
        except UserError as error:  # a wrong path must not end the conversation
            print(error, file=sys.stderr)


def main() -> int:
    return run(_parser(), chat)

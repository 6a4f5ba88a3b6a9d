"""`vlm-chat`: ask a model, or a server, about images and videos: one question, or a conversation."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from vlm_core.cli.common import DTYPES, Parser, add_trust, path_text, run
from vlm_core.cli.console import text
from vlm_core.cli.output import print_piece, say
from vlm_core.cli.prompt import Interrupt, converse, image_files
from vlm_core.cli.remote import add_server, chat_with_server, check_server
from vlm_core.cli.sampling import add_sampling, check_sampling
from vlm_core.cli.watch import add_watch, check_watch, watch, watch_source
from vlm_core.errors import UserError
from vlm_core.io.manifest import require_model_folder
from vlm_core.io.paths import expanded

if TYPE_CHECKING:
    from vlm_core.generation.conversation import Conversation
    from vlm_core.generation.sampling import GenerationConfig
    from vlm_core.states.cache import StateCache
    from vlm_core.states.manifest import SavedStream

_HELP = (
    "/image FILE … and /video FILE … add images and videos to the next question, /new starts a new conversation, "
    "/save FILE writes this one to a file, /cache shows the state cache, Ctrl-C stops an answer, /quit or Ctrl-D exits"
)
_LOCAL_OPTIONS = (
    "device",
    "dtype",
    "save",
    "resume",
    "convert_state",
    "state_cache",
    "watch",
    "trust_remote_code",
)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="vlm-chat", description=__doc__, epilog=f"In a conversation: {_HELP}.")
    parser.add_argument("model", nargs="?", type=path_text, metavar="MODEL", help="a model folder")
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="FILE",
        help="image for the first question; may be repeated",
    )
    parser.add_argument(
        "--video",
        action="append",
        default=[],
        metavar="FILE",
        help="video for the first question, after its images; may be repeated. The spec's views.video says which "
        "frames are read",
    )
    parser.add_argument("--ask", metavar="TEXT", help="ask this question, print the answer and exit")
    add_sampling(parser)
    parser.add_argument("--device", help="cpu, cuda, cuda:1, …; default: cuda if available, else cpu")
    parser.add_argument("--dtype", choices=DTYPES, help="convert weights to this dtype; default: as saved")
    _add_states(parser)
    add_server(parser)
    add_watch(parser)
    add_trust(parser)
    return parser


def _add_states(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--save",
        type=path_text,
        metavar="FILE",
        help="write the conversation, or with --watch the state of the stream, to this file when it ends",
    )
    parser.add_argument(
        "--resume",
        type=path_text,
        metavar="FILE",
        help="continue the conversation that --save or /save wrote, or the stream: with the frames of --watch, or "
        "with questions alone",
    )
    parser.add_argument(
        "--convert-state",
        action="store_true",
        help="allow --resume for a state of the same model in another --dtype",
    )
    parser.add_argument(
        "--state-cache",
        type=path_text,
        metavar="DIR",
        help="also keep the states of images and prompts in this folder, which several processes may share; default: "
        "in memory alone",
    )


def _check(args: argparse.Namespace) -> SavedStream | None:
    """Raise `UserError` for options that can't be used -> the stream that is resumed, if one is."""
    check_server(args, _LOCAL_OPTIONS)
    stream = None
    if args.resume:
        from vlm_core.generation.session_file import read_manifest

        stream = read_manifest(args.resume).stream
    check_watch(args, stream)
    check_sampling(args)
    if args.ask is not None and not args.ask.strip() and not (args.image or args.video or args.watch):
        raise UserError("--ask: the question is empty, and there is no --image or --video to describe")
    if args.convert_state and not args.resume:
        raise UserError("--convert-state is for --resume, which is not given")
    if args.url is None:
        require_model_folder(args.model)
    if args.save:
        from vlm_core.generation.session_file import check_target

        check_target(args.save)
    return stream


def chat(args: argparse.Namespace) -> int:
    stream = _check(args)
    images = [path for name in args.image for path in image_files(name, quoted=False)]
    videos = [path for name in args.video for path in image_files(name, quoted=False, medium="video")]
    if args.url is not None:
        return chat_with_server(args, images, videos)
    frames = watch_source(args)
    import torch

    from vlm_core.generation.conversation import Conversation
    from vlm_core.generation.sampling import GenerationConfig
    from vlm_core.model_folder.assemble import default_device, load, make_current
    from vlm_core.text.render import require_question

    device = args.device or default_device()
    dtype = args.dtype and getattr(torch, args.dtype)
    model, spec = load(args.model, dtype=dtype, device=device, trust_remote_code=args.trust_remote_code)
    make_current(device)
    watching = frames is not None or stream is not None
    if args.ask is None or (watching and args.ask.strip()):  # --ask "" asks for a caption
        require_question(spec.template)
    decoding = GenerationConfig(args.max_new_tokens, args.temperature, args.top_p, args.seed)
    if watching:
        return watch(args, model, frames, spec.template, decoding, f"{spec.name} on {device}")
    cache = _state_cache(args)
    conversation = Conversation(model, spec.template, cache)
    if args.resume:
        conversation = Conversation.load(args.resume, model, spec.template, cache, convert=args.convert_state)
    for path in images:
        conversation.show(path)
    for path in videos:
        conversation.show_video(path)
    if args.ask is not None:
        _answer(conversation, text(args.ask), decoding)
    else:
        say(f"{spec.name} on {device}: {_HELP}")
        if args.resume:
            say(
                f"{args.resume}: {len(conversation.messages)} messages, {conversation.history.positions} positions"
            )
        converse(lambda line: _execute(conversation, line, decoding))
    if args.save:
        conversation.save(args.save)
    if args.state_cache:
        say(f"state cache: {cache.stats}", file=sys.stderr)
    return 0


def _state_cache(args: argparse.Namespace) -> StateCache:
    from vlm_core.states.cache import StateCache
    from vlm_core.states.disk_cache import DiskCache

    return StateCache(disk=DiskCache(args.state_cache) if args.state_cache else None)


def _answer(conversation: Conversation, question: str, decoding: GenerationConfig) -> None:
    """Print the answer as it is generated."""
    for piece in conversation.ask(question, decoding):
        print_piece(piece)
    print()


def _execute(conversation: Conversation, line: str, decoding: GenerationConfig) -> None:
    """Execute a command, or answer a question."""
    command, _, arguments = line.partition(" ")
    if command == "/new" and not arguments:
        conversation.reset()
    elif command == "/save" and arguments:
        conversation.save(path := expanded(arguments.strip("'\"")))
        say(f"{path}: {conversation.history.positions} positions")
    elif command == "/cache" and not arguments and conversation.reader.cache is not None:
        say(f"state cache: {conversation.reader.cache.stats}")
    elif command == "/image" and arguments:
        for path in image_files(arguments, quoted=True):
            conversation.show(path)
    elif command == "/video" and arguments:
        for path in image_files(arguments, quoted=True, medium="video"):
            conversation.show_video(path)
    elif line.startswith("/"):
        say(_HELP if line == "/help" else f"{command}: unknown command or wrong arguments. {_HELP}")
    else:
        with Interrupt() as interrupt:
            for piece in conversation.ask(text(line), decoding):
                print_piece(piece)
                if interrupt.received:
                    print(" …", end="")
                    break
        print()


def main() -> int:
    return run(_parser(), chat)

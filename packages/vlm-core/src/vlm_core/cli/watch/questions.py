"""Questions about a stream that is being watched."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vlm_core.cli.console import text
from vlm_core.cli.output import print_piece, say
from vlm_core.cli.prompt import Interrupt, converse
from vlm_core.io.frames.times import clock, seconds

if TYPE_CHECKING:
    from vlm_core.cli.watch.watch_thread import WatchThread
    from vlm_core.generation.sampling import GenerationConfig
    from vlm_core.generation.watch.fork import Fork
    from vlm_core.generation.watch.watcher import Watcher
    from vlm_core.io.frames.source import FrameSource
    from vlm_core.model import VLM
    from vlm_core.text.template import AnyTemplate

HELP = (
    "a question is about the frames so far; /at TIME QUESTION goes back to a kept state, /status says what has been "
    "read, /wait [TIME] waits for the stream, Ctrl-C stops an answer, /quit or Ctrl-D exits"
)


def watch(
    args: argparse.Namespace,
    model: VLM,
    source: FrameSource[Any] | None,
    template: AnyTemplate,
    decoding: GenerationConfig,
    title: str,
) -> int:
    """Watch the source, and answer `--ask` at its end, or typed questions meanwhile.

    Without a source, questions are about the stream of `--resume`, to which no frame is added.
    """
    from vlm_core.cli.watch.watch_thread import WatchThread
    from vlm_core.io.frames.source import no_frames

    watcher = _watcher(args, model, template)
    announce = args.ask is None and source is not None
    thread = WatchThread(watcher, source or no_frames(args.resume), args.fps, announce=announce)
    try:
        if args.ask is not None:
            _wait(thread, None)
            thread.close()
            _answer(thread, thread.fork(), text(args.ask), decoding)
        else:
            say(f"{title} watches {source.name}: {HELP}" if source else f"{title}: {HELP}")
            if args.resume:
                assert watcher.time is not None
                say(f"{args.resume}: {watcher.frames} frames, the last one at {clock(watcher.time)}")
            converse(lambda line: _execute(thread, line, decoding))
        thread.raise_error()
    finally:
        thread.close()
    if args.save:
        from vlm_core.generation.watch.stream_file import save_stream

        save_stream(watcher, args.save)
    return 0


def _watcher(args: argparse.Namespace, model: VLM, template: AnyTemplate) -> Watcher:
    """A new one, or that of `--resume`."""
    from vlm_core.generation.generate import Session
    from vlm_core.generation.watch.kept_states import Keep
    from vlm_core.generation.watch.stream_file import load_stream

    keep = Keep(every=args.keep_every, max_bytes=args.keep_mb * 2**20)
    if args.ask is not None and not args.save:
        keep = None  # nobody can ask about an earlier time
    limit = args.max_frames
    if args.resume:
        return load_stream(
            args.resume, model, template, keep=keep, max_frames=limit, convert=args.convert_state
        )
    return Session(model).watch(
        [], template, keep=keep, max_frames=limit, as_video=bool(args.as_video), record=bool(args.save)
    )


def _execute(thread: WatchThread, line: str, decoding: GenerationConfig) -> None:
    """Execute a command, or answer a question."""
    command, _, arguments = line.partition(" ")
    if command == "/at" and len(words := arguments.split(maxsplit=1)) == 2:
        _answer_with_time(thread, thread.fork(words[0]), words[1], decoding)
    elif line == "/status":
        say(thread.status())
    elif command == "/wait":
        _wait(thread, seconds(arguments) if arguments else None)
    elif line.startswith("/"):
        say(HELP if line == "/help" else f"{command}: unknown command or wrong arguments. {HELP}")
    else:
        _answer_with_time(thread, thread.fork(), line, decoding)


def _wait(thread: WatchThread, time: float | None) -> None:
    """Wait until the frame at this time has been read, or the stream has ended; Ctrl-C ends waiting."""
    with Interrupt() as interrupt:
        while not interrupt.received and not thread.wait(0.05):
            read = thread.watcher.time
            if time is not None and read is not None and read >= time:
                break
    thread.raise_error()


def _answer_with_time(thread: WatchThread, fork: Fork, question: str, decoding: GenerationConfig) -> None:
    assert fork.time is not None
    print(f"[{clock(fork.time)}] ", end="", flush=True)
    _answer(thread, fork, text(question), decoding)


def _answer(thread: WatchThread, fork: Fork, question: str, decoding: GenerationConfig) -> None:
    """Print the answer as it is generated, in turns with the frames that are read."""
    pieces = fork.ask(question, decoding)
    with Interrupt() as interrupt:
        while True:
            with thread.turn:
                piece = next(pieces, None)
            if piece is None:
                break
            print_piece(piece)
            if interrupt.received:
                print(" …", end="")
                break
    print()

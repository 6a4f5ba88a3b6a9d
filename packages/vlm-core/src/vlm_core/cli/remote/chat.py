"""`vlm-chat --url`: a conversation with a model behind an OpenAI-compatible server."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_core.cli.console import text
from vlm_core.cli.output import print_piece, say
from vlm_core.cli.prompt import converse, image_files
from vlm_core.cli.remote.options import client_of
from vlm_core.errors import UserError

if TYPE_CHECKING:
    from vlm_core.remote import RemoteConversation

_HELP = (
    "/image FILE … and /video FILE … add images and videos to the next question, /new starts a new conversation, "
    "/cache shows the tokens of the last prompt and answer, Ctrl-C stops an answer, /quit or Ctrl-D exits"
)
_LOCAL_COMMANDS = ("/save", "/at", "/status", "/wait")
_ENDS = (None, "stop", "length")
"""Ends of an answer that need no explanation."""


def chat_with_server(args: argparse.Namespace, images: list[Path], videos: list[Path]) -> int:
    """Answer `--ask`, or typed questions."""
    from vlm_core.remote import Decoding, RemoteConversation, choose_model

    client = client_of(args)
    model = choose_model(client, args.served_model)
    decoding = Decoding(args.max_new_tokens, args.temperature, args.top_p, args.seed)
    conversation = RemoteConversation(client, model.name, decoding)
    for path in images:
        conversation.show(path)
    for path in videos:
        conversation.show_video(path)
    if args.ask is not None:
        _answer(conversation, text(args.ask))
    else:
        say(f"{model.name} at {client.server.url}: {_HELP}")
        converse(lambda line: _execute(conversation, line))
    return 0


def _execute(conversation: RemoteConversation, line: str) -> None:
    """Execute a command, or answer a question."""
    command, _, arguments = line.partition(" ")
    if command == "/new" and not arguments:
        conversation.reset()
    elif command == "/cache" and not arguments:
        say(_usage(conversation))
    elif command == "/image" and arguments:
        for path in image_files(arguments, quoted=True):
            conversation.show(path)
    elif command == "/video" and arguments:
        for path in image_files(arguments, quoted=True, medium="video"):
            conversation.show_video(path)
    elif command in _LOCAL_COMMANDS:
        say(f"{command}: it is for a model in this process, not for --url. {_HELP}")
    elif line.startswith("/"):
        say(_HELP if line == "/help" else f"{command}: unknown command or wrong arguments. {_HELP}")
    else:
        _interruptible_answer(conversation, text(line))


def _interruptible_answer(conversation: RemoteConversation, question: str) -> None:
    """As `_answer`; Ctrl-C ends the request, also while the server has not begun to answer."""
    before = len(conversation.messages)
    try:
        _answer(conversation, question)
    except KeyboardInterrupt:
        print(" …")
        if len(conversation.messages) == before:
            say("stopped before the first word: the question is not part of the conversation")


def _answer(conversation: RemoteConversation, question: str) -> None:
    """Print the answer as it comes."""
    begun = False
    try:
        with closing(conversation.ask(question)) as pieces:
            for piece in pieces:
                print_piece(piece)
                begun = begun or bool(piece)
    except UserError:
        if begun:
            print(flush=True)  # the message begins a line of its own
        raise
    print()
    if conversation.finish_reason not in _ENDS:
        say(f"the server ended the answer: {conversation.finish_reason:.80}", file=sys.stderr)


def _usage(conversation: RemoteConversation) -> str:
    usage = conversation.usage
    if usage is None or usage.prompt_tokens is None:
        return "no answer yet, or the server counts no tokens"
    cached = "" if usage.cached_tokens is None else f", {usage.cached_tokens} of them from the server's cache"
    answer = "" if usage.completion_tokens is None else f"; answer: {usage.completion_tokens}"
    return f"tokens of the last prompt: {usage.prompt_tokens}{cached}{answer}"

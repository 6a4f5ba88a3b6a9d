"""Frames and commands for tests of `vlm-chat --watch`."""

import sys

from PIL import Image
from watch_cases import watched

from vlm_core.cli import chat
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.markup.printable import printable
from vlm_core.model_folder.assemble import load
from vlm_core.text.template import TEMPLATES

SHORT = TEMPLATES["short"]
ANSWER = GenerationConfig(max_new_tokens=4)
SETTINGS = ("--max-new-tokens", "4", "--device", "cpu")


def pictures(count):
    """Images of different colours."""
    return [Image.new("RGB", (32, 32), (20 * i, 255 - 20 * i, 99)) for i in range(count)]


def call(monkeypatch, capsys, *args):
    """(exit code, output, errors) of `vlm-chat` in this process."""
    monkeypatch.setattr(sys, "argv", ["vlm-chat", *map(str, args), *SETTINGS])
    code = chat.main()
    out, err = capsys.readouterr()
    return code, out, "\n".join(x for x in err.splitlines() if not x.startswith("vlm-core: compiling"))


def expected_answer(model_folder, count, question="red?"):
    """What the model answers about the first `count` frames."""
    model = load(model_folder)[0]
    timed = list(enumerate(pictures(count)))
    return "".join(watched(model, timed, SHORT).fork().ask(question, ANSWER))


def printed(text):
    """As the terminal shows it."""
    return printable(text, lines=True)

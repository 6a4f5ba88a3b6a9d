"""`vlm-train preview`: samples as the model gets them, in the terminal and as one HTML page."""

from __future__ import annotations

import base64
import html
from collections.abc import Container, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

from PIL import Image
from rich.text import Text
from torch import Tensor

from vlm_core.chat import Sample
from vlm_core.interfaces import Tokenizer
from vlm_core.spec import Spec
from vlm_train.config import TrainConfig
from vlm_train.examples import Example, Examples, LeftOut, reader_of
from vlm_train.look import reading_model
from vlm_train.sources import joined, order_of, stage_seed

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
section { border-top: 1px solid #ccc; padding: .8rem 0 1.2rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.2rem; margin-top: 2rem } h3 { font-size: 1rem; margin: .2rem 0 .6rem }
img { height: 12rem; image-rendering: pixelated; border: 1px solid #ccc; margin-right: .6rem }
.tokens { font-family: ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere }
.tokens span { border-radius: 3px; box-shadow: inset 0 0 0 1px #0001 }
.read { background: #eef0f2; color: #555 } .target { background: #b9ecc4; color: #063 }
.image { background: #cfe0fa; color: #135 }
.control { border: 1px solid #86a; color: #507; font-size: .85em; padding: 0 .3em }
.left-out { color: #a00 }
"""


@dataclass(frozen=True)
class Span:
    """Neighbouring positions that are shown together: an image, a control token or text."""

    ids: list[int]
    text: str
    kind: Literal["image", "control", "text"]
    target: bool = False

    @property
    def classes(self) -> str:
        """The style of the page."""
        learnt = "target" if self.target else "read"
        return {"image": "image", "control": f"{learnt} control", "text": learnt}[self.kind]


@dataclass(frozen=True)
class Shown:
    """One sample of a stage, or a row that gives none."""

    stage: str
    row: int
    name: str
    content: Example | LeftOut


def spans(sample: Sample, tokenizer: Tokenizer) -> list[Span]:
    """The positions of a sample token by token; images, and tokens that share a character, are one span."""
    names = {id_: name for name, id_ in tokenizer.control_tokens.items()}
    names.setdefault(tokenizer.eos_id, "end")
    found: list[Span] = []
    held: list[int] = []
    for i, token in enumerate(sample.ids):
        target = sample.is_target[i]
        if sample.is_image[i]:
            if found and found[-1].kind == "image":
                found[-1].ids.append(token)
            else:
                found.append(Span([token], "", "image"))
            continue
        if token in names:
            found.append(Span([token], names[token], "control", target))
            continue
        held.append(token)
        text = tokenizer.decode(held)
        if _ends(sample, i, names) or not text.endswith("\ufffd"):
            found.append(Span(held, text, "text", target))
            held = []
    return found


def _ends(sample: Sample, i: int, names: Container[int]) -> bool:
    """Whether no text of the same sort follows position i."""
    if i + 1 == len(sample):
        return True
    return (
        sample.is_image[i + 1] or sample.ids[i + 1] in names or sample.is_target[i + 1] != sample.is_target[i]
    )


def samples(spec: Spec, train: TrainConfig, count: int) -> list[tuple[Shown, list[Span]]]:
    """The first `count` rows that each stage will read, in that order, and their spans."""
    model, shown = reading_model(spec, train), []
    for number, stage in enumerate(train.stages):
        rows = joined(stage.data)
        reader = reader_of(model, spec, train, stage)
        order = order_of(stage, rows, stage_seed(train.seed, number), model.image_tokens_by_default)
        for position in range(min(count, len(rows))):
            index = order.row_at(position)
            content = Examples(rows, reader.read)[index]
            name = content.name if isinstance(content, LeftOut) else rows[index]["id"]
            tokens = spans(content.sample, reader.tokenizer) if isinstance(content, Example) else []
            shown.append((Shown(stage.name, index, name, content), tokens))
    return shown


def label(span: Span) -> str:
    """What a span shows: text as it is, control tokens in brackets of their own, an image as its positions."""
    if span.kind == "image":
        return f"[image: {len(span.ids)} tokens]"
    return f"⟦{span.text}⟧" if span.kind == "control" else _visible(span.text)


def _visible(text: str) -> str:
    """Line breaks are shown, and other control characters, which a terminal might obey, as their pictures."""
    return "".join(
        "⏎\n" if c == "\n" else chr(0x2400 + ord(c)) if c < " " else "␡" if "\x7f" <= c <= "\x9f" else c
        for c in text
    )


def title(shown: Shown) -> str:
    """One line about a sample."""
    if isinstance(shown.content, LeftOut):
        return f"row {shown.row}, left out: {shown.content.reason}"
    sample = shown.content.sample
    sizes = ", ".join(f"{p.shape[-1]}×{p.shape[-2]}" for p in shown.content.images)
    return (
        f"row {shown.row}, id {shown.name}: {len(sample)} tokens, {sum(sample.is_target)} learnt"
        f"{f', image {sizes}' if sizes else ''}"
    )


def terminal(shown: Shown, tokens: Sequence[Span], color: bool = True) -> Text:
    """A sample for the terminal: what is learnt is green, images are blue, what is only read is dim.

    Without `color`, what is learnt stands between `«` and `»`. Control tokens are in `⟦⟧`, colour or not.
    """
    styles = {"target": "bold green", "image": "blue", "read": "dim"}
    styles |= {"target control": "bold green reverse", "read control": "magenta"}
    text = Text(f"{shown.stage}: {title(shown)}\n", style="bold")
    if isinstance(shown.content, LeftOut):
        return text.append(_visible(shown.content.message) + "\n", style="not bold red")
    learnt = False
    for span in [*tokens, Span([], "", "text")]:
        if span.target != learnt and not color:
            text.append("»" if learnt else "«")
        learnt = span.target
        text.append(label(span), style=f"not bold {styles[span.classes]}")
    return text.append("\n")


def _png(pixels: Tensor) -> str:
    """Pixels (3, height, width) in [0, 1] as a data URL."""
    array = (pixels * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    file = BytesIO()
    Image.fromarray(array).save(file, "png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _section(shown: Shown, tokens: Sequence[Span]) -> str:
    head = f"<section><h3>{html.escape(title(shown))}</h3>"
    if isinstance(shown.content, LeftOut):
        return f'{head}<p class="left-out">{html.escape(shown.content.message)}</p></section>'
    images = "".join(f'<img alt="image {i}" src="{_png(p)}">' for i, p in enumerate(shown.content.images, 1))
    text = "".join(
        f'<span class="{s.classes}" title="{html.escape(" ".join(map(str, s.ids[:8])))}">{html.escape(label(s))}</span>'
        for s in tokens
    )
    return f'{head}<p>{images}</p><div class="tokens">{text}</div></section>'


def page(name: str, found: Sequence[tuple[Shown, Sequence[Span]]]) -> str:
    """All samples as one HTML page that needs no other file."""
    parts, stage = [], None
    for shown, tokens in found:
        if shown.stage != stage:
            stage = shown.stage
            parts.append(f"<h2>Stage {html.escape(stage)}</h2>")
        parts.append(_section(shown, tokens))
    legend = (
        '<p class="tokens"><span class="target">learnt</span> <span class="read">only read</span> '
        '<span class="read control">⟦control token⟧</span> <span class="image">image</span></p>'
        "<p>Images are what the encoder gets. Point at a token for its id.</p>"
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(name)}: samples</title>'
        f"<style>{_STYLE}</style><h1>{html.escape(name)}: samples as the model gets them</h1>{legend}"
        f"{''.join(parts)}</html>\n"
    )

"""`vlm-train preview`: samples as the model gets them, in the terminal and as one HTML page."""

from __future__ import annotations

import base64
from collections.abc import Container, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby
from typing import Any, Literal

from PIL import Image
from rich.text import Text
from torch import Tensor

from vlm_core.diagnose.check import on_meta
from vlm_core.interfaces import Tokenizer
from vlm_core.markup.html import render
from vlm_core.markup.printable import printable
from vlm_core.spec.spec import Spec
from vlm_core.text.pattern import parse
from vlm_core.text.render import TokenizedConversation
from vlm_core.text.template import AnyTemplate, Template, TokenizerTemplate
from vlm_train.config.template_checks import check_templates
from vlm_train.config.train import TrainConfig
from vlm_train.data.dataset import DroppedSample, Example, Examples, sample_processor
from vlm_train.data.mixture import joined, order_of
from vlm_train.seeds import stage_seed


@dataclass(frozen=True)
class Span:
    """Neighbouring positions that are shown together: an image, text that is read or a target, or a control token."""

    ids: list[int]
    text: str
    kind: Literal["image", "target", "read"]
    control: bool = False

    @property
    def style(self) -> str:
        return f"{self.kind} control" if self.control else self.kind


@dataclass(frozen=True)
class Shown:
    """One sample of a stage, or a row that gives none."""

    stage: str
    row: int
    name: str
    content: Example | DroppedSample


def names_of(tokenizer: Tokenizer, template: AnyTemplate | None = None) -> dict[int, str]:
    """Control tokens as the template's author calls them: by their text, EOS `end` where it is written `{eos}`."""
    names = {id_: name for name, id_ in tokenizer.control_tokens.items()}
    patterns = template.model_dump().values() if isinstance(template, Template) else ()
    called = {p.value for pattern in patterns if pattern for p in parse(pattern) if p.kind == "token"}
    if not isinstance(template, TokenizerTemplate) and names.get(tokenizer.eos_id) not in called:
        names[tokenizer.eos_id] = "end"
    return names


def spans(
    sample: TokenizedConversation, tokenizer: Tokenizer, template: AnyTemplate | None = None
) -> list[Span]:
    """The positions of a sample token by token; images, and tokens that share a character, are one span."""
    names = names_of(tokenizer, template)
    found: list[Span] = []
    held: list[int] = []
    for i, token in enumerate(sample.input_ids):
        kind = "image" if sample.image_mask[i] else "target" if sample.loss_mask[i] else "read"
        if kind == "image":
            if found and found[-1].kind == "image":
                found[-1].ids.append(token)
            else:
                found.append(Span([token], "", kind))
            continue
        if token in names:
            found.append(Span([token], f"⟨{names[token]}⟩", kind, control=True))
            continue
        held.append(token)
        text = tokenizer.decode(held)
        if _ends(sample, i, names) or not text.endswith("\ufffd"):
            found.append(Span(held, text, kind))
            held = []
    return found


def _ends(sample: TokenizedConversation, i: int, names: Container[int]) -> bool:
    """Whether no text of the same sort follows position i."""
    if i + 1 == len(sample):
        return True
    return (
        sample.image_mask[i + 1]
        or sample.input_ids[i + 1] in names
        or sample.loss_mask[i + 1] != sample.loss_mask[i]
    )


def samples(spec: Spec, train: TrainConfig, count: int) -> list[tuple[Shown, list[Span]]]:
    """The first `count` rows that each stage will read, in that order, and their spans."""
    model, shown = on_meta(spec), []
    check_templates(spec, train, model.llm.tokenizer)
    for number, stage in enumerate(train.stages):
        rows = joined(stage.data)
        reader = sample_processor(model, spec, train, stage)
        order = order_of(stage, rows, stage_seed(train.seed, number), model.image_tokens_by_default)
        for position in range(min(count, len(rows))):
            index = order.row_at(position)
            content = Examples(rows, reader.read)[index]
            name = content.name if isinstance(content, DroppedSample) else rows[index]["id"]
            tokens = (
                spans(content.sample, reader.tokenizer, reader.template)
                if isinstance(content, Example)
                else []
            )
            shown.append((Shown(stage.name, index, name, content), tokens))
    return shown


def label(span: Span) -> str:
    """What a span shows: text with line breaks made visible, or how many positions an image takes."""
    return f"[image: {len(span.ids)} tokens]" if span.kind == "image" else _visible(span.text)


def _visible(text: str) -> str:
    """Line breaks are shown, control characters, which a terminal might obey, as their pictures, others as escapes."""
    shown = "".join(
        "⏎\n" if c == "\n" else chr(0x2400 + ord(c)) if c < " " else "␡" if "\x7f" <= c <= "\x9f" else c
        for c in text
    )
    return printable(shown, lines=True)


def title(shown: Shown) -> str:
    """One line about a sample."""
    if isinstance(shown.content, DroppedSample):
        return f"row {shown.row}, left out: {shown.content.reason}"
    sample = shown.content.sample
    sizes = ", ".join(f"{p.shape[-1]}×{p.shape[-2]}" for p in shown.content.images)
    return (
        f"row {shown.row}, id {shown.name}: {len(sample)} tokens, {sum(sample.loss_mask)} learnt"
        f"{f', image {sizes}' if sizes else ''}"
    )


_STYLES = {
    "image": "blue",
    "read": "dim",
    "target": "bold green",
    "read control": "magenta",
    "target control": "bold green reverse",
}


def terminal(shown: Shown, tokens: Sequence[Span], color: bool = True) -> Text:
    """A sample for the terminal: targets are green, images blue, control tokens in `⟨⟩` and magenta, the rest dim.

    Without `color`, targets stand between `«` and `»`.
    """
    text = Text(f"{printable(f'{shown.stage}: {title(shown)}')}\n", style="bold")
    if isinstance(shown.content, DroppedSample):
        return text.append(printable(shown.content.message) + "\n", style="not bold red")
    for target, run in groupby(tokens, lambda span: span.kind == "target"):
        marks = ("«", "»") if target and not color else ("", "")
        text.append(marks[0])
        for span in run:
            text.append(label(span).replace("\n", "\n  "), style=f"not bold {_STYLES[span.style]}")
        text.append(marks[1])
    return text.append("\n")


def _png(pixels: Tensor) -> str:
    """Pixels (3, height, width) in [0, 1] as a data URL."""
    array = (pixels * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    file = BytesIO()
    Image.fromarray(array).save(file, "png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def page(name: str, found: Sequence[tuple[Shown, Sequence[Span]]]) -> str:
    """All samples as one HTML page that needs no other file."""
    stages = [
        {"name": stage, "samples": [_sample(*one) for one in those]}
        for stage, those in groupby(found, lambda one: one[0].stage)
    ]
    return render("vlm_train", "preview.html", {"name": name, "stages": stages})


def _sample(shown: Shown, tokens: Sequence[Span]) -> dict[str, Any]:
    """What the page shows of a sample."""
    if isinstance(shown.content, DroppedSample):
        return {"title": title(shown), "fault": shown.content.message}
    cells = [{"style": s.style, "ids": " ".join(map(str, s.ids[:8])), "label": label(s)} for s in tokens]
    images = list(map(_png, shown.content.images))
    return {"title": title(shown), "fault": "", "images": images, "spans": cells}

"""`vlm-train preview`: samples as the model gets them, in the terminal and as one HTML page."""

from __future__ import annotations

import base64
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import groupby
from typing import Any, Literal

from PIL import Image
from rich.text import Text
from torch import Tensor

from vlm_core.diagnose.model_summary import build_on_meta
from vlm_core.interfaces import Tokenizer
from vlm_core.markup.html import render
from vlm_core.markup.printable import printable
from vlm_core.spec.spec import Spec
from vlm_core.text.pattern import parse
from vlm_core.text.render import TokenizedConversation
from vlm_core.text.template import AnyTemplate, Template, TokenizerTemplate
from vlm_core.views.image_views import ImageInput, ImageViews, view_values
from vlm_train.config.template_checks import check_templates
from vlm_train.config.train import TrainConfig
from vlm_train.data.dataset import DroppedSample, Example, Examples, sample_processor
from vlm_train.data.mixture import joined, order_of
from vlm_train.data.order.row_lengths import image_positions
from vlm_train.seeds import stage_seed


@dataclass(frozen=True)
class Span:
    """Adjacent positions that are shown together: an image, text with or without loss, or a control token."""

    ids: list[int]
    text: str
    kind: Literal["image", "target", "read"]
    control: bool = False

    @property
    def style(self) -> str:
        return f"{self.kind} control" if self.control else self.kind


@dataclass(frozen=True)
class SamplePreview:
    """One row of a stage: the sample and its spans, or why the row is dropped."""

    stage: str
    row: int
    name: str
    content: Example | DroppedSample
    spans: Sequence[Span] = ()


def control_names(tokenizer: Tokenizer, template: AnyTemplate | None = None) -> dict[int, str]:
    """Names of control tokens by id: their text; `end` for an EOS that the template writes as `{eos}`."""
    names = {id_: name for name, id_ in tokenizer.control_tokens.items()}
    patterns = template.model_dump().values() if isinstance(template, Template) else ()
    literal = {p.value for pattern in patterns if pattern for p in parse(pattern) if p.kind == "token"}
    if not isinstance(template, TokenizerTemplate) and names.get(tokenizer.eos_id) not in literal:
        names[tokenizer.eos_id] = "end"
    return names


def spans(
    sample: TokenizedConversation, tokenizer: Tokenizer, template: AnyTemplate | None = None
) -> list[Span]:
    """The positions of a sample token by token. An image is one span, and so are tokens that share a character."""
    names = control_names(tokenizer, template)
    result: list[Span] = []
    pending: list[int] = []  # tokens that do not yet form whole characters
    for i, token in enumerate(sample.input_ids):
        kind = "image" if sample.image_mask[i] else "target" if sample.loss_mask[i] else "read"
        if kind == "image":
            if result and result[-1].kind == "image":
                result[-1].ids.append(token)
            else:
                result.append(Span([token], "", kind))
            continue
        if token in names:
            result.append(Span([token], f"⟨{names[token]}⟩", kind, control=True))
            continue
        pending.append(token)
        text = tokenizer.decode(pending)
        if _ends(sample, i, names) or not text.endswith("\ufffd"):
            result.append(Span(pending, text, kind))
            pending = []
    return result


def _ends(sample: TokenizedConversation, i: int, names: Container[int]) -> bool:
    """Whether position i is the last of a stretch of text with the same loss mask."""
    if i + 1 == len(sample):
        return True
    return (
        sample.image_mask[i + 1]
        or sample.input_ids[i + 1] in names
        or sample.loss_mask[i + 1] != sample.loss_mask[i]
    )


def samples(spec: Spec, train: TrainConfig, count: int) -> list[SamplePreview]:
    """The first `count` rows that each stage will read, in the order of training."""
    model, previews = build_on_meta(spec), []
    check_templates(spec, train, model.llm.tokenizer)
    for number, stage in enumerate(train.stages):
        rows = joined(stage.data)
        processor = sample_processor(model, spec, train, stage)
        order = order_of(stage, rows, stage_seed(train.seed, number), partial(image_positions, rows, model))
        for position in range(min(count, len(rows))):
            index = order.row_at(position)
            content = Examples(rows, processor.read)[index]
            if isinstance(content, DroppedSample):
                previews.append(SamplePreview(stage.name, index, content.name, content))
                continue
            tokens = spans(content.sample, processor.tokenizer, processor.template)
            previews.append(SamplePreview(stage.name, index, rows[index]["id"], content, tokens))
    return previews


def label(span: Span) -> str:
    """The text of a span with visible line breaks, or the number of an image's tokens."""
    return f"[image: {len(span.ids)} tokens]" if span.kind == "image" else _visible(span.text)


def _visible(text: str) -> str:
    """Line breaks as `⏎`; control characters, which a terminal would interpret, as Unicode control pictures."""
    visible = "".join(
        "⏎\n" if c == "\n" else chr(0x2400 + ord(c)) if c < " " else "␡" if "\x7f" <= c <= "\x9f" else c
        for c in text
    )
    return printable(visible, lines=True)


def title(preview: SamplePreview) -> str:
    """One line about a sample."""
    if isinstance(preview.content, DroppedSample):
        return f"row {preview.row}, dropped: {preview.content.reason}"
    sample = preview.content.sample
    sizes = ", ".join(map(_size, preview.content.images))
    return (
        f"row {preview.row}, id {preview.name}: {len(sample)} tokens, {sum(sample.loss_mask)} with loss"
        f"{f', image {sizes}' if sizes else ''}"
    )


def _size(image: ImageInput) -> str:
    """`336×336`, or `5 views of 336×336`."""
    view = view_values(image)[0]
    views = f"{len(image)} views of " if isinstance(image, ImageViews) else ""
    return f"{views}{view.shape[-1]}×{view.shape[-2]}"


_STYLES = {
    "image": "blue",
    "read": "dim",
    "target": "bold green",
    "read control": "magenta",
    "target control": "bold green reverse",
}


def terminal(preview: SamplePreview, color: bool = True) -> Text:
    """A sample for the terminal: targets are green, images blue, control tokens in `⟨⟩` and magenta, the rest dim.

    Without `color`, targets are enclosed in `«` and `»`.
    """
    text = Text(f"{printable(f'{preview.stage}: {title(preview)}')}\n", style="bold")
    if isinstance(preview.content, DroppedSample):
        return text.append(printable(preview.content.message) + "\n", style="not bold red")
    for target, run in groupby(preview.spans, lambda span: span.kind == "target"):
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


def page(name: str, previews: Sequence[SamplePreview]) -> str:
    """All samples as one self-contained HTML page."""
    stages = [
        {"name": stage, "samples": list(map(_template_values, group))}
        for stage, group in groupby(previews, lambda preview: preview.stage)
    ]
    return render("vlm_train", "preview.html", {"name": name, "stages": stages})


def _template_values(preview: SamplePreview) -> dict[str, Any]:
    """The values of one sample for `preview.html`."""
    if isinstance(preview.content, DroppedSample):
        return {"title": title(preview), "fault": preview.content.message}
    cells = [
        {"style": s.style, "ids": " ".join(map(str, s.ids[:8])), "label": label(s)} for s in preview.spans
    ]
    images = [_png(view) for image in preview.content.images for view in view_values(image)]
    return {"title": title(preview), "fault": "", "images": images, "spans": cells}

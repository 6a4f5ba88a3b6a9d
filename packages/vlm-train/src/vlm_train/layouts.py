"""Rows as datasets of the hub and webdataset have them, told by the names of their columns, in LLaVA's form."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from vlm_core.errors import BadSample, UserError, choices
from vlm_train.llava_row import PLACEHOLDER, checked

Column = Literal[
    "id", "image", "category", "conversations", "messages", "texts", "question", "answer", "caption"
]
LAYOUTS: tuple[tuple[Column, ...], ...] = (
    ("conversations",), ("messages",), ("texts",), ("question", "answer"), ("caption",),
)  # fmt: skip
"""What may hold the words of a row; of several that are there, the first."""
_SPEAKERS = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}


class Columns:
    """Which of a data file's own names hold what; `given` says where these differ from ours."""

    def __init__(self, given: Mapping[Column, str], names: Collection[str], where: str) -> None:
        for ours, theirs in given.items():
            if theirs not in names:
                raise UserError(f"{where}: has no {theirs!r} for columns.{ours}{choices(theirs, names)}")
        found = {name: name for name in ("id", "image", "category") if name in names}
        if "image" not in names and "images" in names:
            found["image"] = "images"
        wanted = [layout for layout in LAYOUTS if any(name in given for name in layout)] or LAYOUTS
        for layout in wanted:
            theirs = {name: given.get(name, name) for name in layout}
            if all(name in names for name in theirs.values()):
                self.layout, self.names = layout[0], {**found, **theirs, **given}
                return
        known = "; ".join(" + ".join(layout) for layout in LAYOUTS)
        raise UserError(
            f"{where}: no column holds a conversation; known: {known}; there are: {', '.join(sorted(names))}"
            "; say which with columns:"
        )

    @staticmethod
    def fit(names: Collection[str]) -> bool:
        """Whether one of the known layouts is there."""
        return any(all(name in names for name in layout) for layout in LAYOUTS)

    def turns(self, record: Mapping[str, Any], images: int, where: str) -> Any:
        """The conversation of a record with so many images; raises `BadSample`, or leaves faults to `checked`."""
        values = {ours: record.get(theirs) for ours, theirs in self.names.items()}
        if self.layout in ("conversations", "messages"):
            return _spoken(values[self.layout], images)
        if self.layout == "texts":
            pairs = [(t.get("user"), t.get("assistant")) for t in _mappings(values["texts"], "texts", where)]
        elif self.layout == "caption":
            if not images:
                raise BadSample("placeholders", f"{where}: a caption, but no image")
            pairs = [("", values["caption"])]
        else:
            pairs = [(values["question"], values["answer"])]
        turns = [
            {"from": s, "value": v} for pair in pairs for s, v in zip(("human", "gpt"), pair, strict=True)
        ]
        return images_first(turns, images)

    def row(self, record: Mapping[str, Any], images: Sequence[Any], where: str, name: str) -> dict[str, Any]:
        """The record as a row whose images are `images`, called `name` if it has no id; raises `BadSample`."""
        turns = self.turns(record, len(images), where)
        found = record.get(self.names.get("id", "id"))
        category = record.get(self.names["category"]) if "category" in self.names else None
        shaped = {"id": name if found is None else found, "image": list(images), "conversations": turns}
        return checked({**shaped, "category": category}, where)


def _mappings(value: Any, column: str, where: str) -> list[dict[str, Any]]:
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return value
    raise BadSample("schema", f"{where}: {column} must be a list of mappings, got {value!r:.60}")


def _spoken(turns: Any, images: int) -> Any:
    """`from`/`value` or `role`/`content` as LLaVA's turns; what is neither stays, for `checked` to name."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return turns
    if not all("role" in turn for turn in turns):
        return [{**turn, "from": _SPEAKERS.get(str(turn.get("from")), turn.get("from"))} for turn in turns]
    said = [
        {"from": _SPEAKERS.get(str(turn["role"]), turn["role"]), "value": _content(turn.get("content"))}
        for turn in turns
    ]
    return images_first(said, images)


def _content(content: Any) -> Any:
    """Text as it is; parts of `text` and `image`, each on a line of its own."""
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return content
    return "\n".join(
        PLACEHOLDER if part.get("type") == "image" else str(part.get("text") or "") for part in content
    )


def images_first(turns: list[dict[str, Any]], images: int) -> list[dict[str, Any]]:
    """Where no question says where its images stand, all of them stand before the first one."""
    asked = [turn["value"] for turn in turns[::2]]
    placed = not all(isinstance(text, str) and PLACEHOLDER not in text for text in asked)
    if placed or not turns or not images:
        return turns
    first = "\n".join([PLACEHOLDER] * images + ([asked[0]] if asked[0] else []))
    return [{**turns[0], "value": first}, *turns[1:]]

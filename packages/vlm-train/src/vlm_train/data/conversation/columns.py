"""Converts rows of known formats, detected from the names of their keys or columns, to LLaVA's format.

One reader for every format: a file's rows, a table's records, a shard's `.json`. What it doesn't understand is a
`BadSample`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from math import isfinite
from typing import Any, Literal, NamedTuple

from vlm_core.errors import BadSample, UserError, choices
from vlm_train.config.unknown_keys import check_unread, is_empty, must_be_looked_at, suggests_content
from vlm_train.data.conversation.chat_turns import Dialogue, Turn, read_turns
from vlm_train.data.conversation.image_placement import Placing
from vlm_train.data.conversation.image_values import image_value
from vlm_train.data.conversation.llava_schema import check_text

Column = Literal[
    "id", "image", "category", "system", "conversations", "messages", "conversation", "texts", "question", "answer",
    "query", "response", "history", "instruction", "input", "output", "caption",
]  # fmt: skip
LAYOUTS: tuple[tuple[Column, ...], ...] = (
    ("conversations",), ("messages",), ("conversation",), ("texts",), ("question", "answer"),
    ("query", "response"), ("instruction", "output"), ("caption",),
)  # fmt: skip
"""What may hold the words of a row; of several that are there, the first."""
OPTIONAL: dict[Column, tuple[Column, ...]] = {"query": ("history",), "instruction": ("input", "history")}
_FACTS: tuple[Column, ...] = ("id", "image", "category", "system")
_PAIRS = {"texts": ("user", "assistant"), "conversation": ("human", "assistant")}
_READ = (
    "id",
    "image",
    "images",
    "category",
    "system",
    "history",
    "input",
    *(n for names in LAYOUTS for n in names),
)


MAX_KEYS, MAX_KEY = 1000, 1000
"""Keys of a record; characters of one of them, and of an id."""


class Reading(NamedTuple):
    """A row; `dropped` says that a turn of gpt before the first question was left out of it."""

    row: dict[str, Any]
    dropped: bool


class Columns:
    """Which of a data file's own names hold what.

    `given` says where these differ from ours, `ignore` which are left out although they hold content.
    """

    def __init__(
        self, given: Mapping[Column, str], names: Collection[str], where: str, ignore: Collection[str] = ()
    ) -> None:
        for ours, theirs in given.items():
            if theirs not in names:
                raise UserError(f"{where}: has no {theirs!r} for columns.{ours}{choices(theirs, names)}")
        names = [name for name in names if name not in ignore]
        found = {name: name for name in _FACTS if name in names}
        wanted = [layout for layout in LAYOUTS if any(name in given for name in layout)] or LAYOUTS
        for layout in wanted:
            theirs = {name: given.get(name, name) for name in layout}
            if all(name in names for name in theirs.values()):
                more = {name: name for name in OPTIONAL.get(layout[0], ()) if name in names}
                self.layout, self.names = layout[0], {**found, **theirs, **more, **given}
                break
        else:
            raise UserError(f"{where}: {_no_layout(names)}")
        self.image_keys = [self.names["image"]] if "image" in self.names else []
        if "image" not in given and "images" in names:
            self.image_keys.append("images")
        self.read = {*self.names.values(), *self.image_keys, *ignore}
        self.unread = [name for name in names if name not in self.read and must_be_looked_at(name)]

    @staticmethod
    def fit(names: Collection[str]) -> bool:
        """Whether one of the known layouts is there."""
        return any(all(name in names for name in layout) for layout in LAYOUTS)

    def row(
        self, record: Mapping[str, Any], images: Sequence[Any] | None, where: str, name: str
    ) -> dict[str, Any]:
        """The row of `reading`."""
        return self.reading(record, images, where, name).row

    def reading(
        self,
        record: Mapping[str, Any],
        images: Sequence[Any] | None,
        where: str,
        name: str,
        member: Callable[[str], int] | None = None,
    ) -> Reading:
        """The record as a row, called `name` if it has no id; raises `BadSample` with the row's id.

        `images` are the row's where its format keeps them outside of the record; `member` as `Placing` takes it.
        """
        name = self.name_of(record, name)
        try:
            row, dropped = self._row(record, images, where, member)
        except BadSample as error:
            raise error.of_row(name) from None
        return Reading({"id": name, **row}, dropped)

    def name_of(self, record: Mapping[str, Any], default: str) -> str:
        """A record's id, `default` if it has none that is text or a number."""
        return record_name(record, default, self.names.get("id", "id"))

    def _row(
        self, record: Mapping[str, Any], images: Sequence[Any] | None, where: str, member: Any
    ) -> tuple[dict[str, Any], bool]:
        own = record.get(self.names.get("id", "id"))
        if not isinstance(own, str | int | float | None) or (isinstance(own, float) and not isfinite(own)):
            raise BadSample("schema", f"{where}: id must be text or a number, got {own!r:.60}")
        if isinstance(own, str) and len(own) > MAX_KEY:
            raise BadSample(
                "too-large", f"{where}: an id of {len(own)} characters; at most {MAX_KEY} are read"
            )
        images = self.images_of(record, where) if images is None else images
        dialogue = self._dialogue(record, len(images), where)
        placing = Placing(images, where, member)
        turns = placing.turns(dialogue, in_front=not self._by_llava(record))
        self._check_unread(record, where, len(placing.images))
        category = self._text(record, "category", where)
        row = {"image": placing.images, "conversations": turns, "category": category}
        system = self._system(record, dialogue, where)
        for text in (category, system, *(turn["value"] for turn in turns)):
            check_text(text or "", where)
        return row | ({"system": system} if system else {}), dialogue.dropped

    def _check_unread(self, record: Mapping[str, Any], where: str, images: int) -> None:
        try:
            check_unread(record, self.read, where, _READ, images)
        except BadSample as error:
            advice = "rename it, or leave it out on purpose by naming it in ignore:"
            raise BadSample(error.reason, f"{error}; {advice}") from None

    def images_of(self, record: Mapping[str, Any], where: str) -> list[Any]:
        """The images that a record holds or names apart from its messages."""
        filled = [
            key for key in self.image_keys if record.get(key) is not None and record[key] not in ("", [])
        ]
        if len(filled) > 1:
            raise BadSample("schema", f"{where}: images under both {' and '.join(map(repr, filled))}")
        value = record[filled[0]] if filled else []
        return [image_value(v, where) for v in (value if isinstance(value, list) else [value])]

    def _by_llava(self, record: Mapping[str, Any]) -> bool:
        """Whether the turns are LLaVA's own, which say where each image stands."""
        turns = record.get(self.names[self.layout])
        if self.layout not in ("conversations", "messages") or not isinstance(turns, list):
            return False
        return not all(isinstance(turn, dict) and turn.get("role") for turn in turns)

    def _dialogue(self, record: Mapping[str, Any], images: int, where: str) -> Dialogue:
        value = record.get(self.names[self.layout])
        if self.layout in ("conversations", "messages"):
            return read_turns(value, self.names[self.layout], where)
        if self.layout in _PAIRS:
            return _dialogue_of(self._pairs(value, where), where)
        if self.layout == "caption":
            if not images:
                raise BadSample("placeholders", f"{where}: a caption, but no image{_origins(record)}")
            return _dialogue_of([("", value)], where)
        question, answer = next(names for names in LAYOUTS if names[0] == self.layout)
        asked = record.get(self.names[question])
        if not is_empty(more := record.get(self.names.get("input", ""))):
            asked = f"{asked}\n{more}" if isinstance(asked, str) and isinstance(more, str) else more
        earlier = self._history(record, where)
        return _dialogue_of([*earlier, (asked, record.get(self.names[answer]))], where)

    def _pairs(self, value: Any, where: str) -> list[tuple[Any, Any]]:
        keys = _PAIRS[self.layout]
        name = self.names[self.layout]
        if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
            raise BadSample("schema", f"{where}: {name} must be a list of mappings, got {value!r:.60}")
        for i, item in enumerate(value):
            if not item.keys() >= set(keys):
                form = ", ".join(keys)
                near = "; turns of from/value or role/content belong in 'conversations' or 'messages'"
                raise BadSample("schema", f"{where}: {name} {i}: expected {{{form}}}, got {item!r:.60}{near}")
            check_unread(item, keys, f"{where}: {name} {i}", keys)
        return [(item[keys[0]], item[keys[1]]) for item in value]

    def _history(self, record: Mapping[str, Any], where: str) -> list[tuple[Any, Any]]:
        value = record.get(self.names.get("history", ""))
        if is_empty(value):
            return []
        if not isinstance(value, list) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in value):
            raise BadSample(
                "schema", f"{where}: history must be a list of [question, answer], got {value!r:.60}"
            )
        return [(question, answer) for question, answer in value]

    def _system(self, record: Mapping[str, Any], dialogue: Dialogue, where: str) -> str | None:
        """The system text of the row's own, from its key or its first message."""
        own = self._text(record, "system", where)
        if own and dialogue.system and own != dialogue.system:
            raise BadSample("schema", f"{where}: two system texts: the key 'system' and the first message")
        return own or dialogue.system or None

    def _text(self, record: Mapping[str, Any], name: Column, where: str) -> str | None:
        value = record.get(self.names[name]) if name in self.names else None
        if not isinstance(value, str | None):
            raise BadSample("schema", f"{where}: {name} must be text, got {value!r:.60}")
        return value


def record_row(
    record: Any,
    where: str,
    name: str,
    *,
    given: Mapping[Column, str] | None = None,
    ignore: Collection[str] = (),
    images: Sequence[Any] | None = None,
    member: Callable[[str], int] | None = None,
) -> Reading:
    """A row from a record that may have another layout than the one before it; raises `BadSample`."""
    if not isinstance(record, dict):
        raise BadSample("schema", f"{where}: expected a mapping, got {record!r:.60}", name)
    _check_keys(record, where, name)
    filled = [key for key, value in record.items() if value is not None or key in (given or {}).values()]
    try:
        columns = Columns(given or {}, filled if Columns.fit(filled) else record.keys(), where, ignore)
    except UserError as error:
        raise BadSample("schema", str(error), record_name(record, name)) from None
    return columns.reading(record, images, where, name, member)


def _check_keys(record: Mapping[str, Any], where: str, name: str) -> None:
    """Raise `BadSample` for more keys, or longer ones, than names can be compared with in no time."""
    if len(record) > MAX_KEYS:
        raise BadSample("too-large", f"{where}: {len(record)} keys; at most {MAX_KEYS} are read", name)
    if long := next((key for key in record if len(key) > MAX_KEY), None):
        raise BadSample(
            "too-large", f"{where}: the key {long!r:.40} has more than {MAX_KEY} characters", name
        )


def record_name(record: Mapping[str, Any], default: str, key: str = "id") -> str:
    """The id of a record, `default` if it is neither text nor a number."""
    own = record.get(key)
    return str(own) if own != "" and isinstance(own, str | int | float) else default


def _dialogue_of(pairs: Sequence[tuple[Any, Any]], where: str) -> Dialogue:
    turns = []
    for i, value in enumerate(value for pair in pairs for value in pair):
        if not isinstance(value, str):
            raise BadSample("schema", f"{where}, turn {i}: expected text, got {value!r:.80}")
        turns.append(Turn(("human", "gpt")[i % 2], [value]))
    return Dialogue(turns)


def _no_layout(names: Collection[str]) -> str:
    known = "; ".join(" + ".join(layout) for layout in LAYOUTS)
    text = f"no column holds a conversation; possible: {known}; the columns are: {_listed(names)}"
    wanted = [name for layout in LAYOUTS for name in layout]
    short = [name for name in [*names][:50] if len(str(name)) < 50]
    near = {name: difflib.get_close_matches(str(name).lower(), wanted, n=1, cutoff=0.75) for name in short}
    hints = [f"{match[0]!r} for {name!r}" for name, match in near.items() if match and match[0] != name]
    return text + (f"; did you mean {', '.join(hints)}?" if hints else "")


def _listed(names: Collection[str]) -> str:
    listed = sorted(map(str, names))
    return ", ".join(listed[:50]) + (f" and {len(listed) - 50} more" if len(listed) > 50 else "")


def _origins(record: Mapping[str, Any]) -> str:
    """A hint for a record without images: its keys that look like the name of an image."""
    near = [key for key, value in record.items() if suggests_content(str(key)) and not is_empty(value)]
    return f"; {near[0]!r} is not read: an image is 'image' or 'images'" if near else ""

"""Converts rows of known formats, detected from the names of their keys or columns, to LLaVA's format.

It serves all file formats: JSON rows, parquet records, the `.json` of tar samples. A row with content that it does not
understand is a `BadSample`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from math import isfinite
from typing import Any, Literal, NamedTuple

from vlm_core.errors import BadSample, UserError, choices
from vlm_train.config.unknown_keys import check_unread, is_empty, must_be_looked_at, suggests_content
from vlm_train.data.conversation.chat_turns import Dialogue, Turn, read_turns
from vlm_train.data.conversation.image_placement import ImagePlacement
from vlm_train.data.conversation.image_values import filled_values, image_value
from vlm_train.data.conversation.llava_schema import check_text
from vlm_train.data.conversation.video_values import video_value

Column = Literal[
    "id", "image", "video", "category", "system", "conversations", "messages", "conversation", "texts", "question",
    "answer", "query", "response", "history", "instruction", "input", "output", "caption",
]  # fmt: skip
LAYOUTS: tuple[tuple[Column, ...], ...] = (
    ("conversations",),
    ("messages",),
    ("conversation",),
    ("texts",),
    ("question", "answer"),
    ("query", "response"),
    ("instruction", "output"),
    ("caption",),
)
"""Columns with the text of a row; if a row has several layouts, the first one counts."""
OPTIONAL: dict[Column, tuple[Column, ...]] = {"query": ("history",), "instruction": ("input", "history")}
_METADATA: tuple[Column, ...] = ("id", "image", "video", "category", "system")
_PAIRS = {"texts": ("user", "assistant"), "conversation": ("human", "assistant")}
_READ = (*_METADATA, "images", "videos", "history", "input", *(n for names in LAYOUTS for n in names))

MAX_KEYS, MAX_KEY = 1000, 1000
"""Keys of a record; characters of one of them, and of an id."""


class Reading(NamedTuple):
    """A row; `dropped`: gpt spoke first, and that turn is not used."""

    row: dict[str, Any]
    dropped: bool


class Columns:
    """Maps a data file's own names to the columns of `Column`.

    `given` are mappings by the user, {column: name in the file}. Names in `ignore` are not read although they have
    content. Raises `UserError` if no layout of `LAYOUTS` matches.
    """

    def __init__(
        self, given: Mapping[Column, str], names: Collection[str], where: str, ignore: Collection[str] = ()
    ) -> None:
        for ours, theirs in given.items():
            if theirs not in names:
                raise UserError(f"{where}: has no {theirs!r} for columns.{ours}{choices(theirs, names)}")
        names = [name for name in names if name not in ignore]
        metadata = {name: name for name in _METADATA if name in names}
        wanted = [layout for layout in LAYOUTS if any(name in given for name in layout)] or LAYOUTS
        for layout in wanted:
            theirs = {name: given.get(name, name) for name in layout}
            if all(name in names for name in theirs.values()):
                optional = {name: name for name in OPTIONAL.get(layout[0], ()) if name in names}
                self.layout, self.names = layout[0], {**metadata, **theirs, **optional, **given}
                break
        else:
            raise UserError(f"{where}: {_no_layout(names)}")
        self.image_keys = self._media_keys("image", given, names)
        self.video_keys = self._media_keys("video", given, names)
        self.read = {*self.names.values(), *self.image_keys, *self.video_keys, *ignore}
        self.unread = [name for name in names if name not in self.read and must_be_looked_at(name)]

    def _media_keys(
        self, medium: Literal["image", "video"], given: Mapping[Column, str], names: Collection[str]
    ) -> list[str]:
        """The key of a row's images or videos; in a file with both spellings, either may be filled."""
        plural = f"{medium}s"
        singular = [self.names[medium]] if medium in self.names else []
        return [*singular, plural] if medium not in given and plural in names else singular

    @staticmethod
    def fit(names: Collection[str]) -> bool:
        """Whether `names` have one of the known layouts."""
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
        """The record as a row, with the id `name` if it has none; raises `BadSample` with the row's id.

        `images` are the row's images if they are stored outside of the record; `member` as in `ImagePlacement`.
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
        id_ = record.get(self.names.get("id", "id"))
        if not isinstance(id_, str | int | float | None) or (isinstance(id_, float) and not isfinite(id_)):
            raise BadSample("schema", f"{where}: id must be text or a number, got {id_!r:.60}")
        if isinstance(id_, str) and len(id_) > MAX_KEY:
            raise BadSample(
                "too-large", f"{where}: an id of {len(id_)} characters; at most {MAX_KEY} are read"
            )
        images = self.images_of(record, where) if images is None else images
        dialogue = self._dialogue(record, len(images), where)
        placement = ImagePlacement(images, where, member)
        turns = placement.turns(dialogue, prepend=not self._has_llava_turns(record))
        self._check_unread(record, where, len(placement.images))
        category = self._text(record, "category", where)
        row = {"image": placement.images, "conversations": turns, "category": category}
        system = self._system(record, dialogue, where)
        for text in (category, system, *(turn["value"] for turn in turns)):
            check_text(text or "", where)
        return row | ({"system": system} if system else {}), dialogue.dropped

    def _check_unread(self, record: Mapping[str, Any], where: str, images: int) -> None:
        try:
            check_unread(record, self.read, where, _READ, images)
        except BadSample as error:
            advice = "rename it, or list it in ignore: to leave it unread"
            raise BadSample(error.reason, f"{error}; {advice}") from None

    def images_of(self, record: Mapping[str, Any], where: str) -> list[Any]:
        """The images and then the videos of a record outside of its messages, as names or inline."""
        images = [
            image_value(value, where) for value in filled_values(record, self.image_keys, where, "images")
        ]
        videos = [
            video_value(value, where) for value in filled_values(record, self.video_keys, where, "videos")
        ]
        return [*images, *videos]

    def _has_llava_turns(self, record: Mapping[str, Any]) -> bool:
        """Whether the turns have LLaVA's own keys `from`/`value`, in which every image must have a placeholder."""
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
        text = record.get(self.names[question])
        if not is_empty(extra := record.get(self.names.get("input", ""))):
            text = f"{text}\n{extra}" if isinstance(text, str) and isinstance(extra, str) else extra
        history = self._history(record, where)
        return _dialogue_of([*history, (text, record.get(self.names[answer]))], where)

    def _pairs(self, value: Any, where: str) -> list[tuple[Any, Any]]:
        keys = _PAIRS[self.layout]
        name = self.names[self.layout]
        if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
            raise BadSample("schema", f"{where}: {name} must be a list of mappings, got {value!r:.60}")
        for i, item in enumerate(value):
            if not item.keys() >= set(keys):
                form = ", ".join(keys)
                hint = "; turns of from/value or role/content belong in 'conversations' or 'messages'"
                raise BadSample("schema", f"{where}: {name} {i}: expected {{{form}}}, got {item!r:.60}{hint}")
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
        """The system prompt of the row, from its key or its first message."""
        system = self._text(record, "system", where)
        if system and dialogue.system and system != dialogue.system:
            raise BadSample("schema", f"{where}: two system prompts: the key 'system' and the first message")
        return system or dialogue.system or None

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
    """A row from a record whose layout is detected for each record; raises `BadSample`."""
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
    """Raise `BadSample` for too many or too long keys: comparing names for hints would take long."""
    if len(record) > MAX_KEYS:
        raise BadSample("too-large", f"{where}: {len(record)} keys; at most {MAX_KEYS} are read", name)
    if long := next((key for key in record if len(key) > MAX_KEY), None):
        raise BadSample(
            "too-large", f"{where}: the key {long!r:.40} has more than {MAX_KEY} characters", name
        )


def record_name(record: Mapping[str, Any], default: str, key: str = "id") -> str:
    """The id of a record, `default` if it is neither text nor a number."""
    value = record.get(key)
    return str(value) if value != "" and isinstance(value, str | int | float) else default


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
    """A hint for a record without images: its first key that suggests one."""
    near = [key for key, value in record.items() if suggests_content(str(key)) and not is_empty(value)]
    return f"; {near[0]!r} is not read: an image is 'image' or 'images'" if near else ""

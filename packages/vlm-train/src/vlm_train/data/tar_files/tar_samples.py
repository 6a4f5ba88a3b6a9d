"""Groups the members of a tar into samples: a text member names the sample; images and videos with that prefix join it.

`a.png` and `a.txt` are a sample, and so are `frame.01.png` and `frame.01.txt`. An image without a text of its exact
stem belongs to the text with the longest matching prefix, as in webdataset: `7.left.png`, `7.right.png`, `7.json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from vlm_core.errors import BadSample
from vlm_core.markup.printable import printable
from vlm_train.data.tar_files.tar_reader import Entry, Member, Walk

MAX_OF_SAMPLE = 1000
"""Members of one sample."""
PICTURES = frozenset(
    ["avif", "bmp", "dib", "gif", "j2k", "jfif", "jp2", "jpe", "jpeg", "jpf", "jpg", "jpx", "mpo", "pbm", "pgm", "png",
     "pnm", "ppm", "tga", "tif", "tiff", "webp"]
)  # fmt: skip
TEXTS = frozenset(("json", "txt"))
VIDEOS = frozenset(("3gp", "avi", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "webm"))
UNREAD = frozenset(
    ["flv", "ogv", "wmv", "aac", "flac", "m4a", "mp3", "ogg", "opus",
     "wav", "wma", "eps", "exr", "hdr", "heic", "heif", "ico", "jxl", "pdf", "ps", "psd", "svg"]
)  # fmt: skip
"""Media that training can't read: a sample with one is bad. Members of other kinds are metadata and ignored."""


@dataclass
class TarSample:
    """The members of one sample that are read; `fault`, if any, makes the sample unusable."""

    key: str
    texts: dict[str, Member] = field(default_factory=dict)
    pictures: list[Member] = field(default_factory=list)
    fault: BadSample | None = None
    names: dict[str, None] = field(default_factory=dict)
    """Names of all members, in order; a dict for lookups."""


class _Name(NamedTuple):
    """A member's name in its parts: `a/b.0.jpg` has the stem `a/b.0` and the kind `jpg`."""

    stem: str
    kind: str


def _split(name: str) -> _Name:
    folder, slash, base = name.rpartition("/")
    stem, _, kind = base.rpartition(".")
    return _Name(folder + slash + stem, kind.lower()) if stem else _Name("", "")


def is_video(name: str) -> bool:
    """Whether a member is a video by its extension."""
    return _split(name).kind in VIDEOS


def _shorter(stem: str) -> Iterator[str]:
    """The stem and its prefixes at dots, from long to short: `b.0.x`, `b.0`, `b`."""
    folder, slash, base = stem.rpartition("/")
    parts = base.split(".")
    return (folder + slash + ".".join(parts[:n]) for n in range(len(parts), 0, -1))


def _first(stem: str) -> str:
    """webdataset's key: up to the first dot of the name in its folder."""
    return list(_shorter(stem))[-1]


class _Keys:
    """The sample key of each member, which depends on all names of a shard."""

    def __init__(self, names: Iterable[_Name]) -> None:
        texts, pictures = set[str](), set[str]()
        for stem, kind in names:
            (texts if kind in TEXTS else pictures).add(stem)
        self.keys = {stem for stem in texts if self._names_a_sample(stem, texts, pictures)}
        self.dotted = {_first(key) for key in self.keys if key != _first(key)}

    @staticmethod
    def _names_a_sample(stem: str, texts: set[str], pictures: set[str]) -> bool:
        """Whether a text member names a sample, or is an additional member of one, as `7.meta.json` of `7`."""
        shorter = list(_shorter(stem))[1:]
        return stem in pictures or not any(key in texts or key in pictures for key in shorter)

    def of(self, stem: str) -> str:
        key = next((key for key in _shorter(stem) if key in self.keys), None)
        if key is None:
            key = stem if _first(stem) in self.dotted else _first(stem)
        return key


def samples(file: BinaryIO, where: str) -> Iterator[TarSample]:
    """The samples of a tar in the order of their first members; members of a sample need not be adjacent.

    For a truncated or damaged tar, samples that may be incomplete are replaced by one final sample with that fault.
    Raises `UserError` for a file that is not a tar, or compressed.
    """
    walk = Walk(file, where)
    entries = [entry for entry in walk if _split(entry.name).kind in TEXTS | PICTURES | VIDEOS | UNREAD]
    keys = _Keys(_split(entry.name) for entry in entries)
    all_samples: list[TarSample] = []
    of_entry = list(_grouped(entries, keys, all_samples, where))
    if not walk.broken:
        yield from all_samples
        return
    incomplete = {id(sample) for sample in of_entry[-2 if walk.torn else -1 :]}
    complete = [sample for sample in all_samples if id(sample) not in incomplete]
    yield from complete
    fault = BadSample("truncated", f"{where}: {walk.broken}, after {len(complete)} complete samples")
    yield TarSample("", fault=fault)


def _grouped(
    entries: list[Entry], keys: _Keys, all_samples: list[TarSample], where: str
) -> Iterator[TarSample]:
    """The sample of each entry; new samples are appended to `all_samples`.

    A name that is repeated after another sample begins a new one: concatenated shards repeat keys.
    """
    latest: dict[str, TarSample] = {}
    last: TarSample | None = None
    for entry in entries:
        key = keys.of(_split(entry.name).stem)
        sample = latest.get(key)
        if sample is None or (entry.name in sample.names and sample is not last):
            sample = latest[key] = TarSample(key)
            all_samples.append(sample)
        _add(sample, entry, where)
        last = sample
        yield sample


def _add(sample: TarSample, entry: Entry, where: str) -> None:
    stem, kind = _split(entry.name)
    name = f"{where}: {printable(entry.name)}"
    member = Member(entry.name, entry.start, entry.size)
    if entry.fault:
        sample.fault = BadSample("not-a-file", f"{name}: {entry.fault}; expected a regular file")
    elif entry.name in sample.names:
        sample.fault = BadSample("schema", f"{name}: two members of one sample have this name")
    elif len(sample.names) >= MAX_OF_SAMPLE:
        text = f"{where}: {printable(sample.key)}: more than {MAX_OF_SAMPLE} members in one sample"
        sample.fault = BadSample("too-large", text)
    elif kind in UNREAD:
        sample.fault = BadSample(
            "schema", f"{name}: .{kind} is not read; possible: images, videos, .json and .txt"
        )
    elif kind in PICTURES | VIDEOS:
        sample.pictures.append(member)
    elif stem == sample.key:
        if kind in sample.texts:
            sample.fault = BadSample("schema", f"{name}: two members of one sample have this name")
        sample.texts[kind] = member
    sample.names[entry.name] = None

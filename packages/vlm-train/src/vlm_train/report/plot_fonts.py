"""Fonts and escaping for matplotlib, so that figures show any text: any script, dollar signs, long lines."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_core.io.atomic import write_file
from vlm_core.markup.printable import printable
from vlm_core.runtime.verbosity import errors_only

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASE = "DejaVu Sans"
"""The font that matplotlib ships."""
NO_GLYPHS = frozenset({"Last Resort", ".LastResort", "Last Resort High-Efficiency"})
"""Placeholder fonts, which draw the same box for every character of a block."""

FONT_LOG = "matplotlib.font_manager"
"""The logger on which matplotlib reports substituted font weights."""


@contextmanager
def drawing(families: Iterable[str] = (BASE,), settings: Mapping[str, Any] | None = None) -> Iterator[Figure]:
    """A figure in matplotlib's default style, not the user's, with additional rc `settings`."""
    import matplotlib
    import matplotlib.style
    from matplotlib.figure import Figure

    changes: dict[Any, Any] = {"font.family": [*families], **(settings or {})}
    with matplotlib.style.context("default"), matplotlib.rc_context(changes), errors_only(FONT_LOG):
        yield Figure(layout="constrained")


def save(figure: Figure, path: Path) -> None:
    """Write a PNG file atomically; raises `UserError`."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130)
    write_file(path, file.getvalue())


class Lettering:
    """Selects installed fonts (`families`) that have the characters of the given texts.

    A character that no installed font has is drawn as its code point, such as [U+7EA2].
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.families, self.characters = [BASE], set(_characters(BASE))
        with errors_only(FONT_LOG):
            self._add_fonts(set("".join(texts)) - self.characters - set("\n\r\t"))

    def _add_fonts(self, missing: set[str]) -> None:
        for name in _installed() if missing else ():
            if covered := missing & _characters(name):
                self.families.append(name)
                self.characters |= covered
                missing -= covered

    def plain(self, text: str) -> str:
        """The text, escaped so that every character is drawn literally."""
        return escaped("\n".join(map(self._drawable, text.splitlines())))

    def wrapped(self, text: str, width: int, lines: int = 3) -> str:
        """The text wrapped to `lines` lines of `width` columns; CJK characters take two. `…` marks truncation."""
        from rich.console import Console
        from rich.text import Text

        console, rows = Console(file=io.StringIO()), []
        for line in text[: 4 * width * lines].splitlines():
            wrapped = Text(self._drawable(line)).wrap(console, width, overflow="fold")
            rows += [row.plain.rstrip() for row in wrapped]
        cut = len(rows) > lines or len(text) > 4 * width * lines
        return escaped("\n".join(rows[:lines]) + ("…" if cut else ""))

    def _drawable(self, line: str) -> str:
        return "".join(c if c in self.characters else f"[U+{ord(c):04X}]" for c in line.replace("\t", "    "))


def in_one_line(text: str, width: int = 40) -> str:
    """The text on one line, escaped and truncated to `width` characters; a browser draws it."""
    line = printable(" ".join(text.split()))
    return escaped(line if len(line) <= width else line[: width - 1] + "…")


def escaped(text: str) -> str:
    """Escape text for matplotlib: `$` begins a formula, and a label with a leading `_` is not in the legend."""
    return ("\u200b" if text.startswith("_") else "") + text.replace("$", r"\$")


@cache
def _characters(family: str) -> frozenset[str]:
    """The characters that a font has in normal and bold weight; empty for a bitmap font."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    sets: list[set[str]] = []
    for weight in ("normal", "bold"):
        try:
            properties = FontProperties(family=[family], weight=weight)
            font = get_font(findfont(properties, fallback_to_default=False))
        except (ValueError, RuntimeError, OSError):
            return frozenset()
        sets.append(set(map(chr, font.get_charmap())) if font.scalable else set())
    return frozenset(set.intersection(*sets))


def _installed() -> list[str]:
    """The names of other installed fonts, sorted."""
    from matplotlib.font_manager import fontManager

    return sorted({font.name for font in fontManager.ttflist} - NO_GLYPHS - {BASE})

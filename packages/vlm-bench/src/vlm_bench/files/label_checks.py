"""Checks that questions and labels match; mismatches are refused with counts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from vlm_core.errors import UserError


def check_ids(asked: Collection[str], known: Collection[str], labels: Path, what: str = "label") -> None:
    """Refuse questions whose id the label file does not have."""
    absent = [key for key in asked if key not in known]
    if absent:
        raise UserError(
            f"{labels}: {len(absent)} of {len(asked)} questions without a {what}, first id {absent[0]}; "
            f"the file has {len(known)}. Is this another split or revision?"
        )


def check_texts(asked: Mapping[str, str], known: Mapping[str, str], labels: Path) -> None:
    """Refuse labels that belong to other questions of the same ids; case and white space don't matter."""
    other = [key for key, text in asked.items() if _plain(text) != _plain(known[key])]
    if other:
        key = other[0]
        raise UserError(
            f"{labels}: {len(other)} of {len(asked)} labels are of another question with the same id, first "
            f"{key}: {known[key]!r:.60} where {asked[key]!r:.60} is asked"
        )


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def check_count(count: int, published: int, what: str) -> tuple[str, list[str]]:
    """A mark for the protocol, and a warning, if a file has another number of `what` than the published one."""
    if count == published:
        return "", []
    return "@unknown", [f"{count:,} {what}; the published file has {published:,}"]

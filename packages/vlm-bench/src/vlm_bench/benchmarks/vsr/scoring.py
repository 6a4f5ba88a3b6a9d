"""VSR: whether a statement is true. The authors' models classify; a generated answer is read here by its first word."""

from __future__ import annotations

import re

CATEGORIES = {
    "adjacency": "adjacent to, alongside, at the side of, at the right side of, at the left side of, attached to, "
    "at the back of, ahead of, against, at the edge of",
    "directional": "off, past, toward, down, deep down, up, away from, along, around, from, into, to, across, "
    "across from, through, down from",
    "orientation": "facing, facing away from, parallel to, perpendicular to",
    "projective": "on top of, beneath, beside, behind, left of, right of, under, in front of, below, above, over, "
    "in the middle of",
    "proximity": "by, close to, near, far from, far away from",
    "topological": "connected to, detached from, has as a part, part of, contains, within, at, on, in, with, "
    "surrounding, among, consists of, out of, between, inside, outside, touching",
    "unallocated": "beyond, next to, opposite to, after, among, enclosed by",
}
"""The authors' categories of relations; "among" counts as unallocated, as in their script, where the last one wins."""
CATEGORY_OF = {relation: category for category, names in CATEGORIES.items() for relation in names.split(", ")}
_WORDS = {"true": True, "yes": True, "false": False, "no": False}
_FIRST = re.compile(r"[^\W\d_]+")


def parse(text: str) -> bool | None:
    """Whether an answer says true: its first word is true or yes, false or no, in any case; None for other words."""
    word = _FIRST.search(text)
    return _WORDS.get(word[0].lower()) if word else None

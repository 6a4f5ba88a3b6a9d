"""Groups of rows that share keys, by union-find."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from vlm_train.data.split_rows.image_keys import Keys


def groups_of(keys: Sequence[Keys | None]) -> dict[str, list[int]]:
    """{key of a group: indices of its rows}; rows with a common key are in one group, bad rows (None) in none.

    A group's key is the smallest of its rows' keys.
    """
    parents: dict[str, str] = {}
    for row in filter(None, keys):
        for key in row:
            _join(parents, row[0], key)
    groups: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(keys):
        if row:
            groups[_root(parents, row[0])].append(index)
    return dict(groups)


def _join(parents: dict[str, str], first: str, second: str) -> None:
    smaller, larger = sorted((_root(parents, first), _root(parents, second)))
    parents[larger] = smaller


def _root(parents: dict[str, str], key: str) -> str:
    """The root of a key's tree; a new key is its own root. Paths are halved, so that trees stay flat."""
    while (parent := parents.setdefault(key, key)) != key:
        parents[key] = parents.setdefault(parent, parent)
        key = parents[key]
    return key

"""Parses structs of Thrift's compact protocol, the encoding of parquet's footers and page headers."""

from __future__ import annotations

from typing import Any

_LEVELS = 12
_BOOLEANS, _INTEGERS, _BYTE, _DOUBLE, _TEXT, _LISTS, _STRUCT = (1, 2), (4, 5, 6), 3, 7, 8, (9, 10), 12


class Thrift:
    """Parses `data` from position `at`; raises `ValueError` for anything that is not a valid struct."""

    def __init__(self, data: memoryview, at: int = 0) -> None:
        self.data, self.at = data, at

    def struct(self, levels: int = _LEVELS) -> dict[int, Any]:
        """Fields by id. A repeated field is an error, since parsers differ in which one they use."""
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            if number in fields:
                raise ValueError("a page header or footer has a field twice")
            kind = head & 15
            fields[number] = kind == 1 if kind in _BOOLEANS else self._value(kind, levels)
        return fields

    def _value(self, kind: int, levels: int) -> Any:
        if kind in _INTEGERS:
            return self._integer()
        if kind == _TEXT:
            return self._bytes(self._varint())
        if kind in _LISTS:
            return self._list(levels)
        if kind == _STRUCT and levels:
            return self.struct(levels - 1)
        if kind in (_BYTE, _DOUBLE, *_BOOLEANS):  # in a list, a boolean takes a byte
            return self._bytes(8 if kind == _DOUBLE else 1)
        raise ValueError(f"a page header or footer holds a field of kind {kind}")

    def _list(self, levels: int) -> list[Any]:
        head = self._byte()
        count = head >> 4 if head >> 4 < 15 else self._varint()
        if count > len(self.data) - self.at:
            raise ValueError("a list in a page header or footer is longer than its data")
        return [self._value(head & 15, levels) for _ in range(count)]

    def _bytes(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise ValueError("a page header or footer is truncated")
        self.at += size
        return bytes(self.data[self.at - size : self.at])

    def _byte(self) -> int:
        if self.at >= len(self.data):
            raise ValueError("a page header or footer is truncated")
        self.at += 1
        return self.data[self.at - 1]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("an integer in a page header or footer is too long")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

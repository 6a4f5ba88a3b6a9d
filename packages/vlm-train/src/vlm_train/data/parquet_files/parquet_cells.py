"""Cells of a table as Python values, with limits checked before conversion; images stay in Arrow memory."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vlm_core.errors import BadSample
from vlm_core.markup.printable import printable
from vlm_train.data.json_files.json_limits import MAX_VALUES
from vlm_train.data.json_files.json_reader import MAX_ROW


def cell(table: pa.Table, name: str, position: int, where: str, image: bool = False) -> pa.Scalar:
    """A cell; raises `BadSample` beyond the limits of a row. In a column of an `image`, bytes don't count."""
    chunked = table[name].slice(position, 1)
    values, size = weight(chunked.chunk(0) if chunked.num_chunks == 1 else chunked.combine_chunks(), image)
    if values > MAX_VALUES:
        raise BadSample("too-large", f"{where}: {name!r:.60}: more than {MAX_VALUES} values in one row")
    if size > MAX_ROW:
        raise BadSample(
            "too-large", f"{where}: {name!r:.60}: {size} bytes in one row; at most {MAX_ROW} are read"
        )
    return chunked[0]


def value(scalar: pa.Scalar, name: str, where: str) -> Any:
    """A cell as a Python value; raises `BadSample` if that fails (invalid UTF-8, a date in the year 300000)."""
    try:
        return scalar.as_py()
    except MemoryError:
        raise
    except UnicodeDecodeError as error:
        raise BadSample("schema", f"{where}: {name!r:.60} is not UTF-8 text: {error}") from None
    except Exception as error:  # dates, time zones and extensions raise nearly anything
        text = f"{where}: {name!r:.60} cannot be read: {printable(error, 200)}"
        raise BadSample("schema", text) from None


def weight(array: pa.Array, image: bool = False) -> tuple[int, int]:
    """(values, bytes) of a column slice at all nesting levels; for an `image`, without the bytes of its file."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    kind = array.type
    if pa.types.is_dictionary(kind):
        return len(array), 0 if image and _is_bytes(kind.value_type) else _repeated(array)
    if pa.types.is_struct(kind):
        fields = [weight(field, image) for field in array.flatten()]
        return len(array) + sum(v for v, _ in fields), sum(size for _, size in fields)
    if pa.types.is_nested(kind) and hasattr(array, "flatten"):
        values, size = weight(array.flatten(), image)
        return len(array) + values, size
    return len(array), 0 if image and _is_bytes(kind) else array.nbytes


def _repeated(array: pa.DictionaryArray) -> int:
    """Bytes of the values of a dictionary-encoded column after decoding."""
    values = array.dictionary
    if not (
        _is_bytes(values.type) or pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    ):
        return len(array) * values.nbytes
    lengths = pc.call_function("binary_length", [values]).take(array.indices)
    return pc.call_function("sum", [lengths]).as_py() or 0


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def images_of(scalar: pa.Scalar) -> list[pa.Scalar]:
    """The images of a row: none, one or several."""
    if not scalar.is_valid:
        return []
    if isinstance(scalar, pa.ListScalar):
        return list(scalar)
    return [scalar]


def image_of(scalar: pa.Scalar, name: str, where: str) -> tuple[Any, Any]:
    """An image as (scalar of its bytes, None), or as (None, its value) if it has no bytes."""
    data = scalar.get("bytes") if isinstance(scalar, pa.StructScalar) else scalar
    if isinstance(data, pa.DictionaryScalar) and data.is_valid:
        data = data.value
    binary = isinstance(data, pa.BinaryScalar) and not isinstance(data, pa.StringScalar)
    return (data, None) if binary and data.is_valid else (None, value(scalar, name, where))

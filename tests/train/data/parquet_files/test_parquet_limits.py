"""What a parquet file may decode to is known from its pages; damage and odd types are bad rows."""

import pickle
import random
import threading
import time
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_parquet import ids
from shards import said, turns

from vlm_core.errors import BadSample, UserError
from vlm_core.io import files
from vlm_core.io.images import image_bytes
from vlm_train.data import storage
from vlm_train.data.parquet import ParquetConfig
from vlm_train.data.parquet_files import parquet_file, parquet_pages
from vlm_train.data.parquet_files.parquet_file import ParquetFile

KIB = 2**10


def rows(path, **keys):
    return ParquetConfig(path=str(path), **keys).rows()


def write(path, columns, **options):
    pq.write_table(pa.table(columns), path, **{"write_statistics": False, **options})
    return path


def outcome(found, index=0) -> Any:
    try:
        return said(found[index])
    except BadSample as error:
        return error.reason


@pytest.fixture
def small(monkeypatch):
    """A row group may have a MiB, and what repeats itself is decoded otherwise from 64 KiB."""
    for name, value in {
        "MAX_GROUP": 2**20,
        "DICTIONARY_BYTES": 64 * KIB,
        "DELTA_BATCH_BYTES": 64 * KIB,
    }.items():
        monkeypatch.setattr(parquet_file, name, value)


TEXT = "x" * 10 * KIB
REPEATS = {
    "dictionary": {},
    "delta": {"use_dictionary": False, "column_encoding": {"question": "DELTA_BYTE_ARRAY"}},
    "zeros": {"use_dictionary": False, "compression": "zstd"},
}


@pytest.mark.parametrize("form", REPEATS)
def test_repeated_values_are_read_up_to_a_limit(tmp_path, small, form):
    """80 rows of 10 KiB are less than a MiB, 200 are more; the file has some KiB in both cases."""
    for count in (80, 200):
        columns = {"question": [TEXT] * count, "answer": ["a"] * count, "id": ids(count)}
        path = write(tmp_path / f"{count}.parquet", columns, **REPEATS[form])
        assert path.stat().st_size < 40 * KIB
        found = rows(path)
        if count == 80:
            assert [said(row) for row in found] == [[TEXT, "a"]] * count
        else:
            assert {outcome(found, i) for i in range(count)} == {"too-large"}


@pytest.mark.parametrize("form", ["dictionary", "zeros"])
def test_repeated_values_in_lists(tmp_path, small, form):
    few, many = [turns("q", TEXT) * 3] * 12, [turns("q", TEXT) * 80] * 4
    options = {name: value for name, value in REPEATS[form].items() if name != "column_encoding"}
    assert outcome(rows(write(tmp_path / "a.parquet", {"conversations": few}, **options))) == ["q", TEXT] * 3
    assert outcome(rows(write(tmp_path / "b.parquet", {"conversations": many}, **options))) == "too-large"


def test_dictionaries_are_read_as_values(tmp_path, small):
    """Texts, ids and the bytes of images, whichever way they were decoded."""
    images = [{"bytes": random.Random(i).randbytes(1000), "path": None} for i in range(2)] * 300
    columns = {"image": images, "caption": [f"{i % 7}" * 200 for i in range(600)], "id": ids(600)}
    path = write(tmp_path / "x.parquet", columns, row_group_size=150)
    plan = ParquetFile(str(path))
    table = plan.read(0, ["image", "caption"])
    assert pa.types.is_dictionary(table["caption"].type)
    assert pa.types.is_dictionary(table["image"].type.field("bytes").type)
    found = rows(path)
    assert [row["id"] for row in found] == columns["id"]
    assert [said(row)[1] for row in found] == columns["caption"]
    assert [image_bytes(row["image"][0]) for row in found] == [image["bytes"] for image in images]
    assert found.sizes().tolist() == [[len("<image>") + 200, 1, 0]] * 600
    assert list(pickle.loads(pickle.dumps(found))) == list(found)


def test_empty_values_count(tmp_path, small):
    """A list of a million nothings is a few bytes in the file."""
    empty = pa.repeat(pa.scalar("", pa.string()), 10**6)
    turn = pa.StructArray.from_arrays([empty, empty], ["from", "value"])
    lists = pa.ListArray.from_arrays(pa.array([0, 10**6], pa.int32()), turn)
    assert outcome(rows(write(tmp_path / "x.parquet", {"conversations": lists}))) == "too-large"


def test_values_of_one_row_count(tmp_path):
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 300_000], pa.int32()), pa.repeat(pa.scalar(0), 300_000))
    columns = {"question": ["q", "q"], "answer": ["a", "b"], "label": lists}
    found = rows(write(tmp_path / "x.parquet", columns), ignore=[])
    with pytest.raises(BadSample, match="'label': more than 250000 values in one row"):
        found[1]
    images = pa.ListArray.from_arrays(pa.array([0, 300_000], pa.int32()), pa.repeat(pa.scalar("a"), 300_000))
    found = rows(write(tmp_path / "y.parquet", {"images": images, "caption": ["c"]}))
    with pytest.raises(BadSample, match="'images': more than 250000 values in one row"):
        found[0]


def test_a_row_group_that_is_bad_is_read_once(tmp_path, small, monkeypatch):
    path = write(tmp_path / "x.parquet", {"question": [TEXT] * 200, "answer": ["a"] * 200, "id": ids(200)})
    found, reads = rows(path), []
    read = ParquetFile.read
    monkeypatch.setattr(ParquetFile, "read", lambda *a: reads.append(a) or read(*a))
    assert {outcome(found, i) for i in range(200)} == {"too-large"}
    assert len(reads) == 1


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([7]), "expected text, got 7"),
        (pa.array([b"q"]), "expected text, got b'q'"),
        (pa.array([None], pa.string()), "expected text, got None"),
        (pa.array([["q"]]), "expected text, got"),
        (pa.array([2**52], pa.timestamp("s")), "'question' cannot be read"),
        (pa.array([np.float16(1)]), "expected text, got 1.0"),
        (pa.array([{"a": 1}]), "expected text, got {'a': 1}"),
    ],
)
def test_columns_of_other_types_are_bad_rows(tmp_path, column, message):
    found = rows(write(tmp_path / "x.parquet", {"question": column, "answer": ["a"]}))
    with pytest.raises(BadSample, match=message):
        found[0]


@pytest.mark.parametrize(
    "cell", [7, 1.5, [1, 2], {"bytes": 3}, {"bytes": "x", "path": None}, [{"bytes": None}]]
)
def test_images_of_other_types_are_bad_rows(tmp_path, cell):
    found = rows(write(tmp_path / "x.parquet", {"image": [cell], "caption": ["c"]}))
    with pytest.raises(BadSample):
        image_bytes(found[0]["image"][0])


def test_a_page_whose_checksum_differs_is_damage(tmp_path):
    columns = {"question": ["first?", "second?"], "answer": ["a", "b"]}
    options = {"write_page_checksum": True, "compression": "none", "use_dictionary": False}
    path = write(tmp_path / "x.parquet", columns, **options)
    path.write_bytes(path.read_bytes().replace(b"second?", b"sec0nd?"))
    with pytest.raises(BadSample, match=r"row group 0 cannot be decoded: .*CRC"):
        rows(path)[0]


def test_pages_are_counted_as_pyarrow_writes_them(tmp_path):
    """Both page versions, with and without dictionary and compression: values, and bytes as the footer says."""
    for version in ("1.0", "2.0"):
        for options in ({}, {"use_dictionary": False, "compression": "gzip"}):
            columns = {"a": [f"{i}" for i in range(3000)], "b": [[i] * (i % 5) for i in range(3000)]}
            path = write(
                tmp_path / "x.parquet", columns, data_page_version=version, data_page_size=2000, **options
            )
            data, group = memoryview(path.read_bytes()), pq.ParquetFile(path).metadata.row_group(0)
            size = int.from_bytes(data[-8:-4], "little")
            for i in range(2):
                chunk = group.column(i)
                start, end = parquet_pages.chunks(data[-8 - size : -8])[0][i]
                assert end - start == chunk.total_compressed_size
                pages = parquet_pages.page_sizes(data[start:end])
                assert pages.values == chunk.num_values
                assert 0 <= chunk.total_uncompressed_size - pages.size < 100 * len(data) // 2000
                assert (pages.dictionary > 0) == chunk.has_dictionary_page


@pytest.mark.parametrize(
    "data", [b"", b"\x15", b"\x00", b"\xff" * 9, b"\x15\x00\x15\x80", b"\x1c" * 50, b"\x19\xf8" * 9]
)
def test_what_is_no_page_is_a_value_error(data):
    if data:
        with pytest.raises(ValueError, match="page"):
            parquet_pages.page_sizes(memoryview(data))
    else:
        assert parquet_pages.page_sizes(memoryview(data)).values == 0


def test_too_many_pages(monkeypatch):
    page = b"\x15\x06\x15\x00\x15\x00\x00"
    assert parquet_pages.page_sizes(memoryview(page * 99)).values == 0
    with pytest.raises(ValueError, match="more than 100000 pages"):
        parquet_pages.page_sizes(memoryview(page * 100_001))


def test_a_storage_that_never_answers_is_given_up(tmp_path, monkeypatch):
    path = write(tmp_path / "x.parquet", {"question": ["q"], "answer": ["a"]})
    system, awake = fsspec.filesystem("memory"), threading.Event()
    system.pipe_file("/slow/x.parquet", path.read_bytes())
    monkeypatch.setattr(files, "RETRY_DELAYS", (0.0,))
    monkeypatch.setattr(storage, "RESPONSE_SECONDS", 0.1)
    found = rows("memory://slow/x.parquet")
    monkeypatch.setattr(type(system), "cat_file", lambda *a, **k: awake.wait(30) and b"")
    began = time.monotonic()
    with pytest.raises(UserError, match=r"the storage fails: no answer within 0 s \(2 attempts\)"):
        found[0]
    assert time.monotonic() - began < 10
    awake.set()
    system.rm("/slow", recursive=True)


def test_a_storage_that_does_not_say_a_size(monkeypatch):
    system = fsspec.filesystem("memory")
    system.pipe_file("/sizeless/x.parquet", b"PAR1" * 9)
    monkeypatch.setattr(type(system), "info", lambda *a, **k: {"name": "x", "size": None, "type": "file"})
    monkeypatch.setattr(type(system), "exists", lambda *a, **k: True)
    with pytest.raises(UserError, match="does not give its size"):
        rows("memory://sizeless/x.parquet")
    system.store.pop("/sizeless/x.parquet")

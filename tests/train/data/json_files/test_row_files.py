"""Large data files: rows by their place in the file, the index kept, memory and results as from a list."""

import io
import json
import os
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shards import turns
from torch.utils.data import DataLoader

from vlm_core.errors import UserError
from vlm_core.io.image_folder import ImageFolder
from vlm_train.data.json_files import json_index, json_reader
from vlm_train.data.json_files.json_reader import line_rows, list_rows
from vlm_train.data.json_files.json_rows import LlavaRows
from vlm_train.data.llava import LlavaConfig

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(
    values=st.lists(VALUES, max_size=6),
    indent=st.sampled_from([None, 0, 3]),
    ascii_=st.booleans(),
    space=st.text(" \n\t\r", max_size=9),
    chunk=st.integers(1, 40),
)
def test_a_list_in_pieces_is_the_list(values, indent, ascii_, space, chunk):
    """Whatever the layout and wherever a piece of the file ends, a multi-byte character included."""
    text = space + json.dumps(values, indent=indent, ensure_ascii=ascii_) + space
    data = text.encode("utf-8", "surrogatepass")
    if any(0xD800 <= ord(c) < 0xE000 for c in text):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_reader, "CHUNK", chunk)
        found = list(list_rows(io.BytesIO(data), Path("x.json")))
    assert [value for _, _, value in found] == values
    assert [json.loads(data[start : start + size]) for start, size, _ in found] == values


def test_a_row_without_end_is_refused_before_it_fills_memory(monkeypatch):
    monkeypatch.setattr(json_reader, "MAX_ROW", 1000)
    monkeypatch.setattr(json_reader, "CHUNK", 100)
    file = io.BytesIO(b'[{"a": "' + b"x" * 100_000)
    with pytest.raises(UserError, match=r"not valid JSON: Unterminated string"):
        list(list_rows(file, Path("x.json")))
    assert file.tell() < 5000
    with pytest.raises(UserError, match=r"x.jsonl, line 1: longer than 1000 bytes"):
        list(line_rows(io.BytesIO(b"x" * 5000), Path("x.jsonl")))


def row(i):
    turns = [
        {"from": "human", "value": f"number {i} ä?" + "?" * (i % 50)},
        {"from": "gpt", "value": "x" * 300},
    ]
    return {"id": str(i), "conversations": turns}


@pytest.fixture(params=["json", "jsonl"])
def large(request, tmp_path, monkeypatch):
    """A file that counts as large, its third row bad, and a cache of its own."""
    monkeypatch.setattr(json_index, "MIN_CACHED_BYTES", 1)
    monkeypatch.setenv("VLM_CACHE", str(tmp_path / "cache"))
    rows = [{**row(i), **({"image": "none.png"} if i == 2 else {})} for i in range(3000)]
    path = tmp_path / f"data.{request.param}"
    text = (
        json.dumps(rows, ensure_ascii=False) if request.param == "json" else "\n".join(map(json.dumps, rows))
    )
    path.write_text(text, encoding="utf-8")
    return path


def rows_of(path):
    return LlavaConfig(path=str(path)).rows()


def indexed(monkeypatch):
    """Counts how often an index is built."""
    build, calls = json_index._build, []
    monkeypatch.setattr(json_index, "_build", lambda *a: calls.append(a) or build(*a))
    return calls


def test_the_index_is_made_once_and_again_when_the_file_changes(large, monkeypatch):
    calls = indexed(monkeypatch)
    first, again = rows_of(large), rows_of(large)
    assert len(calls) == 1
    assert list(first.faults()) == list(again.faults()) == [2]
    assert all(first[i] == again[i] for i in (0, 1, 3, 1500, 2999))
    assert first[1500]["conversations"] == row(1500)["conversations"]
    assert first.sizes().tolist() == again.sizes().tolist()
    assert first.sizes()[7].tolist() == [len("number 7 ä?" + "?" * 7) + 300, 0, 0]
    text = large.read_text().replace("number 1500", "NUMBER 1500")
    os.utime(large, (1, 1))
    facts = large.stat()
    large.write_text(text)
    assert rows_of(large)[1500]["conversations"][0]["value"].startswith("NUMBER")
    assert large.stat().st_size == facts.st_size
    os.utime(large, (1, 1))
    assert rows_of(large)[1500]["conversations"][0]["value"].startswith("NUMBER")
    assert len(calls) >= 2


def test_a_fault_of_the_index_is_forgotten_when_it_is_mended(large):
    """Whether an image is there is looked at each time: the index only remembers its name."""
    rows_of(large)
    (large.parent / "none.png").write_bytes(b"")
    mended = rows_of(large).faults()
    assert [e.reason for e in mended.values()] == ["placeholders"]


class Ids(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return int(self.rows[5 if i == 2 else i]["id"])


EXPECTED = [5 if i == 2 else i for i in range(100)]


def test_forked_workers_read_the_same_rows(large):
    """They share the parent's open file, and read from it at the same time."""
    rows = rows_of(large)
    rows[0]
    loader = DataLoader(Ids(rows), 10, sampler=range(100), num_workers=2, multiprocessing_context="fork")
    assert torch.cat(list(loader)).tolist() == EXPECTED


def test_spawned_workers_read_the_same_rows(large):
    """What spawning does: pickle, and a fresh interpreter, which needs neither torch nor the parent's file."""
    rows = rows_of(large)
    rows[0]
    code = (
        "import pickle, sys; rows = pickle.load(sys.stdin.buffer); "
        "print([int(rows[5 if i == 2 else i]['id']) for i in range(100)], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(rows), stdout=subprocess.PIPE)
    assert done.stdout.decode().strip() == f"{EXPECTED} False"


def test_a_large_file_costs_an_index(large):
    """Memory is that of the index and a piece of the file, however many rows there are."""
    rows_of(large)
    tracemalloc.start()
    rows = rows_of(large)
    assert tracemalloc.get_traced_memory()[1] < 2**18 + 60_000, (
        "the buffer of hashlib.file_digest, and the index"
    )
    tracemalloc.reset_peak()
    for i in range(3, 3000):
        rows[i]
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 60_000
    assert peak < 150_000
    assert large.stat().st_size > 1_000_000
    assert len(pickle.dumps(rows)) < 2000, "a spawned worker maps the index, too"


def test_a_file_that_changes_under_a_run_stops_it(large):
    rows = rows_of(large)
    large.write_text("[]")
    with pytest.raises(UserError, match="changed since this run began"):
        rows[0]


def test_half_an_index_is_never_used(large, monkeypatch):
    """A process that dies while it writes leaves nothing under the index's name."""
    monkeypatch.setattr(np, "save", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        LlavaRows(large, ImageFolder(str(large.parent)))
    monkeypatch.undo()
    monkeypatch.setattr(json_index, "MIN_CACHED_BYTES", 1)
    monkeypatch.setenv("VLM_CACHE", str(large.parent / "cache"))
    assert len(rows_of(large)) == 3000


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_a_key_that_stands_twice_is_a_bad_row(tmp_path, name):
    from vlm_train.data.llava import LlavaConfig

    row = '{"question": "a", "answer": "b"}'
    (tmp_path / name).write_text('{"question": "a", "answer": "b", "answer": "c"}\n' + row)
    for _ in range(2):
        rows = LlavaConfig(path=str(tmp_path / name)).rows()
        assert list(rows.faults()) == [0]
        assert "the key 'answer' appears twice" in str(rows.faults()[0])
        (tmp_path / name).write_text('[{"question": "a", "answer": "b", "answer": "c"},\n' + row + "]")


def test_two_columns_of_one_name_are_an_error(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vlm_train.data.parquet import ParquetConfig

    names = ["question", "answer", "answer"]
    pq.write_table(pa.table([["a"], ["b"], ["c"]], names=names), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="several columns are named 'answer'"):
        ParquetConfig(path=str(tmp_path / "t.parquet")).rows()


def test_an_image_id_beside_its_image_is_metadata():
    from vlm_train.data.conversation.columns import record_row

    row = record_row({"image": "red.png", "image_id": 139, "question": "a", "answer": "b"}, "x", "x").row
    assert row["image"] == ["red.png"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"images": ["a.png"]},
            "the dataset returned a row with the unknown key 'images'; possible: category,",
        ),
        ({"conversations": [{"from": "tool", "value": "x"}]}, "a turn from 'tool'; possible: gpt, human"),
    ],
)
def test_a_row_of_a_third_party_holds_nothing_that_is_not_read(row, message):
    from vlm_train.data.dataset import messages as messages_of

    with pytest.raises(UserError, match=message):
        messages_of({"id": "a", "image": [], "conversations": turns("hi", "yo"), **row})

"""Parquet: images held or named, near or far, each row group read once while it is wanted, faults row by row."""

import multiprocessing
import pickle

import fsspec
import pyarrow as pa
import pytest
from PIL import Image
from shards import COLOURS, colour, held, parquet, said

from vlm_core.errors import BadSample, UserError
from vlm_core.io import files
from vlm_core.io.images import image_name, load_image
from vlm_train.data.order.row_lengths import sizes_of
from vlm_train.data.parquet import ParquetConfig
from vlm_train.data.parquet_files import parquet_rows
from vlm_train.data.parquet_files.parquet_file import ParquetFile

RED = (255, 0, 0)


def records(count, start=0):
    """Every third without an image."""
    for i in range(start, start + count):
        image = None if i % 3 == 2 else held(COLOURS[i % 6])
        yield {"question": f"number {i}?", "answer": COLOURS[i % 6], "image": image, "extra": i}


def rows(path, **keys):
    return ParquetConfig(path=str(path), **keys).rows()


def test_rows_of_several_files_in_order_of_name(tmp_path):
    parquet(tmp_path / "d" / "b.parquet", list(records(5, 10)))
    parquet(tmp_path / "d" / "a.parquet", list(records(10)))
    for path in (tmp_path / "d", tmp_path / "d" / "*.parquet", tmp_path / "d" / "{a,b}.parquet"):
        found = rows(path)
        assert len(found) == 15
        assert [said(row)[0].removeprefix("<image>\n") for row in found] == [
            f"number {i}?" for i in range(15)
        ]
        assert [len(row["image"]) for row in found] == [int(i % 3 != 2) for i in range(15)]
    assert found[12]["id"] == f"{tmp_path}/d/b.parquet: row 2"
    assert colour(found[0]) == RED


def test_several_images_raw_bytes_and_names(tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    two = {"images": [held("red"), held("blue", "b.png")], "caption": "two"}
    none = {"images": [], "caption": "none"}
    found = rows(parquet(tmp_path / "two.parquet", [two, none]))
    assert [colour(found[0], k) for k in (0, 1)] == [RED, (0, 0, 255)]
    with pytest.raises(BadSample, match="a caption, but no image"):
        found[1]
    assert sizes_of(found).tolist() == [[len("<image>\n<image>two"), 2, 0], [0, 0, 0]]
    raw = rows(
        parquet(tmp_path / "raw.parquet", [{"picture": held("red")["bytes"], "caption": "x"}]),
        columns={"image": "picture"},
    )
    assert colour(raw[0]) == RED
    assert sizes_of(raw).tolist() == [[8, 1, 0]]
    for cell in ("red.png", {"bytes": None, "path": "red.png"}):
        named = rows(parquet(tmp_path / "named.parquet", [{"image": cell, "caption": "x"}]))
        assert named[0]["image"] == [str(tmp_path / "red.png")]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("../x.png", "path"),
        ("/etc/passwd", "path"),
        ("none.png", "missing"),
        ("pipe:touch x", "path"),
        ("http://x/y.png", "path"),
        ("a\0b", "path"),
        (held("red") | {"bytes": b"<html>"}, "not-an-image"),
        ({"bytes": None, "path": None}, "path"),
    ],
)
def test_bad_images_are_bad_rows(tmp_path, cell, reason):
    found = rows(parquet(tmp_path / "x.parquet", [{"image": cell, "caption": "x"}]))
    with pytest.raises(BadSample, match=r"x\.parquet: row 0") as caught:
        load_image(found[0]["image"][0])
    assert caught.value.reason == reason


def test_an_image_larger_than_any_file_may_be_is_not_copied(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_rows, "MAX_BYTES", 10)
    found = rows(parquet(tmp_path / "x.parquet", list(records(1))))
    with pytest.raises(BadSample, match="at most 10 are read"):
        load_image(found[0]["image"][0])


def test_a_damaged_row_group_costs_its_rows_and_no_others(tmp_path):
    path = parquet(tmp_path / "x.parquet", list(records(12)))
    start = ParquetFile(str(path)).footer().row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    found = rows(path)
    for i in (0, 3, 8, 11):
        assert f"number {i}?" in said(found[i])[0]
    for i in (4, 7):
        with pytest.raises(BadSample, match=r"row group 1 cannot be decoded") as caught:
            found[i]
        assert caught.value.reason == "damaged"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-100]), "not a parquet file, or truncated"),
        (lambda p: p.write_bytes(b"PAR1" * 9), "not a parquet file, or truncated"),
        (lambda p: p.write_bytes(b""), "not a parquet file, or truncated"),
        (lambda p: p.unlink(), "no such .parquet file"),
        (lambda p: parquet(p, [{"a": 1}]), "no column holds a conversation"),
        (lambda p: parquet(p.with_name("y.parquet"), [{"question": "q"}]), "other columns than .*: answer"),
    ],
)
def test_files_that_can_not_be_used_are_named(tmp_path, spoil, message):
    path = parquet(tmp_path / "x.parquet", list(records(3)))
    spoil(path)
    with pytest.raises(UserError, match=message):
        rows(str(tmp_path / "[xy].parquet") if path.exists() else path)


def test_a_file_that_changes_under_a_run_stops_it(tmp_path):
    path = parquet(tmp_path / "x.parquet", list(records(12)))
    found = pickle.loads(pickle.dumps(rows(path)))
    parquet(path, list(records(12, 5)))
    with pytest.raises(UserError, match="changed since this run began"):
        found[0]


@pytest.fixture
def far(tmp_path, monkeypatch):
    """24 rows in 6 row groups at a URL; `asked` collects what is read of them, `failures` are raised first."""
    name = parquet(tmp_path / "x.parquet", list(records(24)))
    system = fsspec.filesystem("memory")
    system.pipe_file("/far/x.parquet", name.read_bytes())
    asked, failures, cat = [], [], type(system).cat_file

    def watched(self, path, start=None, end=None, **kwargs):
        if failures:
            raise failures.pop()
        asked.append((start, end))
        return cat(self, path, start=start, end=end, **kwargs)

    monkeypatch.setattr(type(system), "cat_file", watched)
    monkeypatch.setattr(files, "RETRY_DELAYS", (0.0, 0.0))
    yield asked, failures
    system.rm("/far", recursive=True)


def test_a_url_is_read_a_row_group_at_a_time(far, monkeypatch):
    asked, _ = far
    found = rows("memory://far")
    assert [len(rows(url)) for url in ("memory://far/x.parquet", "memory://far/*.parquet")] == [24, 24]
    asked.clear()
    for i in range(8):
        assert f"number {i}?" in said(found[i])[0]
        for image in found[i]["image"]:
            load_image(image)
    assert len(asked) == 2, "one request a row group"
    assert image_name(found[0]["image"][0]) == "memory:///far/x.parquet: row 0, image 0"


def test_far_storage_that_stumbles_is_asked_again_and_corrupt_data_is_not(far):
    _, failures = far
    found = rows("memory://far/x.parquet")
    failures += [TimeoutError("slow"), RuntimeError("half an answer")]
    with files.io_retries() as retried:
        assert "number 0" in said(found[0])[0]
    assert retried == ["memory:///far/x.parquet"] * 2
    failures += [TimeoutError("slow")] * 3
    with pytest.raises(UserError, match=r"the storage fails: slow \(3 attempts\)") as caught:
        found[23]
    assert not isinstance(caught.value, BadSample)
    failures += [FileNotFoundError("no")]
    with pytest.raises(UserError, match=r"cannot be read: no"):
        found[23]
    assert not failures, "not asked again"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://nowhere/x.parquet", "no such .parquet file"),
        ("nonsense://x/y.parquet", "[Pp]rotocol not known"),
        ("abfs://x/y.parquet", "needs a package"),
        ("pipe:touch x", "no such .parquet file"),
    ],
)
def test_urls_that_lead_nowhere(url, message):
    with pytest.raises(UserError, match=message):
        rows(url)


def _ids(found, numbers, pipe):
    pipe.send(
        [(said(found[i]), [load_image(image).tobytes() for image in found[i]["image"]]) for i in numbers]
    )


def test_another_process_reads_the_same_rows(tmp_path):
    found = rows(parquet(tmp_path / "x.parquet", list(records(12))))
    found[0]
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_ids, args=(found, range(12), there))
    process.start()
    said_there = here.recv()
    process.join()
    assert said_there == [
        (said(row), [load_image(image).tobytes() for image in row["image"]]) for row in list(found)
    ]
    copy = pickle.loads(pickle.dumps(found))
    assert list(copy) == list(found)
    assert len(pickle.dumps(found[0]["image"][0])) < 5000, (
        "an image travels as its place, not as its row group"
    )


def test_memory_is_bounded_by_the_row_groups_at_hand(tmp_path, monkeypatch):
    """Only `together` row groups are kept, and the order of a large dataset mixes half as many."""
    path = parquet(tmp_path / "x.parquet", list(records(60)))
    assert rows(path).blocks() is None, "a small one is shuffled as a whole"
    monkeypatch.setattr(parquet_rows, "CACHED_BYTES", 4 * max(ParquetFile(str(path)).bytes))
    found = rows(path)
    blocks = found.blocks()
    assert (blocks.window, blocks.sizes.tolist()) == (2, [4] * 15)
    for i in range(60):
        found[i]
    assert len(found._cache) == 4
    assert all(isinstance(table, pa.Table) for table in found._cache.values())

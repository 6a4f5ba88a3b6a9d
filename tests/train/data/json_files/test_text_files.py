"""Byte order marks, line ends and what a JSON file holds: told by content, skipped, read or named."""

import json

import pytest
from shards import png, said, turns

from vlm_core.errors import UserError
from vlm_core.io.files import read_text
from vlm_core.spec.spec import load_spec
from vlm_train.cli import main
from vlm_train.data.llava import LlavaConfig

MARK = "\ufeff"
ROWS = [{"id": name, "conversations": turns("hi", name)} for name in ("a", "b", "c")]
LINES = [json.dumps(row) for row in ROWS]


def answers(tmp_path, text, name="rows.json"):
    (tmp_path / name).write_bytes(text.encode())
    rows = LlavaConfig(path=str(tmp_path / name)).rows()
    assert not rows.faults(), rows.faults()
    return [said(row)[1] for row in rows]


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=1),
        "[" + ",\r\n".join(LINES) + "]",
        "\n".join(LINES) + "\n",
        "\r\n".join(LINES),
        "\n\n" + "\n\n".join(LINES),
        f"\n{MARK}".join(LINES),
        " \n" + json.dumps(ROWS),
    ],
    ids=range(8),
)
@pytest.mark.parametrize("mark", ["", MARK])
def test_a_list_or_json_lines_by_any_name(tmp_path, name, text, mark):
    assert answers(tmp_path, mark + text, name) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_one_row_a_line_is_one_row(tmp_path, name):
    if name.endswith("l"):
        assert answers(tmp_path, LINES[0], name) == ["a"]
    else:
        with pytest.raises(
            UserError, match=r"expected a list of rows, got dict: .*the keys id, conversations; give"
        ):
            answers(tmp_path, LINES[0], name)


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        ({"data": ROWS}, "data"),
        ({"info": {}, "images": [1], "annotations": [{"a": [1.5]}]}, "info, images, annotations"),
        ({}, "none"),
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_a_mapping_is_named_by_its_keys(tmp_path, content, keys, indent):
    (tmp_path / "rows.json").write_text(json.dumps(content, indent=indent))
    with pytest.raises(UserError, match=f"got dict: one mapping with the keys {keys}; give the list of rows"):
        LlavaConfig(path=str(tmp_path / "rows.json")).rows()


def test_lines_that_hold_lists_are_bad_rows(tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n".join([json.dumps(turns("a", "b"))] * 2))
    rows = LlavaConfig(path=str(tmp_path / "rows.jsonl")).rows()
    assert {error.row: error.reason for error in rows.faults().values()} == {
        f"{tmp_path}/rows.jsonl: row {i}": "schema" for i in range(2)
    }


def test_rows_without_an_id_are_called_by_their_place(tmp_path):
    good = {"conversations": turns("hi", "yo")}
    lines = [json.dumps(row) for row in (good, {**good, "id": None}, {**good, "id": 7}, {"id": "bad"}, {})]
    (tmp_path / "rows.jsonl").write_text("\n".join([*lines, "{"]))
    rows = LlavaConfig(path=str(tmp_path / "rows.jsonl")).rows()
    place = f"{tmp_path}/rows.jsonl: row"
    assert [rows[i]["id"] for i in range(3)] == [f"{place} 0", f"{place} 1", "7"]
    assert [error.row for error in rows.faults().values()] == ["bad", f"{place} 4", f"{place} 5"]


def test_a_mark_in_a_spec_and_in_its_base(tmp_path, tiny_spec):
    (tmp_path / "base.yaml").write_text(json.dumps(tiny_spec), encoding="utf-8-sig")
    (tmp_path / "spec.yaml").write_bytes(f"{MARK}base: base.yaml\r\nname: marked\r\n".encode())
    spec, _ = load_spec(tmp_path / "spec.yaml")
    assert spec.name == "marked"


def test_text_is_utf8_without_a_mark_and_with_line_feeds(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\r\nb")
    assert read_text(tmp_path / "a.txt") == "a\nb"
    (tmp_path / "a.txt").write_bytes("a".encode("utf-16"))
    with pytest.raises(UserError, match=r"a\.txt:1: not UTF-8 text"):
        read_text(tmp_path / "a.txt")


def test_the_row_that_is_listed_has_its_id(run_spec, tmp_path, monkeypatch, capsys):
    """In what `check` prints and reports, as in left_out.jsonl: known to the index or only when it is read."""
    path = run_spec(held_out_qa=None)
    rows = json.loads((tmp_path / "data.json").read_text())
    (tmp_path / "broken.png").write_bytes(png("red")[:40])
    rows[1] |= {"id": "missing", "image": "none.png"}
    rows[2] |= {"id": "shape", "audios": ["a.mp3"]}
    rows[3] |= {"id": "damaged", "image": "broken.png", "conversations": turns("<image>", "x")}
    (tmp_path / "data.json").write_text(json.dumps(rows))
    monkeypatch.setattr(
        "sys.argv", ["vlm-train", "check", str(path), "--report", str(tmp_path / "bad.jsonl")]
    )
    assert main.main() == 1
    out = capsys.readouterr().out
    assert [out.count(f"row {name}: ") for name in ("missing", "shape", "damaged")] == [2, 2, 2], out
    listed = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [(record["row"], record["name"]) for record in listed[:3]] == [
        (1, "missing"),
        (2, "shape"),
        (3, "damaged"),
    ]

"""What `vlm-train init` refuses: data, names and places; nothing is written."""

import json
from pathlib import Path

import pytest
from init_data import row


def test_an_existing_file_stays(here, init):
    Path("mine.yaml").write_text("precious")
    code, said = init("mine", "--data", "data.json")
    assert code == 2
    assert "mine.yaml: exists already" in said.err
    assert Path("mine.yaml").read_text() == "precious"


@pytest.mark.parametrize("name", ["a b", "a/b", "..", "x\ny: 1", "", "é" * 60])
def test_a_name_that_no_spec_can_have(here, init, name):
    code, said = init(name, "--data", "data.json", "--out", "x.yaml")
    assert code == 2 or (name == "" and code == 0)
    assert not name or "can't be a name" in said.err
    assert Path("x.yaml").exists() == (name == "")


def questions_only():
    return [{"image": f"{i}.png", "question": "what?"} for i in range(12)]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "x.json",
            json.dumps(questions_only()),
            "12 of 12 rows can't be used, more than a tenth: mend these rows",
        ),
        ("x.json", json.dumps([{"question": "a?", "answer": "b"}] * 3), "no row has an image"),
        (
            "x.json",
            json.dumps([row(i, image=f"{i}.gif") for i in range(12)]),
            "give their folder with --images",
        ),
        ("x.json", json.dumps({"data": []}), "expected a list of rows"),
        ("x.json", "", "is empty"),
        ("x.json", "[]", "no rows"),
        ("x.csv", "image,question\n1.png,what?\n", "must be converted to one JSON line for each row"),
        ("x.txt", "hello", "unknown format; these are read: JSON"),
        ("x.json.gz", "\x1f\x0bgz", "unknown format"),
        ("photos/x.md", "", None),
    ],
)
def test_data_that_can_not_be_used(here, init, file, content, message):
    Path(file).write_text(content)
    code, said = init("mine", "--data", file)
    assert code == 2
    assert (message or "is empty") in said.err
    assert "Traceback" not in said.err
    assert not Path("mine.yaml").exists()


def test_what_is_no_data(here, init):
    code, said = init("mine", "--data", "photos")
    assert code == 2
    assert "holds 12 images, but no questions or captions" in said.err
    Path("more.jsonl").write_text("{}")
    assert "several data files (data.json, more.jsonl)" in init("mine", "--data", ".")[1].err
    assert "no such" in init("mine", "--data", "none.json")[1].err
    assert "give --data" in init("mine")[1].err.lower()
    assert (
        "--images nowhere: no such folder"
        in init("mine", "--data", "data.json", "--images", "nowhere")[1].err
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "data/rows.json: is empty"), ("image,text\na.jpg,a cat\n", "data/rows.json: unknown format")],
)
def test_a_file_is_what_its_content_says_in_a_folder_too(here, init, content, message):
    Path("data").mkdir()
    Path("data/rows.json").write_text(content)
    code, said = init("mine", "--data", "data")
    assert code == 2
    assert message in said.err


@pytest.mark.parametrize(
    ("out", "message"), [("photos", "photos: is a folder"), ("typo/mine.yaml", "typo: no such folder")]
)
def test_a_place_where_no_spec_can_be_is_told_before_rows_are_read(here, init, out, message):
    code, said = init("mine", "--data", "data.json", "--images", "photos", "--out", out, "--force")
    assert code == 2
    assert message in said.err
    assert "rows checked" not in said.out
    assert not Path("typo").exists()


def test_options_are_written_in_full(here, init, capsys):
    with pytest.raises(SystemExit):
        init("mine", "--dat", "data.json")
    assert "unrecognized arguments: --dat data.json; did you mean --data?" in capsys.readouterr().err

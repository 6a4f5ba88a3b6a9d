"""LLaVA's folders with what a download leaves out: a line for each folder, and what to do."""

import json
import shutil
import sys

import pytest
from fake_llava import INSTRUCT, write_tree

from vlm_core.errors import BadSample, UserError
from vlm_core.io.image_folder import ImageFolder
from vlm_core.spec.spec import load_spec
from vlm_train.cli import main
from vlm_train.config.section import train_section
from vlm_train.data.mixture import joined
from vlm_train.engine.bad_samples import check_budget


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tree(tmp_path)
    return tmp_path


def check(monkeypatch, capsys, *args):
    argv = ["vlm-train", "check", "specs/vl-mamba-2.8b.yaml", *args]
    monkeypatch.setattr(sys, "argv", argv)
    code = main.main()
    return code, capsys.readouterr().out


def test_bad_rows_of_llava_are_told_by_folder(tree, monkeypatch, capsys, caplog):
    code, out = check(monkeypatch, capsys)
    assert code == 0
    assert "align: 8 of 8 rows checked, 8 usable" in out
    assert "instruct: 24 of 24 rows checked, 19 usable" in out
    assert "dropped: schema 2, empty 1, damaged 1, missing 1; bad rows allowed: 1000" in out
    lines = out.splitlines()
    assert "  data/LLaVA-Instruct/ocr_vqa/images: 1 of 4 images are missing" in lines
    (cut,) = [line for line in lines if "VG_100K_2: image files" in line]
    assert "1 empty, 1 damaged" in cut
    assert "get the archive of this folder again" in cut
    assert "2 images are files with another extension than in the data" in caplog.text


def test_a_missing_folder_is_one_line(tree, monkeypatch, capsys):
    shutil.rmtree(tree / "data/LLaVA-Instruct/coco/train2017")
    rows = json.loads((tree / "data" / INSTRUCT).read_text())
    many = [{**rows[0], "id": str(i), "image": f"coco/train2017/{i}.jpg"} for i in range(500)]
    (tree / "data" / INSTRUCT).write_text(json.dumps(many + rows[3:]))
    code, out = check(monkeypatch, capsys, "--set", "train.bad_sample_budget=5")
    assert code == 1
    line = "  data/LLaVA-Instruct/coco/train2017: no such folder: all 500 images in it are missing"
    assert line in out.splitlines()
    assert "training would stop in: instruct" in out
    assert len(out.splitlines()) < 40
    spec, document = load_spec("specs/vl-mamba-2.8b.yaml", ["train.bad_sample_budget=5"])
    train = train_section(spec, document)
    with pytest.raises(UserError) as caught:
        check_budget(joined(train.stages[1].data), train, "stage instruct")
    assert caught.value.lines[0].startswith("stage instruct: 503 of 521 rows are bad")
    assert line in caught.value.lines
    assert len(caught.value.lines) == 3


def test_the_many_folders_of_the_captions_share_a_line(tree):
    shutil.rmtree(tree / "data/LLaVA-Pretrain/images")
    path = tree / "data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json"
    row = json.loads(path.read_text())[0]
    path.write_text(json.dumps([{**row, "image": f"{i:05d}/a.jpg"} for i in range(30)]))
    train = train_section(*load_spec("specs/vl-mamba-2.8b.yaml"))
    lines = joined(train.stages[0].data).missing()
    assert len(lines) == 11
    assert lines[-1] == "20 more folders: 20 of 20 images are missing"


def test_without_the_option_another_extension_is_missing_and_told(tree):
    option = "train.stages.1.data.0.any_extension=false"
    rows = joined(train_section(*load_spec("specs/vl-mamba-2.8b.yaml", [option])).stages[1].data)
    assert rows.missing() == [
        "data/LLaVA-Instruct/ocr_vqa/images: 3 of 4 images are missing; 2 are there with another extension: "
        "any_extension: true in the dataset reads them"
    ]


def test_only_the_one_file_with_the_name_is_taken(tmp_path):
    for name in ("a.gif", "b.GIF", "c.gif", "c.png", "d.txt", "e.jpg.part"):
        (tmp_path / name).write_bytes(b"x")
    folder = ImageFolder(str(tmp_path), any_extension=True)
    assert folder.locate("a.jpg", "") == str(tmp_path / "a.gif")
    assert folder.locate("b.jpg", "") == str(tmp_path / "b.GIF")
    assert folder.locate("c.png", "") == str(tmp_path / "c.png")
    for name in ("c.jpg", "d.jpg", "e.jpg", "f.jpg", "no/a.jpg"):
        with pytest.raises(BadSample, match="is missing"):
            folder.locate(name, "")
    with pytest.raises(BadSample, match="is missing"):
        ImageFolder(str(tmp_path)).locate("a.jpg", "")


def test_a_link_with_another_extension_may_not_lead_out(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out.gif").write_bytes(b"x")
    (tmp_path / "in/a.gif").symlink_to(tmp_path / "out.gif")
    with pytest.raises(BadSample, match="leaves"):
        ImageFolder(str(tmp_path / "in"), any_extension=True).locate("a.jpg", "")

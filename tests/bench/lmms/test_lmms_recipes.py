"""Task files for lmms-eval: what they redirect, and what is checked before they are written."""

from pathlib import Path

import pytest
import yaml
from lmms_data import write, write_data_sets

from vlm_bench.cli.main import main
from vlm_bench.lmms.recipes import RECIPES

Capture = pytest.CaptureFixture[str]
NAMES = [recipe.name for recipe in RECIPES]
KEYS = {"include", "task", "tag", "dataset_path", "dataset_name", "dataset_kwargs", "process_docs"}
ANSWERS = {name: ["one", "two"] for name in NAMES}


class Loader(yaml.SafeLoader):
    """Reads `!function` as a text, as lmms-eval names it."""


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def _read(path: Path) -> dict:
    return yaml.load(path.read_text(encoding="utf-8"), Loader)  # a SafeLoader with one more tag


@pytest.fixture
def stock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `lmms_eval` with the task files of the recipes, in a folder whose name YAML must quote."""
    home = tmp_path / 'a: "b" #c'
    for recipe in RECIPES:
        path = home / "lmms_eval" / "tasks" / recipe.stock()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (home / "lmms_eval" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(home)
    return home / "lmms_eval" / "tasks"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """All data sets, two rows each."""
    pytest.importorskip("pyarrow")
    write_data_sets(tmp_path / "data", ANSWERS)
    return tmp_path / "data"


def test_each_recipe_has_a_file_and_each_file_a_recipe() -> None:
    folder = Path(__file__).parents[3] / "packages/vlm-bench/src/vlm_bench/lmms/tasks"
    assert {path.stem for path in folder.iterdir()} == set(NAMES)
    assert all(recipe.files().startswith(f"{recipe.folder}/") for recipe in RECIPES)


def test_the_files_redirect_the_data_and_nothing_else(stock: Path, data: Path, capsys: Capture) -> None:
    assert main(["lmms-tasks", str(data), "--allow-partial"]) == 0
    out = capsys.readouterr().out
    assert f"--include_path {data / 'lmms-tasks'} --tasks vlm_local" in out
    for recipe in RECIPES:
        task = _read(data / "lmms-tasks" / f"{recipe.name}.yaml")
        assert set(task) == KEYS
        assert task["include"] == str(stock / recipe.stock())
        assert Path(task["include"]).is_file()
        ((_, pattern),) = task["dataset_kwargs"]["data_files"].items()
        assert pattern == str(data / recipe.files())
        assert (task["task"], task["tag"]) == (f"{recipe.name}_local", "vlm_local")
        assert (task["dataset_path"], task["dataset_name"]) == ("parquet", None)
        assert f"{recipe.name}_local: 2 rows of {recipe.rows}  PARTIAL" in out


def _refused(capsys: Capture, *arguments: object) -> str:
    """What the command says when it refuses its input."""
    assert main(["lmms-tasks", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_bad_data_is_refused_before_anything_is_written(stock: Path, data: Path, capsys: Capture) -> None:
    assert "2 rows, expected 900; hf download lmms-lab-encoder/MMMU" in _refused(capsys, data)
    (data / "OCRBench/data/test-00000-of-00001.parquet").unlink()
    text = _refused(capsys, data, "--allow-partial")
    assert "no file OCRBench/data/test-*.parquet; hf download echo840/OCRBench" in text
    damaged = data / "MMStar" / "mmstar.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    text = _refused(capsys, data, "--allow-partial")
    assert f"{damaged}: not a parquet file, or truncated" in text
    write(damaged, [{"question": "a", "image": None}])
    text = _refused(capsys, data, "--allow-partial")
    assert f"{damaged}: no column index, answer, category, l2_category; it has question, image" in text
    assert not (data / "lmms-tasks").exists()


def test_no_data_set_and_no_lmms_eval(
    stock: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no data set; expected a folder MMMU, MMStar, ai2d" in _refused(capsys, tmp_path)
    (stock / "mmstar" / "mmstar.yaml").unlink()
    assert "lmms-eval has no mmstar/mmstar.yaml; another version is needed" in _refused(capsys, tmp_path)
    monkeypatch.setattr("vlm_bench.lmms.recipes.find_spec", lambda name: None)
    assert "lmms-eval is not installed: pip install 'vlm-bench[lmms-eval]'" in _refused(capsys, tmp_path)


def test_a_data_set_without_a_folder_is_named(stock: Path, tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("pyarrow")
    rows = [{"image": None, "question": "a", "answer": "b"}] * 765
    write(tmp_path / "d/RealWorldQA/data/test-00000-of-00001.parquet", rows)
    assert main(["lmms-tasks", str(tmp_path / "d"), "--out", str(tmp_path / "tasks")]) == 0
    out = capsys.readouterr().out
    assert "realworldqa_local: 765 rows, " in out
    assert "mmstar: no folder " in out
    assert "hf download Lin-Chen/MMStar --repo-type dataset --include 'mmstar.parquet' --local-dir " in out
    assert [path.name for path in (tmp_path / "tasks").iterdir()] == ["realworldqa.yaml"]

"""Task files for lmms-eval, in which its own task files read local parquet files."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import NamedTuple

from vlm_core.errors import UserError
from vlm_core.io.atomic import write_file
from vlm_core.io.files import open_regular, read_text

INSTALL = "pip install 'vlm-bench[lmms-eval]'"
IMAGES = tuple(f"image_{i}" for i in range(1, 8))


class Recipe(NamedTuple):
    """A task file of the folder `tasks`, and the data set that it reads."""

    name: str
    repository: str  # on the Hugging Face hub, as lmms-eval 0.7.3 names it
    rows: int  # of the split
    columns: tuple[str, ...]  # that lmms-eval's task reads

    @property
    def folder(self) -> str:
        """Name of the data set's folder."""
        return self.repository.partition("/")[2]

    def template(self) -> str:
        """The task file, with `${tasks}` for lmms-eval's folder of tasks and `${data}` for that of the data sets."""
        return read_text(Path(__file__).parent / "tasks" / f"{self.name}.yaml")

    def stock(self) -> str:
        """The path of lmms-eval's task file below its folder of tasks."""
        return re.findall(r'"\$\{tasks\}/(.+)"', self.template())[0]

    def files(self) -> str:
        """The pattern of the parquet files below the folder of the data sets."""
        return re.findall(r'"\$\{data\}/(.+)"', self.template())[0]


RECIPES = (
    Recipe(
        "mmmu_val",
        "lmms-lab-encoder/MMMU",
        900,
        ("id", "question", "options", "answer", "question_type", *IMAGES),
    ),
    Recipe(
        "mmstar", "Lin-Chen/MMStar", 1500, ("index", "question", "image", "answer", "category", "l2_category")
    ),
    Recipe("ai2d", "lmms-lab-encoder/ai2d", 3088, ("question", "options", "answer", "image")),
    Recipe("chartqa", "lmms-lab-encoder/ChartQA", 2500, ("type", "question", "answer", "image")),
    Recipe("docvqa_val", "lmms-lab-encoder/DocVQA", 5349, ("question", "image", "answers")),
    Recipe("ocrbench", "echo840/OCRBench", 1000, ("dataset", "question", "question_type", "answer", "image")),
    Recipe("realworldqa", "lmms-lab-encoder/RealWorldQA", 765, ("image", "question", "answer")),
)


def stock_tasks() -> Path:
    """lmms-eval's folder of tasks; raises `UserError` if it is not installed or has other task files."""
    spec = find_spec("lmms_eval")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"lmms-eval is not installed: {INSTALL}")
    tasks = Path(spec.submodule_search_locations[0]) / "tasks"
    if missing := [recipe.stock() for recipe in RECIPES if not (tasks / recipe.stock()).is_file()]:
        raise UserError(
            f"{tasks}: lmms-eval has no {', '.join(missing)}; another version is needed: {INSTALL}"
        )
    return tasks


def count_rows(recipe: Recipe, data: Path) -> int:
    """Rows of the data set's files; raises `UserError` for missing or unreadable files and missing columns."""
    paths = sorted(data.glob(recipe.files()))
    if not paths:
        raise UserError(f"{data}: no file {recipe.files()}; {_download(recipe, data)}")
    return sum(_rows(path, recipe.columns) for path in paths)


def _rows(path: Path, columns: tuple[str, ...]) -> int:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UserError(f"reading parquet files needs {INSTALL} ({error})") from None

    with open_regular(path) as file:
        try:
            table = pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path}: not a parquet file, or truncated: {error}") from None
        existing = table.schema_arrow.names
        if missing := [column for column in columns if column not in existing]:
            raise UserError(f"{path}: no column {', '.join(missing)}; it has {', '.join(existing)}")
        return table.metadata.num_rows


def _download(recipe: Recipe, data: Path) -> str:
    target = data / recipe.folder
    pattern = recipe.files().partition("/")[2]
    return f"hf download {recipe.repository} --repo-type dataset --include '{pattern}' --local-dir {target}"


def write_tasks(data: Path, out: Path, *, allow_partial: bool = False) -> list[str]:
    """Write a task file for each data set that has a folder below `data` -> a line about each recipe.

    Raises `UserError` before the first file is written: for a data set with files, columns or, without
    `allow_partial`, rows missing, and if there is none.
    """
    tasks = stock_tasks()
    counts = {recipe: count_rows(recipe, data) for recipe in RECIPES if (data / recipe.folder).is_dir()}
    if not counts:
        raise UserError(f"{data}: no data set; expected a folder {', '.join(r.folder for r in RECIPES)}")
    for recipe, count in counts.items():
        if count != recipe.rows and not allow_partial:
            raise UserError(
                f"{data / recipe.files()}: {count} rows, expected {recipe.rows}; {_download(recipe, data)},"
                " or add --allow-partial"
            )
    for recipe in counts:
        write_file(_path(out, recipe), _filled(recipe, tasks, data))
    return [_line(recipe, counts.get(recipe), data, out) for recipe in RECIPES]


def _path(out: Path, recipe: Recipe) -> Path:
    return out / f"{recipe.name}.yaml"


def _line(recipe: Recipe, count: int | None, data: Path, out: Path) -> str:
    if count is None:
        return f"{recipe.name}: no folder {data / recipe.folder}; {_download(recipe, data)}"
    partial = "" if count == recipe.rows else f" of {recipe.rows}  PARTIAL"
    return f"{recipe.name}_local: {count} rows{partial}, {_path(out, recipe)}"


def _filled(recipe: Recipe, tasks: Path, data: Path) -> str:
    """The task file with absolute paths, as YAML's double-quoted text has them."""
    paths = {"tasks": tasks.resolve(), "data": data.resolve()}
    return Template(recipe.template()).substitute(
        {name: json.dumps(path.as_posix(), ensure_ascii=False)[1:-1] for name, path in paths.items()}
    )

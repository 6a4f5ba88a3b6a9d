"""Everything that the pages and the packages' READMEs print is executed, in order, page by page."""

from __future__ import annotations

import contextlib
import re
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from blocks import Block, blocks, check_fragment, check_spec, run_bash, run_python
from fake_llava import write_tree

ROOT = Path(__file__).parents[1]
PAGES = [
    p
    for where in (
        "docs/*.md",
        "packages/*/README.md",
        "examples/vlm-easy-vqa/README.md",
        "examples/vlm-fashion/README.md",
        "examples/vlm-grid/README.md",
        "examples/vlm-moving/README.md",
    )
    for p in sorted(ROOT.glob(where))
]
PREPARED = {"docs/reproduce.md": write_tree}
"""Pages whose commands need files that a reader downloads, and what writes them in small."""
SLOW = (
    *PREPARED,
    *(
        f"docs/{name}.md"
        for name in ("benchmarks", "costs", "data", "serving", "state", "transformers", "vision")
    ),
)
"""Pages that train, or start many processes."""
INSTALLS = re.compile(r"(?:(?:pip|apt) install .+|vlm-assemble --list|#.*|)")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def _title(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _namespace(page: Path) -> dict[str, Any]:
    """A real module's: pydantic looks annotations up by the name of the module."""
    module = ModuleType("page_" + re.sub(r"\W", "_", _title(page)))
    sys.modules[module.__name__] = module
    return module.__dict__


def _quoted(block: Block) -> str | None:
    """The file that the block quotes, as its info string says."""
    named = re.search(r"file=(\S+)", block.info)
    return named and named[1]


def _try(block: Block, page: Path, namespace: dict[str, Any], folder: Path) -> None:
    marks = block.info.split()
    if quoted := _quoted(block):
        assert block.text == (ROOT / quoted).read_text(encoding="utf-8"), f"not what {quoted} says"
    if "no-run" in marks:
        return
    if block.language == "python":
        run_python(block, page, namespace)
    elif block.language == "yaml":
        (check_fragment if "part" in marks else check_spec)(block, folder)
    elif block.language == "bash":
        run_bash(block, folder)


def _pages() -> list[Any]:
    return [pytest.param(p, marks=pytest.mark.slow if _title(p) in SLOW else ()) for p in PAGES]


@pytest.mark.parametrize("page", _pages(), ids=_title)
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python in one namespace, specs checked, commands run, all in one empty folder."""
    monkeypatch.chdir(tmp_path)
    if prepare := PREPARED.get(_title(page)):
        prepare(tmp_path)
    namespace = _namespace(page)
    for block in blocks(page):
        try:
            _try(block, page, namespace, tmp_path)
        except Exception as error:
            error.add_note(f"in the block at {_title(page)}:{block.line}")
            raise


@pytest.mark.parametrize("page", PAGES, ids=_title)
def test_marks(page: Path) -> None:
    """What is not run is a quotation or only installs; links lead to files that exist."""
    for block in blocks(page):
        if block.language == "bash" and "no-run" in block.info:
            assert all(INSTALLS.fullmatch(line) for line in block.text.splitlines()), block.text
        elif block.language in ("python", "yaml") and "no-run" in block.info:
            assert _quoted(block), f"line {block.line} is neither run nor quoted"
    text = page.read_text(encoding="utf-8")
    dead = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    assert not dead, f"dead links: {dead}"


def test_the_pages_about_data_have_their_examples() -> None:
    """The blocks that a reader copies are there: without them, the pages' tests would prove nothing."""
    example = blocks(ROOT / "docs" / "data.md")
    assert [b.language for b in example] == ["python", "yaml", "bash", "bash", "yaml", "bash"]
    assert example[1].file_name == "own.yaml"
    assert "vlm-train run own.yaml" in example[2].text
    formats = blocks(ROOT / "docs" / "data-formats.md")
    videos, others = ["python"], [*["python", "yaml"] * 2]
    assert [b.language for b in formats] == ["python", "python", "yaml", *videos, *others]


def _suites(page: Path) -> dict[str, Any]:
    """The conformance suites that a page subclasses, so that pytest runs what the page promises."""
    namespace = _namespace(page)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for block in blocks(page):
            if block.language == "python" and "no-run" not in block.info:
                run_python(block, page, namespace)
    return {name: value for name, value in namespace.items() if name.startswith("Test")}


for _page in ("plugin-models.md", "plugin-data.md"):
    globals().update(_suites(ROOT / "docs" / _page))

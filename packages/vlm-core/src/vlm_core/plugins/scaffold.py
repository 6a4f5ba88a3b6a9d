"""Writes a new plugin package from the templates in `scaffolds/`: a small working component with passing tests."""

from __future__ import annotations

import keyword
import re
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from string import Template

from vlm_core.errors import UserError, choices
from vlm_core.io.atomic import atomic_dir
from vlm_core.plugins.registry import KINDS, installed

SCAFFOLDS = ("encoder", "connector", "llm", "scan", "dataset", "benchmark")
_LAYOUT = {  # template -> file of the package
    "README.md": "README.md",
    "pyproject.toml": "pyproject.toml",
    "init.py": "src/$package/__init__.py",
    "plugin.py": "src/$package/plugin.py",
    "module.py": "src/$package/$module.py",
    "test.py": "tests/test_$module.py",
}
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST = 40


def new_plugin(kind: str, name: str, out: Path | None = None) -> Path:
    """Write the package `vlm-KIND-NAME` with a component of type `name` -> its folder.

    `out` is the folder, by default the package's name in the working directory. Raises `UserError` for an unknown kind,
    a name that is invalid or used by an installed component, and a folder that exists.
    """
    if kind not in SCAFFOLDS:
        raise UserError(f"there is no scaffold for {kind!r}{choices(kind, SCAFFOLDS)}")
    _check_name(kind, name)
    values = _values(kind, name)
    folder = out or Path(values["distribution"])
    with atomic_dir(folder) as tmp:
        for path, text in _files(kind, values).items():
            (tmp / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp / path).write_text(text, encoding="utf-8")
    return folder


def _check_name(kind: str, name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        near = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        hint = f"; how about {near!r}?" if _NAME.fullmatch(near) and len(near) <= _LONGEST else ""
        raise UserError(
            f"{name!r} can't be a component's name: expected small letters and digits, a letter first, parts joined "
            f"by single hyphens, at most {_LONGEST} characters{hint}"
        )
    if keyword.iskeyword(name) or name in ("plugin", *KINDS):
        raise UserError(f"{name!r} means something else in Python or here; choose another name")
    if taken := [e.distribution for e in installed().of_kind(kind).get(name, [])]:
        raise UserError(
            f"{kind} {name!r} exists already, in {taken[0]}; two packages can't claim one name, choose another"
        )


def _values(kind: str, name: str) -> dict[str, str]:
    """The values of the placeholders in the templates."""
    distribution = f"vlm-{kind}-{name}"
    major, minor = (int(part) for part in version("vlm-core").split(".")[:2])
    return {
        "kind": kind,
        "what": "language model" if kind == "llm" else kind,
        "type": name,
        "distribution": distribution,
        "package": distribution.replace("-", "_"),
        "module": name.replace("-", "_"),
        "class_name": "".join(part.capitalize() for part in name.split("-")),
        "compatible": f">={major}.{minor},<{major}.{minor + 1}",
    }


def _files(kind: str, values: dict[str, str]) -> dict[str, str]:
    """Contents of the package by path; a kind without its own template uses the common one, if any."""
    contents = {f"src/{values['package']}/py.typed": ""}
    for template, path in _LAYOUT.items():
        sources = [
            files("vlm_core.plugins") / "scaffolds" / part / f"{template}.tmpl" for part in (kind, "common")
        ]
        for source in (s for s in sources if s.is_file()):
            text = Template(source.read_text(encoding="utf-8")).substitute(values)
            contents[Template(path).substitute(values)] = text
            break
    return contents

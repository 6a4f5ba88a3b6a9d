"""Code that lies in a folder beside a model: its files, whose permission it needs, and how a saved model keeps it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from vlm_core.errors import UserError
from vlm_core.io.files import read_json, read_text
from vlm_core.io.manifest import sha256
from vlm_core.io.private_folder import why_untrusted
from vlm_core.markup.printable import printable

CONFIG = "config.json"
OPTION = "--trust-remote-code"
_CLASS = re.compile(r"\w+\.\w+")
log = logging.getLogger(__name__)


def refuse_local_code(folder: Path, what: str, *, allowed: bool) -> bool:
    """Whether code in `folder` runs with it: true only where its config.json names code and that is `allowed`.

    Raises `UserError` naming each file and its sha256 otherwise, and for code that lies elsewhere.
    """
    classes = named_classes(folder)
    if not classes:
        return False
    if elsewhere := sorted({name.partition("--")[0] for name in classes if "--" in name}):
        raise UserError(
            f"{printable(what)}: {folder / CONFIG} names code of the repository {printable(elsewhere[0])}, which is "
            "not among the files here; name that repository in a spec, with the commit as revision"
        )
    if odd := next((name for name in classes if not _CLASS.fullmatch(name)), None):
        raise UserError(
            f"{printable(what)}: {folder / CONFIG} names {printable(odd, 80)!r} in auto_map; expected module.Class, "
            "of a file in this folder"
        )
    files = [f"  {name}  sha256 {digest}" for name, digest in code_files(folder).items()]
    files = files or ["  no file with that code"]
    if not allowed:
        raise UserError(
            f"{printable(what)} would run code of {folder}:",
            *files,
            "Nothing of it was run. Read these files; if you trust "
            f"them, repeat the command with {OPTION} (in Python: trust_remote_code=True)",
        )
    refuse_shared_modules()
    _say_once(f"{what} runs code of {folder}:", *files)
    return True


def refuse_shared_modules() -> None:
    """Raise `UserError` if other users could change code between its copy into transformers' cache and its import."""
    try:
        from transformers import dynamic_module_utils
    except ImportError:
        return
    folder = dynamic_module_utils.HF_MODULES_CACHE  # pyright: ignore[reportPrivateImportUsage]
    if problem := why_untrusted(Path(folder)):
        raise UserError(f"code of models is imported from {folder}, which isn't safe: {problem}")


@cache
def _say_once(*lines: str) -> None:
    for line in lines:
        log.warning("%s", printable(line))


def code_files(folder: Path) -> dict[str, str]:
    """sha256 of every Python file in a folder, by path in it."""
    files = sorted(file for file in folder.rglob("*.py") if file.is_file())
    return {printable(file.relative_to(folder).as_posix()): sha256(file) for file in files}


def named_classes(folder: Path) -> list[str]:
    """The classes in code of its own that the config.json of a folder names under `auto_map`."""
    path = folder / CONFIG
    if not path.is_file():
        return []
    found = read_json(path).get("auto_map")
    return list(_texts(found))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
    elif value is not None:
        yield str(value)


def how_to_load(folder: Path) -> str:
    """What to add where a model folder is named to a person: the option, if a part brings code of its own."""
    return f" (runs code of its own: load it with {OPTION})" if any(folder.glob("*/**/*.py")) else ""


def refuse_references(assets: Path) -> None:
    """Raise `UserError` if the config.json of a saved part takes anything from a hub or from another folder."""
    path = assets / CONFIG
    if not path.is_file():
        return
    for key, value in _items(read_json(path)):
        code = key.strip("_").startswith(("attn_implementation", "experts_implementation", "backbone"))
        if (code and "/" in value) or value.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
            raise UserError(
                f"{path}: {printable(key)} names {json.dumps(printable(value, 80))}; a saved model has all of its "
                "files in its folder"
            )


def _items(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in JSON with the nearest key above it."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _items(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _items(item, key)
    elif isinstance(value, str):
        yield key, value


def repository_code(classes: Mapping[str, type]) -> tuple[dict[str, str], dict[str, str]]:
    """The code of a repository that a model needs: sources by file name, and the `auto_map` of its config.json.

    `classes` are those that the model is made of, by transformers' Auto class. Both are empty for those of its own.
    """
    import inspect

    from transformers.dynamic_module_utils import get_relative_import_files

    sources: dict[str, str] = {}
    auto_map: dict[str, str] = {}
    for auto, made in classes.items():
        kind = next(k for k in made.__mro__ if k.__module__.split(".")[0].startswith("transformers"))
        if not kind.__module__.startswith("transformers_modules."):
            continue
        file = inspect.getfile(kind)
        for path in map(Path, (file, *get_relative_import_files(file))):
            sources[path.name] = read_text(path)
        auto_map[auto] = f"{Path(file).stem}.{kind.__name__}"
    return sources, auto_map


def keep_code(folder: Path, classes: Mapping[str, type]) -> None:
    """Write the `repository_code` of a model beside its config.json, which names this code and no other."""
    sources, auto_map = repository_code(classes)
    for name, source in sources.items():
        (folder / name).write_text(source, encoding="utf-8")
    path = folder / CONFIG
    content = with_auto_map(read_json(path), auto_map)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def with_auto_map(config: dict[str, Any], auto_map: Mapping[str, str]) -> dict[str, Any]:
    """The content of a config.json that names these classes in code of its own, and no others."""
    rest = {key: value for key, value in config.items() if key != "auto_map"}
    return {**rest, "auto_map": dict(auto_map)} if auto_map else rest

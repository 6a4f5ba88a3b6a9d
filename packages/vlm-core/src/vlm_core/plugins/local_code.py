"""Python code in model folders: permission to run it, its hashes, and saving it with a model."""

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
    """Whether code in `folder` is used: True if its config.json names code and that is `allowed`, False without code.

    Raises `UserError` listing the files with their sha256 if code is not allowed, and for code of another repository.
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
            "Nothing of it was run. Read these files; if you trust them, repeat the command with "
            f"{OPTION} (in Python: trust_remote_code=True)",
        )
    refuse_shared_modules()
    _warn_once(f"{what} runs code of {folder}:", *files)
    return True


def refuse_shared_modules() -> None:
    """Raise `UserError` if other users can write to transformers' cache, from which code is imported."""
    try:
        from transformers import dynamic_module_utils
    except ImportError:
        return
    folder = dynamic_module_utils.HF_MODULES_CACHE  # pyright: ignore[reportPrivateImportUsage]
    if problem := why_untrusted(Path(folder)):
        raise UserError(f"code of models is imported from {folder}, which isn't safe: {problem}")


@cache
def _warn_once(*lines: str) -> None:
    for line in lines:
        log.warning("%s", printable(line))


def code_files(folder: Path) -> dict[str, str]:
    """sha256 of every Python file in a folder, by relative path."""
    files = sorted(file for file in folder.rglob("*.py") if file.is_file())
    return {printable(file.relative_to(folder).as_posix()): sha256(file) for file in files}


def named_classes(folder: Path) -> list[str]:
    """The classes under `auto_map` in the config.json of a folder."""
    path = folder / CONFIG
    if not path.is_file():
        return []
    return list(_texts(read_json(path).get("auto_map")))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
    elif value is not None:
        yield str(value)


def how_to_load(folder: Path) -> str:
    """A note for messages that name a model folder: the option to load it, if a part has code of its own."""
    return f" (runs code of its own: load it with {OPTION})" if any(folder.glob("*/**/*.py")) else ""


def refuse_references(assets: Path) -> None:
    """Raise `UserError` if the config.json of a saved part refers to a hub or to another folder."""
    path = assets / CONFIG
    if not path.is_file():
        return
    for key, value in _items(read_json(path)):
        code = key.strip("_").startswith(("attn_implementation", "experts_implementation", "backbone"))
        if (code and "/" in value) or value.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
            raise UserError(
                f"{path}: {printable(key)} names {json.dumps(printable(value, 80))}; a saved model has all of its "
                "files in its own folder"
            )


def _items(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string in JSON data with the nearest key above it."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _items(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _items(item, key)
    elif isinstance(value, str):
        yield key, value


def repository_code(classes: Mapping[str, type]) -> tuple[dict[str, str], dict[str, str]]:
    """The repository code of a model: sources by file name, and the `auto_map` for its config.json.

    `classes` are the model's classes by transformers' Auto class. Both results are empty for transformers' own classes.
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
    """Write the `repository_code` of a model into its folder, and set `auto_map` in its config.json."""
    sources, auto_map = repository_code(classes)
    for name, source in sources.items():
        (folder / name).write_text(source, encoding="utf-8")
    path = folder / CONFIG
    content = with_auto_map(read_json(path), auto_map)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def with_auto_map(config: dict[str, Any], auto_map: Mapping[str, str]) -> dict[str, Any]:
    """The content of a config.json with this `auto_map`, or without one if it is empty."""
    others = {key: value for key, value in config.items() if key != "auto_map"}
    return {**others, "auto_map": dict(auto_map)} if auto_map else others

"""`save_pretrained` and `push_to_hub`: a model folder written into an existing folder, the manifest last."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from vlm_core.errors import UserError
from vlm_core.io.atomic import write_errors, write_file
from vlm_core.io.files import MAX_BYTES, read_bytes
from vlm_core.io.manifest import MANIFEST, read_manifest, write_folder
from vlm_core.markup import markdown
from vlm_core.model_folder.file_list import verify_model
from vlm_core.model_folder.weights import WEIGHTS, disk_errors, save_part

INDEX = "model.safetensors.index.json"
CARD, CONFIG, GENERATION = "README.md", "config.json", "generation_config.json"
_TMP = ".saving"
"""Temporary subfolder of a save that replaces a model; the next save removes what an interrupted one left."""
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def small_files(folder: Path) -> dict[str, bytes]:
    """The files of a model folder except weights, manifest and index, read now: the folder may be deleted later."""
    if not (folder / MANIFEST).is_file():  # a processor without a model
        names = [f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()]
    else:
        names = [*read_manifest(folder)["files"], CARD]
    skipped = (WEIGHTS, MANIFEST, INDEX)
    small = [name for name in names if name.rpartition("/")[2] not in skipped and (folder / name).is_file()]
    if (size := sum((folder / name).stat().st_size for name in small)) > MAX_BYTES:
        raise UserError(f"{folder}: {size} bytes in files besides weights; at most {MAX_BYTES} are read")
    return {name: read_bytes(folder / name) for name in small}


def verify_small_files(folder: Path) -> None:
    """Raise `UserError` if files other than weights differ from the manifest; a processor without a model has none."""
    if (folder / MANIFEST).exists():
        verify_model(folder, weights=False)


def saved_names(folder: Path) -> list[str]:
    """Every file of the model in a folder, including manifest, index and card."""
    return [*_listed(folder), MANIFEST, INDEX, CARD]


def put_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write each content into the folder under its name."""
    for name, content in files.items():
        write_file(folder / name, content)


def add_small_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a processor's files into a folder without a model; with one, raise `UserError` unless they are the same."""
    if not (folder / MANIFEST).is_file():
        put_files(folder, files)
        return
    for name, content in files.items():
        if name in (CARD, CONFIG, GENERATION):
            continue
        if not (folder / name).is_file() or read_bytes(folder / name) != content:
            raise UserError(f"{folder} holds another model than this processor's: {name} differs")


def replace_folder(target: Path, write: Any, facts: dict[str, Any], card: Any) -> None:
    """As `write_folder`, into a folder that may have other files; the files of a model saved there before are removed.

    The manifest is moved last, so that reading a half-replaced folder is an error.
    """
    if target.is_file():
        raise UserError(f"{target} is a file; a model is saved as a folder")
    if not target.exists():
        write_folder(target, write, facts, card)
        return
    tmp = target / _TMP
    killed = tmp.exists()
    with write_errors(target):
        shutil.rmtree(tmp, ignore_errors=True)
        try:
            write_folder(tmp, write, facts, card)
            files = sorted(f.relative_to(tmp).as_posix() for f in tmp.rglob("*") if f.is_file())
            before = _saved_before(target, files, killed)
            (target / MANIFEST).unlink(missing_ok=True)
            for name in sorted(files, key=lambda name: name == MANIFEST):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(tmp / name, target / name)
            for name in before - set(files):
                (target / name).unlink(missing_ok=True)
        finally:
            shutil.rmtree(tmp, ignore_errors=True)


def _saved_before(target: Path, files: Iterable[str], killed: bool) -> set[str]:
    """Files of the model in `target`.

    After an interrupted save, or with a damaged manifest, these are all files in the subfolders of `files`.
    """
    if not killed:
        try:
            return _listed(target)
        except UserError:
            pass
    folders = {name.partition("/")[0] for name in files if "/" in name}
    paths = (f for folder in folders for f in (target / folder).rglob("*") if f.is_file())
    return {f.relative_to(target).as_posix() for f in paths}


def _listed(folder: Path) -> set[str]:
    """Files in the manifest of a folder; empty without a manifest."""
    return set(read_manifest(folder)["files"]) if (folder / MANIFEST).is_file() else set()


def size_of(limit: int | str) -> int:
    """A `max_shard_size`, such as 5GB, in bytes; `UserError` for other formats."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?I?B)", str(limit).upper())
    if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0:
        return limit
    if match is None or match[2] not in UNITS:
        raise UserError(f"max_shard_size {limit!r}: expected bytes, or a size such as 5GB")
    return int(float(match[1]) * UNITS[match[2]])


def save_parts(
    folder: Path, model: nn.Module, parts: Iterable[str], limit: int, tensors: Mapping[str, Tensor] | None
) -> None:
    """Write the weights of each part, and the index from which transformers' Trainer resumes.

    `tensors`, by their names in the whole model, replace the model's own weights.
    """
    index: dict[str, str] = {}
    for part in parts:
        module, file = getattr(model, part), folder / part / WEIGHTS
        file.parent.mkdir(parents=True, exist_ok=True)
        if tensors is None:
            save_part(module, file)
        else:
            with disk_errors():
                save_file(_part_tensors(module, f"model.{part}.", tensors), file, metadata={"format": "pt"})
        if file.stat().st_size > limit:
            raise UserError(
                f"max_shard_size: each part is one file, and {part} has {file.stat().st_size / 1e9:.1f} GB; "
                "leave max_shard_size out"
            )
        index |= {f"model.{part}.{name}": f"{part}/{WEIGHTS}" for name in module.state_dict()}
    if unknown := sorted(set(tensors or ()) - set(index)):
        raise UserError(f"state_dict: this model has no {', '.join(unknown[:3])}")
    content = {"metadata": {"names": "in a part's file without the prefix model.PART"}, "weight_map": index}
    (folder / INDEX).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _part_tensors(module: nn.Module, prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one part in a state dict; of tied names, one is enough. `UserError` if some are missing."""
    names: dict[int, list[str]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    part_tensors, missing = {}, []
    for tied in names.values():
        name = next((name for name in tied if prefix + name in tensors), None)
        if name is None:
            missing.append(prefix + tied[0])
        else:
            part_tensors[name] = tensors[prefix + name].detach().cpu().contiguous().clone()
    if missing:
        raise UserError(f"state_dict: {len(missing)} weights are missing, such as {', '.join(missing[:3])}")
    return part_tensors


def full_names(
    tensors: Mapping[str, Tensor], model_names: Iterable[str], parts: Iterable[str]
) -> Mapping[str, Tensor]:
    """Tensors of one part's file under their names in the whole model; other tensors unchanged.

    Raises `UserError` if more than one part has tensors of these names.
    """
    names = set(model_names)
    if not tensors or names & set(tensors):
        return tensors
    fits = [part for part in parts if all(f"model.{part}.{name}" in names for name in tensors)]
    if len(fits) > 1:
        raise UserError(
            f"the weights fit {' and '.join(fits)}, and {WEIGHTS} doesn't name its part; load the model folder"
        )
    return {f"model.{fits[0]}.{name}": t for name, t in tensors.items()} if fits else tensors


def card_of(card: bytes, manifest: Mapping[str, Any]) -> str:
    """A model card whose table of files is that of the manifest; other text, which people edit, is unchanged."""
    text = card.decode("utf-8")
    for name, fact in manifest["files"].items():
        cell, row = markdown.text(name), f"{fact['bytes']} | `{fact['sha256']}` |"
        text = re.sub(
            rf"^(\| {re.escape(cell)} \| )\d+ \| `[0-9a-f]{{64}}` \|$",
            rf"\g<1>{row}",
            text,
            flags=re.MULTILINE,
        )
    return text


REPOSITORY = ("repo_id", "private", "token")
COMMIT = ("commit_message", "commit_description", "revision", "create_pr")
Upload = Callable[[Path, Iterable[str]], None]


def upload_of(push_to_hub: bool, arguments: Mapping[str, Any]) -> Upload:
    """A function that uploads named files of a folder to the hub, or does nothing without `push_to_hub`.

    Raises `UserError` for unknown arguments.
    """
    options = {name: value for name, value in arguments.items() if value is not None and value is not False}
    if unknown := [name for name in options if not push_to_hub or name not in (*REPOSITORY, *COMMIT)]:
        possible = ", ".join((*REPOSITORY, *COMMIT))
        raise UserError(
            f"save_pretrained does not know {', '.join(unknown)} for this model; with push_to_hub=True: {possible}"
        )
    if not push_to_hub:
        return lambda folder, names: None
    return lambda folder, names: _upload(folder, names, options)


def _upload(folder: Path, names: Iterable[str], options: Mapping[str, Any]) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        api = HfApi(token=options.get("token"))
        repository = api.create_repo(
            options.get("repo_id") or folder.resolve().name, private=options.get("private"), exist_ok=True
        )
        api.upload_folder(
            repo_id=repository.repo_id,
            folder_path=folder,
            allow_patterns=list(names),
            **{name: value for name, value in options.items() if name in COMMIT},
        )
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{folder} is saved, but was not uploaded: {reason:.300}") from None

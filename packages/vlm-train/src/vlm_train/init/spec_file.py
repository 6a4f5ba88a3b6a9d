"""Writes a new spec after validating it as every command does."""

from __future__ import annotations

import os
import re
from pathlib import Path

from vlm_core.errors import UserError
from vlm_core.io.atomic import write_file
from vlm_core.io.yaml_loader import parse
from vlm_core.plugins.config import Download
from vlm_core.spec.spec import Spec, validate_document
from vlm_train.config.section import train_section
from vlm_train.config.train import TrainConfig

_NAME = re.compile(r"[\w.+-]+")
_LONGEST = 100


def check_name(name: str) -> None:
    """Raise `UserError` for a name that a spec or a run folder can't have."""
    if _NAME.fullmatch(name) and name.strip(".") and len(name.encode()) <= _LONGEST:
        return
    near = suggested_name(name)
    raise UserError(
        f"{name!r:.80} can't be a name: expected letters, digits, _, ., + and -, at most {_LONGEST} bytes; "
        f"how about {near}?"
    )


def suggested_name(text: str) -> str:
    """A valid name that resembles `text`."""
    near = re.sub(r"[^\w.+]+", "-", text).strip("-.")
    return near.encode()[:_LONGEST].decode(errors="ignore") or "mine"


def check_target(path: Path, *, overwrite: bool = False) -> None:
    """Raise `UserError` for an existing file, unless it may be overwritten, for a folder, and for a missing folder."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the name of a new spec file")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; make it first")
    if os.path.lexists(path) and not overwrite:
        raise UserError(f"{path}: exists already; choose another name, or overwrite it with --force")


def write_spec(path: Path, text: str) -> tuple[Spec, TrainConfig]:
    """Validate `text`, write it to `path`, and return the spec and its `train` section."""
    document = parse(text, str(path))
    spec = validate_document(document)
    train = train_section(spec, document)
    write_file(path, text)
    return spec, train


def downloads(spec: Spec) -> list[Download]:
    """The downloads of the first run."""
    parts = (spec.encoder, spec.connector, spec.llm)
    return [one for part in parts for config in part.components() for one in config.downloads()]

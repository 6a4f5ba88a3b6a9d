"""Components from a hub, whose repository may bring code: who lets it run, and the code of a repository as files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import Field, PrivateAttr, model_validator

from vlm_core.errors import UserError
from vlm_core.plugins.config import ComponentConfig, WeightsSource
from vlm_core.plugins.local_code import refuse_local_code, refuse_shared_modules

C = TypeVar("C", bound=ComponentConfig)
Trust = Literal["nothing", "commits", "files"]
"""Whose code may run where `trust_remote_code` is true: nobody's, as in the spec of a model folder; that of a hub
repository at the commit that a person's spec names; or also files of this machine, which only a person allows."""


def source_of(name: str, revision: str | None) -> WeightsSource:
    """The source of weights that a spec names: a file or folder here, else a hub repository."""
    at = f" at {revision}" if revision else ""
    return WeightsSource(name if Path(name).exists() else f"hub repository {name}{at}")


class FromHub(ComponentConfig):
    """The keys `revision` and `trust_remote_code`; the second needs the first to be a commit."""

    revision: str | None = Field(default=None, min_length=1, description="commit, branch or tag of `model`")
    trust_remote_code: bool = Field(
        default=False,
        description="run the model code of the repository; needs revision to be a commit. Code in local files also "
        "needs the option --trust-remote-code",
    )
    _trust: Trust = PrivateAttr(default="files")
    """What a config made in Python allows; one that is read from data allows less."""

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        """Code that is run unseen must at least be the code that somebody has looked at."""
        if self.trust_remote_code and not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ValueError(
                f"trust_remote_code runs code from the hub, so revision must pin it: got {self.revision!r}, "
                "expected the 40 hex digits of the commit that you have read"
            )
        return self

    def runs_code(self, source: str | Path) -> bool:
        """Whether code that comes with `source`, a hub id or a local folder, may run: what `build` tells its library.

        False where a local folder names no code. Raises `UserError` naming the files, with their hashes, if they need
        a person's permission.
        """
        if not self.trust_remote_code:
            return False
        if Path(source).exists():
            return refuse_local_code(Path(source), self.label(), allowed=self._trust == "files")
        if self._trust == "nothing":
            raise UserError(
                f"{self.label()} runs code of the hub repository {source} at {self.revision}, and the spec that says "
                "so is a model folder's. Nothing of it was run; if you have read that code, repeat the command with "
                "--trust-remote-code"
            )
        refuse_shared_modules()
        return True

    def refuse_code_export(self) -> None:
        """Raise `UserError` if exporting the code would copy that of another repository into a model folder."""
        if self.trust_remote_code:
            raise UserError(
                f"{self.label()} runs code of its own repository, which can't be exported; leave out --with-code"
            )


def with_trust(config: C, trust: Trust) -> C:
    """The config, just read from a spec, which is told whose code it may run."""
    for one in _from_hub([config]):
        one._trust = trust
    return config


def runs_own_code(parts: Iterable[ComponentConfig]) -> bool:
    """Whether one of these parts runs code of its repository, as far as its spec goes."""
    return any(one.trust_remote_code and one._trust != "nothing" for one in _from_hub(parts))


def _from_hub(parts: Iterable[ComponentConfig]) -> Iterable[FromHub]:
    return (one for part in parts for one in part.components() if isinstance(one, FromHub))

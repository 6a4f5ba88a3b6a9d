"""Components from a hub, whose repository may contain code: whether that code may run."""

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
"""The code that may run if `trust_remote_code` is true: none (spec of a model folder), that of a hub repository at a
pinned commit (a user's spec), or also local files (a user's command line or Python code)."""


def source_of(name: str, revision: str | None) -> WeightsSource:
    """The source of weights `name`: a local file or folder, else a hub repository."""
    at = f" at {revision}" if revision else ""
    return WeightsSource(name if Path(name).exists() else f"hub repository {name}{at}")


class FromHub(ComponentConfig):
    """A component with the keys `revision` and `trust_remote_code`, which requires a commit as revision."""

    revision: str | None = Field(default=None, min_length=1, description="commit, branch or tag of `model`")
    trust_remote_code: bool = Field(
        default=False,
        description="run the model code of the repository; needs revision to be a commit. Code in local files also "
        "needs the option --trust-remote-code",
    )
    _trust: Trust = PrivateAttr(default="files")
    """Trust of a config made in Python; configs read from a spec get less, by `with_trust`."""

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        """`trust_remote_code` requires a commit, so that the code that runs is the code that was reviewed."""
        if self.trust_remote_code and not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ValueError(
                f"trust_remote_code runs code from the hub, so revision must pin it: got {self.revision!r}, "
                "expected the 40 hex digits of the commit that you have read"
            )
        return self

    def runs_code(self, source: str | Path) -> bool:
        """Whether code of `source`, a hub id or a local folder, runs: the value of the library's `trust_remote_code`.

        False if a local folder's config names no code. Raises `UserError` listing the files with their hashes if the
        user has not allowed them.
        """
        if not self.trust_remote_code:
            return False
        if Path(source).exists():
            return refuse_local_code(Path(source), self.label(), allowed=self._trust == "files")
        if self._trust == "nothing":
            raise UserError(
                f"{self.label()} would run code of the hub repository {source} at {self.revision}, which the spec of a "
                "model folder can't allow. Nothing of it was run; if you have read that code, repeat the command with "
                "--trust-remote-code"
            )
        refuse_shared_modules()
        return True

    def refuse_code_export(self) -> None:
        """Raise `UserError` if the component's code is that of a hub repository, which is not exported."""
        if self.trust_remote_code:
            raise UserError(
                f"{self.label()} runs code of its own repository, which can't be exported; leave out --with-code"
            )


def with_trust(config: C, trust: Trust) -> C:
    """Set which code a config that was read from a spec may run; returns the config."""
    for one in _from_hub([config]):
        one._trust = trust
    return config


def runs_own_code(parts: Iterable[ComponentConfig]) -> bool:
    """Whether the spec of one of these parts allows code of a hub repository to run."""
    return any(one.trust_remote_code and one._trust != "nothing" for one in _from_hub(parts))


def _from_hub(parts: Iterable[ComponentConfig]) -> Iterable[FromHub]:
    return (one for part in parts for one in part.components() if isinstance(one, FromHub))

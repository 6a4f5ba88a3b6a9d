"""Components from a hub, whose repository may bring code: only if the spec says so, and only a commit that it names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from vlm_core.config import ComponentConfig, WeightsSource
from vlm_core.errors import UserError


def source_of(name: str, revision: str | None) -> WeightsSource:
    """The source of weights that a spec names: a file or folder here, else a hub repository."""
    at = f" at {revision}" if revision else ""
    return WeightsSource(name if Path(name).exists() else f"hub repository {name}{at}")


class FromHub(ComponentConfig):
    """The keys `revision` and `trust_remote_code`; the second needs the first to be a commit."""

    revision: str | None = Field(default=None, min_length=1, description="commit, branch or tag of `model`")
    trust_remote_code: bool = Field(
        default=False, description="run the model code of the repository; needs revision to be a commit"
    )

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        """Code that is run unseen must at least be the code that somebody has looked at."""
        if self.trust_remote_code and not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ValueError(
                f"trust_remote_code runs code from the hub, so revision must pin it: got {self.revision!r}, "
                "expected the 40 hex digits of the commit that you have read"
            )
        return self

    def refuse_to_travel(self) -> None:
        """Raise `UserError` where the code of another repository would have to go into a model folder."""
        if self.trust_remote_code:
            raise UserError(
                f"{self.label()} runs code of its own repository, which can't travel; leave out --with-code"
            )

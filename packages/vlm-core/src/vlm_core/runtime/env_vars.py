"""Environment variables of libraries that would change the result although no spec sets them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from vlm_core.errors import UserError

OFF = ("", "0", "no", "false", "f", "n", "off", "none")


class Override(NamedTuple):
    """What a variable does unless its value, in lower case, is one of `harmless`; and what to do instead."""

    does: str
    instead: str
    harmless: tuple[str, ...] = OFF


_ROUNDS = "rounds the numbers of fp32 products"
_FPMATH = Override(_ROUNDS, "unset it", ("", "strict"))
_NAFLEX = Override("builds another model under the same name", "unset it, and name the NaFlex model")
OVERRIDES = {
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": Override(_ROUNDS, "unset it"),
    "ONEDNN_DEFAULT_FPMATH_MODE": _FPMATH,
    "DNNL_DEFAULT_FPMATH_MODE": _FPMATH,
    "TIMM_USE_NAFLEXVIT": _NAFLEX,
    "TIMM_USE_NAFLEX": _NAFLEX,
}
"""Of the libraries that compute."""


def refuse_overrides(overrides: Mapping[str, Override] = OVERRIDES) -> None:
    """Raise one `UserError` that names every variable with a harmful value."""
    faults = [
        f"{name}={os.environ[name]} {rule.does}, which a spec can't ask for: {rule.instead}"
        for name, rule in overrides.items()
        if os.environ.get(name, "").lower() not in rule.harmless
    ]
    if faults:
        raise UserError("environment variables would change the result:", *faults)


_READ_BY_ACCELERATE = ("ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_", "FORK_LAUNCHED")


def hide_from_accelerate() -> None:
    """Remove accelerate's variables from the environment of this process, and so of its children."""
    for name in [name for name in os.environ if name.startswith(_READ_BY_ACCELERATE)]:
        del os.environ[name]

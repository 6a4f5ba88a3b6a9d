"""Environment variables of libraries that change a result without being part of its spec."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from vlm_core.errors import UserError

OFF = ("", "0", "no", "false", "f", "n", "off", "none")


class Override(NamedTuple):
    """The effect of a variable whose value, in lower case, is not one of `harmless`; and what to do instead."""

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
"""Variables of the numerical libraries."""


def refuse_overrides(overrides: Mapping[str, Override] = OVERRIDES) -> None:
    """Raise one `UserError` that names every variable with a harmful value."""
    faults = [
        f"{name}={os.environ[name]} {rule.does}, which no spec can set: {rule.instead}"
        for name, rule in overrides.items()
        if os.environ.get(name, "").lower() not in rule.harmless
    ]
    if faults:
        raise UserError("environment variables would change the result:", *faults)


_READ_BY_ACCELERATE = ("ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_", "FORK_LAUNCHED")


def hide_from_accelerate() -> None:
    """Remove accelerate's variables from the environment of this process and its children."""
    for name in [name for name in os.environ if name.startswith(_READ_BY_ACCELERATE)]:
        del os.environ[name]

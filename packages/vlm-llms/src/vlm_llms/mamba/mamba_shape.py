"""Shape of a Mamba-1 model, and the shapes of the published checkpoints."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, PositiveInt, ValidationError

from vlm_core.errors import UserError
from vlm_core.io.files import read_json
from vlm_core.plugins.config import StrictModel

MAX_WIDTH = 2**16


class MambaShape(StrictModel):
    """Sizes of a Mamba-1 model; `vocab_size` counts embedding rows, including padding."""

    d_model: PositiveInt = Field(le=MAX_WIDTH)
    n_layer: PositiveInt = Field(le=1024)
    vocab_size: PositiveInt = Field(le=2**22)
    d_state: PositiveInt = Field(default=16, le=1024)
    d_conv: PositiveInt = Field(default=4, le=16)
    expand: PositiveInt = Field(default=2, le=16)
    dt_rank: PositiveInt | None = Field(default=None, le=MAX_WIDTH)

    @classmethod
    def saved(cls, file: Path) -> MambaShape:
        """The shape in a `mamba.json`; raises `UserError` for a file that holds none."""
        try:
            return cls.model_validate(read_json(file))
        except ValidationError as error:
            fault = error.errors()[0]
            key = ".".join(map(str, fault["loc"]))
            raise UserError(f"{file}: {key:.80}: {fault['msg']}; restore the folder from a copy") from None

    def parameters(self) -> int:
        """Number of parameters; the output layer shares the embedding's."""
        inner, rank = self.expand * self.d_model, self.dt_rank or -(-self.d_model // 16)
        projections = 3 * self.d_model * inner + inner * (rank + 2 * self.d_state) + rank * inner
        channels = inner * (self.d_conv + 1 + 1 + self.d_state + 1)  # conv and its bias, dt bias, A_log, D
        return self.n_layer * (projections + channels + self.d_model) + (self.vocab_size + 1) * self.d_model


_SIZES = {"130m": (768, 24), "370m": (1024, 48), "790m": (1536, 48), "1.4b": (2048, 48), "2.8b": (2560, 64)}
_NAMES = {f"state-spaces/mamba-{size}{form}": size for size in _SIZES for form in ("", "-hf")} | {
    "state-spaces/mamba-2.8b-slimpj": "2.8b",
    "xiuyul/mamba-2.8b-zephyr": "2.8b",
}
PUBLISHED = {
    name: MambaShape(d_model=_SIZES[size][0], n_layer=_SIZES[size][1], vocab_size=50280)
    for name, size in _NAMES.items()
}
"""Shapes of the published checkpoints (vocabulary 50277 padded to a multiple of 8), so that none needs a download."""
FP32_FILES = {f"state-spaces/mamba-{size}-hf" for size in _SIZES}
"""The published checkpoints that are stored in 4 bytes a number; the others take 2."""

"""Every registered language model passes the suite that third parties use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_transformers import TINY, write_tiny

from vlm_core.interfaces import PADDING
from vlm_core.plugins.config import LLMConfig
from vlm_core.plugins.registry import installed
from vlm_core.testing import LanguageModelSuite
from vlm_core.testing.llm import relative_difference
from vlm_llms.configs import TransformersLLMConfig
from vlm_llms.mamba.mamba_config import MambaConfig
from vlm_llms.tokenizer.tokenizer import train_bpe

Make = Callable[[Path], LLMConfig]


def _transformers(model_type: str) -> Make:
    return lambda folder: TransformersLLMConfig(model=str(write_tiny(model_type, folder)))


def _mamba(folder: Path) -> LLMConfig:
    train_bpe(["a cat on a mat, a dog in the fog"] * 3, 300).save(folder)
    return MambaConfig(d_model=16, n_layer=2, tokenizer=str(folder))


CASES: dict[str, dict[str, Make]] = {
    "mamba": {"tiny": _mamba},
    "transformers": {name: _transformers(name) for name in TINY},
}
"""By registered type: what to call a case, and how to make its config in an empty folder."""


def _suite(title: str, make: Make) -> type[LanguageModelSuite]:
    def make_config(cls: Any, tmp_path_factory: pytest.TempPathFactory) -> LLMConfig:
        return make(tmp_path_factory.mktemp("llm"))

    return type(title, (LanguageModelSuite,), {"make_config": classmethod(make_config)})


for _type, _cases in CASES.items():
    for _name, _make in _cases.items():
        _title = f"Test_{_type}_{_name}".replace("-", "_")
        globals()[_title] = _suite(_title, _make)


@torch.no_grad()
@pytest.mark.parametrize("name", TINY)
def test_decoding_a_padded_batch_equals_the_library(name: str, tmp_path: Path) -> None:
    """Prompts of 6 and 3 positions, padded in front, then fed token by token: the logits that the model itself
    has for each sequence, alone, whole and by ids."""
    torch.manual_seed(0)
    lm = TransformersLLMConfig(model=str(write_tiny(name, tmp_path))).build(weights=False).eval()
    ids, lengths = torch.randint(1, lm.vocab_size, (2, 9)), (6, 3)
    segments = torch.zeros(2, 6, dtype=torch.long)
    segments[1, :3] = PADDING
    prompts = torch.stack([ids[0, :6], ids[1, :3].repeat(2)])
    hidden, state = lm(lm.embed(prompts), segments=segments)
    seen = [lm.logits(hidden)]
    for t in range(3):
        hidden, state = lm(
            lm.embed(torch.stack([ids[i, n + t] for i, n in enumerate(lengths)])[:, None]), state=state
        )
        seen.append(lm.logits(hidden))
    for row, length in enumerate(lengths):
        theirs = lm.model(input_ids=ids[row : row + 1, : length + 3], use_cache=False).logits[0]
        ours = torch.cat(seen, 1)[row, 6 - length :]
        assert relative_difference(ours, theirs) <= 1e-5


def test_every_registered_type_has_a_case() -> None:
    ours = {
        entry.name for entry in installed().all() if entry.kind == "llm" and entry.distribution == "vlm-llms"
    }
    assert ours == CASES.keys()

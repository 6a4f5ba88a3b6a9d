"""A model whose language model brings code of its own, and folders as a stranger would make them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlm_core.export.hf_export import export_hf
from vlm_core.io.checksum import with_checksum
from vlm_core.io.manifest import MANIFEST
from vlm_core.model_folder.assemble import load

COMMIT = "0" * 40
LLAMA = {
    "vocab_size": 320,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
CONFIGURATION = """
from transformers import LlamaConfig

class MineConfig(LlamaConfig):
    model_type = "mine"
"""
MODELING = """
from transformers import LlamaForCausalLM
from pathlib import Path

from .configuration_mine import MineConfig

Path({ran!r}).write_text("ran")

class MineForCausalLM(LlamaForCausalLM):
    config_class = MineConfig
"""
CLASSES = {
    "AutoConfig": "configuration_mine.MineConfig",
    "AutoModelForCausalLM": "modeling_mine.MineForCausalLM",
}


def write_code(folder: Path, ran: Path, **config: Any) -> Path:
    """A folder of transformers with code that leaves a trace at `ran` when it is run; its weights are random."""
    from vlm_llms.tokenizer.tokenizer import train_bpe

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "configuration_mine.py").write_text(CONFIGURATION)
    (folder / "modeling_mine.py").write_text(MODELING.format(ran=str(ran)))
    content = {"model_type": "mine", "auto_map": CLASSES, "dtype": "float32", **LLAMA, **config}
    (folder / "config.json").write_text(json.dumps(content))
    train_bpe(["a cat on a mat, a dog in the fog"] * 3, 300).save(folder)
    return folder


def rewrite_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def seal(folder: Path, **more: Path) -> None:
    """Give a folder the manifest that its files have; `more` are files elsewhere, by the name that it gives them."""
    files = {f.relative_to(folder).as_posix(): f for f in folder.rglob("*") if f.is_file()} | more
    listed = {
        name: {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for name, file in sorted(files.items())
        if name not in (MANIFEST, "README.md")
    }
    manifest = json.loads((folder / MANIFEST).read_text()) | {"files": listed}
    (folder / MANIFEST).write_text(json.dumps(with_checksum(manifest)))


def openers(folder: Path, tmp_path: Path) -> dict[str, Callable[..., Any]]:
    """Every way to open a model folder."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    import vlm_core.hf  # noqa: F401
    from vlm_bench.run.tasks import LoadedModel
    from vlm_llms.export import load_llm

    return {
        "load": lambda **trust: load(folder, **trust),
        "bench": lambda **trust: LoadedModel.load(folder, None, "cpu", **trust),
        "language model": lambda **trust: load_llm(folder, **trust),
        "transformers": lambda **trust: AutoModelForImageTextToText.from_pretrained(folder, **trust),
        "processor": lambda **trust: AutoProcessor.from_pretrained(folder, **trust),
        "export": lambda **trust: export_hf(folder, tmp_path / "exported", **trust),
    }

"""Tiny random transformers models in folders, as `save_pretrained` would leave them, without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING

from vlm_llms.tokenizer.tokenizer import train_bpe

_COMMON = {
    "vocab_size": 320,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "initializer_range": 0.2,
}  # wide: layers matter
_SIZE = {"hidden_size": 16, "num_hidden_layers": 2, **_COMMON}
_ATTENTION = {**_SIZE, "intermediate_size": 32, "num_attention_heads": 4, "max_position_embeddings": 64}
_GROUPED = {**_ATTENTION, "num_key_value_heads": 2}
_MAMBA2 = {
    "mamba_d_ssm": 32,
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_chunk_size": 4,
}

TINY: dict[str, dict[str, Any]] = {
    "llama": _GROUPED,
    "qwen3": {**_GROUPED, "head_dim": 4},
    "gpt_neox": _ATTENTION,
    "gpt2": {**_COMMON, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gemma2": {**_GROUPED, "head_dim": 4, "sliding_window": 4, "final_logit_softcapping": 0.1},
    "cohere": {**_GROUPED, "logit_scale": 0.25},
    "granite": {**_GROUPED, "logits_scaling": 8.0, "embedding_multiplier": 3.0},
    "mamba": {**_SIZE, "state_size": 4, "use_mambapy": False},
    "mamba2": {**_SIZE, "num_heads": 4, "head_dim": 8, "state_size": 8, "n_groups": 2, "chunk_size": 4},
    "jamba": {
        **_GROUPED,
        "num_experts": 1,
        "num_experts_per_tok": 1,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 4,
        "use_mamba_kernels": False,
    },
    "falcon_mamba": {**_SIZE, "state_size": 4},
    "zamba2": {
        **_ATTENTION,
        "mamba_d_state": 8,
        "n_mamba_heads": 4,
        "mamba_headdim": 8,
        "chunk_size": 4,
        "hybrid_layer_ids": [1],
        "layers_block_type": ["mamba", "hybrid"],
        "adapter_rank": 4,
        "use_mem_rope": True,
        "use_mamba_kernels": False,
    },
    "nemotron_h": {
        **_GROUPED,
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
        "head_dim": 4,
        "ssm_state_size": 8,
        "mamba_num_heads": 4,
        "mamba_head_dim": 8,
        "n_groups": 2,
        "chunk_size": 4,
        "use_mamba_kernels": False,
        "n_routed_experts": 2,
        "moe_intermediate_size": 8,
        "moe_shared_expert_intermediate_size": 8,
    },
    "qwen2": _GROUPED,
    "bamba": {
        **_GROUPED,
        "attn_layer_indices": [1],
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_chunk_size": 4,
    },
    "falcon_h1": {**_GROUPED, **_MAMBA2, "head_dim": 4, "mamba_n_groups": 1},
}
"""Config fields by model type."""


def write_tiny(model_type: str, folder: Path, **changes: Any) -> Path:
    """A folder with config.json and a tokenizer; returns it."""
    fields = {**TINY[model_type], **changes}
    CONFIG_MAPPING[model_type](architectures=None, **fields).save_pretrained(folder)
    train_bpe(["a cat on a mat, a dog in the fog"] * 3, 300).save(folder)
    return folder

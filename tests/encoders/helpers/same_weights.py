"""Tiny random towers of the published architectures, their weights written in the layout of each library."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from safetensors.torch import save_file
from timm.models import register_model
from torch import Tensor
from transformers import AutoConfig, AutoModel

from vlm_core.plugins.config import EncoderConfig
from vlm_encoders import OpenClipConfig, TimmConfig, TransformersConfig

D, DEPTH, SIDE, PATCH = 32, 4, 32, 8
VIT: dict[str, Any] = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": D, "depth": DEPTH, "num_heads": 4}
HF: dict[str, Any] = {
    "hidden_size": D,
    "intermediate_size": 4 * D,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH,
}
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}
CLIP = {"mean": list(open_clip.OPENAI_DATASET_MEAN), "std": list(open_clip.OPENAI_DATASET_STD)}
Routes = dict[str, EncoderConfig]


def _random(model: Any) -> Any:
    """Every parameter its own size of numbers, so that nothing that is mixed up stays unseen."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def rename(tensors: dict[str, Tensor], *swaps: tuple[str, str]) -> dict[str, Tensor]:
    for old, new in swaps:
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    return tensors


def split_qkv(tensors: dict[str, Tensor], mark: str, names: tuple[str, str, str]) -> dict[str, Tensor]:
    """`…qkv.weight` (3D, D) as three tensors (D, D)."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        parts = tensor.chunk(3) if mark in name else (tensor,)
        for part, part_name in zip(parts, names if mark in name else (mark,), strict=True):
            renamed[name.replace(mark, part_name)] = part
    return renamed


def write_transformers(
    folder: Path, model_type: str, tensors: dict[str, Tensor], constants: dict[str, Any], **config: Any
) -> TransformersConfig:
    """A folder as `save_pretrained` writes it; what `tensors` lacks may be the pooling head alone."""
    model: Any = AutoModel.from_config(AutoConfig.for_model(model_type, **HF, **config))
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected, unexpected
    assert all(name.startswith(("head.", "embeddings.mask_token")) for name in missing), missing
    model.save_pretrained(folder)
    settings = {"image_mean": constants["mean"], "image_std": constants["std"], "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return TransformersConfig(model=str(folder))


def write_open_clip(
    folder: Path, vision: dict[str, Any], tensors: dict[str, Tensor] | None
) -> OpenClipConfig:
    """A folder as open_clip publishes it, text half included; `tensors` of the vision half or random ones."""
    text = {"width": 16, "heads": 2, "layers": 1, "vocab_size": 64, "context_length": 8}
    model = {
        "embed_dim": D,
        "quick_gelu": "timm_model_name" not in vision,
        "vision_cfg": vision,
        "text_cfg": text,
    }
    folder.mkdir(exist_ok=True)
    constants = HALF if "siglip" in str(vision) else CLIP
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": model, "preprocess_cfg": constants})
    )
    clip: Any = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    if tensors is None:
        _random(clip.visual)
    else:
        clip.visual.load_state_dict(tensors, strict=False)
    save_file(clip.state_dict(), folder / "open_clip_model.safetensors")
    return OpenClipConfig(model=f"local-dir:{folder}")


def clip(folder: Path) -> Routes:
    vision = {"width": D, "layers": DEPTH, "head_width": 8, "patch_size": PATCH, "image_size": SIDE}
    ours = write_open_clip(folder / "open_clip", vision, None)
    visual: Any = open_clip.create_model(ours.model).visual
    tensors = {k: v for k, v in visual.state_dict().items() if k != "proj"}
    names = ("q_proj", "k_proj", "v_proj")
    tensors = {
        **split_qkv(
            {k: v for k, v in tensors.items() if "in_proj_" in k}, "in_proj_", tuple(f"{n}." for n in names)
        ),
        **{k: v for k, v in tensors.items() if "in_proj_" not in k},
    }
    tensors = rename(
        tensors,
        ("conv1", "embeddings.patch_embedding"),
        ("class_embedding", "embeddings.class_embedding"),
        ("positional_embedding", "embeddings.position_embedding.weight"),
        ("ln_pre", "pre_layrnorm"),
        ("ln_post", "post_layernorm"),
        ("transformer.resblocks", "encoder.layers"),
        ("ln_", "layer_norm"),
        ("attn.", "self_attn."),
        ("c_fc", "fc1"),
        ("c_proj", "fc2"),
    )
    args = {**VIT, "num_classes": D}
    return {
        "open_clip": ours,
        "timm": TimmConfig(
            model="vit_base_patch16_clip_quickgelu_224", model_args=args, weights=str(folder / "open_clip")
        ),
        "transformers": write_transformers(
            folder / "hf", "clip_vision_model", tensors, CLIP, hidden_act="quick_gelu"
        ),
    }


@register_model
def tiny_siglip(pretrained: bool = False, **kwargs: Any) -> Any:
    """For open_clip, whose configs name a timm model and nothing of its size."""
    return timm.create_model("vit_base_patch16_siglip_224", **{**VIT, "act_layer": "gelu_tanh", **kwargs})


@register_model
def tiny_eva02(pretrained: bool = False, **kwargs: Any) -> Any:
    return timm.create_model("eva02_base_patch16_clip_224", **{**VIT, "ref_feat_shape": (4, 4), **kwargs})


SIGLIP = (
    ("patch_embed.proj", "embeddings.patch_embedding"),
    ("blocks", "encoder.layers"),
    ("layers.norm", "layers.layer_norm"),
    (".norm", ".layer_norm"),
    ("attn.proj", "self_attn.out_proj"),
)


def _siglip_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    blocks = {k: v for k, v in tensors.items() if not k.startswith(("attn_pool", "norm."))}
    (position,) = [blocks.pop(k) for k in list(blocks) if k.endswith("pos_embed")]
    names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    renamed = rename(split_qkv(blocks, "attn.qkv", names), *SIGLIP)
    renamed["embeddings.position_embedding.weight"] = position.reshape(-1, D)
    return renamed | {f"post_layernorm.{k}": tensors[f"norm.{k}"] for k in ("weight", "bias")}


def siglip(folder: Path) -> Routes:
    model = _random(timm.create_model("tiny_siglip"))
    save_file(model.state_dict(), folder / "timm.safetensors")
    trunk = {f"trunk.{k}": v for k, v in model.state_dict().items()}
    vision = {"timm_model_name": "tiny_siglip", "timm_pool": "map", "timm_proj": "none", "image_size": SIDE}
    args = {**VIT, "act_layer": "gelu_tanh"}
    ours = write_open_clip(folder / "open_clip", vision, trunk)
    base = {"model": "vit_base_patch16_siglip_224", "model_args": args}
    tensors = _siglip_names(model.state_dict())
    return {
        "timm": TimmConfig(**base, weights=str(folder / "timm.safetensors")),
        "timm, open_clip's file": TimmConfig(**base, weights=str(folder / "open_clip")),
        "open_clip": ours,
        "transformers": write_transformers(folder / "hf", "siglip_vision_model", tensors, HALF),
    }


def siglip2_naflex(folder: Path) -> Routes:
    """The format of free aspect ratio, at the grid that its position embedding is stored for."""
    args = {k: v for k, v in VIT.items() if k != "img_size"} | {"pos_embed_grid_size": (4, 4)}
    model = _random(timm.create_model("naflexvit_base_patch16_siglip", **args, act_layer="gelu_tanh"))
    save_file(model.state_dict(), folder / "timm.safetensors")
    tensors = rename(_siglip_names(model.state_dict()), ("embeds.proj", "embeddings.patch_embedding"))
    return {
        "timm": TimmConfig(
            model="naflexvit_base_patch16_siglip",
            model_args={**args, "pos_embed_grid_size": [4, 4], "act_layer": "gelu_tanh"},
            weights=str(folder / "timm.safetensors"),
            image_size=SIDE,
        ),
        "transformers": write_transformers(
            folder / "hf", "siglip2_vision_model", tensors, HALF, num_patches=16
        ),
    }


def dinov2_registers(folder: Path) -> Routes:
    """timm's file, the original one (as Meta publishes it) and transformers'."""
    model = _random(timm.create_model("vit_small_patch14_reg4_dinov2", **VIT))
    state = model.state_dict()
    save_file(state, folder / "timm.safetensors")
    at_cls = torch.randn(1, 1, D)
    start = {"cls_token": state["cls_token"] - at_cls, "register_tokens": state["reg_token"]}
    start["mask_token"] = torch.zeros(1, D)
    positions = torch.cat([at_cls, state["pos_embed"]], 1)
    blocks = {k: v for k, v in state.items() if k not in ("cls_token", "reg_token", "pos_embed")}
    torch.save({**start, "pos_embed": positions, **blocks}, folder / "original.pth")
    names = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
    tensors = rename(
        split_qkv(blocks, "attn.qkv", names),
        ("blocks", "encoder.layer"),
        ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        ("attn.proj", "attention.o_proj"),
        ("ls1.gamma", "layer_scale1.lambda1"),
        ("ls2.gamma", "layer_scale2.lambda1"),
    )
    tensors = {("layernorm" + k[4:] if k.startswith("norm.") else k): v for k, v in tensors.items()}
    tensors |= {f"embeddings.{k}": v for k, v in start.items()} | {
        "embeddings.position_embeddings": positions
    }
    base = {"model": "vit_small_patch14_reg4_dinov2", "model_args": VIT}
    constants = {"mean": list(model.pretrained_cfg["mean"]), "std": list(model.pretrained_cfg["std"])}
    return {
        "timm": TimmConfig(**base, weights=str(folder / "timm.safetensors")),
        "timm, original file": TimmConfig(**base, weights=str(folder / "original.pth")),
        "transformers": write_transformers(
            folder / "hf", "dinov2_with_registers", tensors, constants, mlp_ratio=4
        ),
    }


def eva02(folder: Path) -> Routes:
    model = _random(timm.create_model("tiny_eva02", num_classes=D))
    save_file(model.state_dict(), folder / "timm.safetensors")
    trunk = {f"trunk.{k}": v for k, v in model.state_dict().items()}
    vision = {"timm_model_name": "tiny_eva02", "timm_pool": "token", "timm_proj": None, "image_size": SIDE}
    args = {**VIT, "ref_feat_shape": [4, 4], "num_classes": D}
    base = {"model": "eva02_base_patch16_clip_224", "model_args": args}
    return {
        "timm": TimmConfig(**base, weights=str(folder / "timm.safetensors")),
        "open_clip": write_open_clip(folder / "open_clip", vision, trunk),
        "timm, open_clip's file": TimmConfig(**base, weights=str(folder / "open_clip")),
    }


FAMILIES: dict[str, Callable[[Path], Routes]] = {
    "CLIP ViT": clip,
    "SigLIP": siglip,
    "SigLIP 2 NaFlex": siglip2_naflex,
    "DINOv2 with registers": dinov2_registers,
    "EVA-02": eva02,
}

"""Export of the language model of a model folder, in the format of transformers or of `state-spaces`.

python -m vlm_llms.export MODEL DIR --format transformers
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, Literal, cast

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor, nn

from vlm_core.cli.common import Parser, add_trust, local_path, run
from vlm_core.cli.output import say
from vlm_core.errors import UserError
from vlm_core.interfaces import LanguageModel
from vlm_core.io.manifest import write_folder
from vlm_core.model_folder.file_list import verify_model
from vlm_core.model_folder.load import load_model
from vlm_core.model_folder.weights import disk_errors
from vlm_core.runtime.offline import offline
from vlm_core.spec.spec import load_folder_spec
from vlm_llms.checkpoint_files import CONFIG
from vlm_llms.mamba.mamba import EPS, MambaLM
from vlm_llms.mamba.mamba_checkpoint import EMBEDDING, HEAD, HF_EMBEDDING, MULTIPLE, padded
from vlm_llms.mamba.mamba_shape import MambaShape

Form = Literal["transformers", "state-spaces"]
FORMS: tuple[Form, ...] = ("transformers", "state-spaces")
SHARD = "5GB"


def export(lm: LanguageModel, folder: Path, form: Form) -> None:
    """Write weights, config.json and tokenizer to a new `folder`; tensors keep their dtype.

    Mamba has both formats, a model of transformers only `transformers`; raises `UserError` for another `form`.
    """
    if isinstance(lm, MambaLM):
        write = _transformers if form == "transformers" else _state_spaces
        write_folder(folder, lambda tmp: write(lm, tmp), {"format": form})
    elif form == "transformers" and hasattr(lm, "save_pretrained"):
        write_folder(folder, lm.save_pretrained, {"format": form})  # pyright: ignore[reportArgumentType]
    else:
        raise UserError(
            f"{type(lm).__name__} has no form {form!r}; possible: Mamba in {' or '.join(FORMS)}, "
            "a model of transformers in transformers"
        )


def load_llm(model: Path, *, trust_remote_code: bool = False) -> LanguageModel:
    """The language model of a model folder, without its other parts; all hashes are checked, as in `assemble.load`."""
    verify_model(model)
    config = load_folder_spec(model, trust_remote_code=trust_remote_code).llm

    def build() -> nn.ModuleDict:
        return nn.ModuleDict({"llm": config.build(weights=False, assets=model / "llm")})

    with offline():
        parts = load_model(build, model, ("llm",))
    return cast(LanguageModel, parts["llm"].eval())


def _state(lm: MambaLM) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in lm.state_dict().items()}


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _transformers(lm: MambaLM, folder: Path) -> None:
    """config.json, model.safetensors (in shards where it is large) and the tokenizer."""
    state, shape = _state(lm), MambaShape.model_validate(lm.shape)
    state[HF_EMBEDDING] = state.pop(EMBEDDING)
    eos = lm.tokenizer.eos_id
    config = {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "hidden_size": shape.d_model,
        "num_hidden_layers": shape.n_layer,
        "vocab_size": shape.vocab_size,
        "state_size": shape.d_state,
        "conv_kernel": shape.d_conv,
        "expand": shape.expand,
        "intermediate_size": shape.expand * shape.d_model,
        "time_step_rank": lm.blocks[0].mixer.dt_rank,
        "use_bias": False,
        "use_conv_bias": True,
        "hidden_act": "silu",
        "layer_norm_epsilon": EPS,
        "residual_in_fp32": True,
        "tie_word_embeddings": True,
        "bos_token_id": lm.tokenizer.bos_id,
        "eos_token_id": eos,
        "pad_token_id": eos,
        "dtype": str(state[HF_EMBEDDING].dtype).removeprefix("torch."),
    }
    _write_config(folder, config)
    with disk_errors():
        save_torch_state_dict(state, folder, max_shard_size=SHARD, metadata={"format": "pt"})
    lm.tokenizer.save(folder)


def _state_spaces(lm: MambaLM, folder: Path) -> None:
    """config.json, pytorch_model.bin with the output tied to the embedding, and the tokenizer."""
    shape, tokens = MambaShape.model_validate(lm.shape), len(lm.tokenizer)
    multiple = MULTIPLE if shape.vocab_size % MULTIPLE == 0 else 1
    ssm = {"d_state": shape.d_state, "d_conv": shape.d_conv, "expand": shape.expand, "dt_rank": shape.dt_rank}
    defaults = {"d_state": 16, "d_conv": 4, "expand": 2, "dt_rank": None}
    config = {
        "d_model": shape.d_model,
        "n_layer": shape.n_layer,
        "vocab_size": tokens if padded(tokens, multiple) == shape.vocab_size else shape.vocab_size,
        "ssm_cfg": {key: value for key, value in ssm.items() if value != defaults[key]},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": multiple,
    }
    _write_config(folder, config)
    state = _state(lm)
    with disk_errors():
        torch.save({**state, HEAD: state[EMBEDDING]}, folder / "pytorch_model.bin")
    lm.tokenizer.save(folder)


def _command(args: argparse.Namespace) -> None:
    if os.path.lexists(args.dir):
        raise UserError(f"{args.dir} exists already; name another folder, or remove this one")
    export(load_llm(args.model, trust_remote_code=args.trust_remote_code), args.dir, args.format)
    say(f"language model in the format of {args.format}: {args.dir}")


def main() -> int:
    parser = Parser(prog="python -m vlm_llms.export", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=local_path, metavar="MODEL", help="a model folder")
    parser.add_argument("dir", type=local_path, metavar="DIR", help="folder to write, which must not exist")
    parser.add_argument(
        "--format", choices=FORMS, default="transformers", help="format of the files; default %(default)s"
    )
    add_trust(parser)
    return run(parser, _command, package="vlm-llms")


if __name__ == "__main__":
    sys.exit(main())

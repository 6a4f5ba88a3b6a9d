"""Run with the folder of packages and a target folder: SmolLM2-135M-Instruct from its GGUF as safetensors."""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

packages, target = map(Path, sys.argv[1:])
(file,) = packages.rglob("SmolLM2-135M-Instruct*.gguf")
read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
plain = LlamaForCausalLM(read.config)  # what was read from a GGUF refuses to be saved
plain.load_state_dict(read.state_dict())
vars(plain.config).pop("quantization_config", None)
plain.save_pretrained(target)
AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(target)

"""A model that an engine can serve without files and image libraries: random weights, a made-up tokenizer."""

from __future__ import annotations

import json
from itertools import chain, islice, product

import torch
from perf.lib.serving import WORDS
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn

from vlm_connectors.configs import MLPConfig
from vlm_core.interfaces import Encoder
from vlm_core.model import VLM
from vlm_llms.mamba.mamba import MambaLM
from vlm_llms.tokenizer.tokenizer import FastTokenizer

Shape = tuple[int, int, int]
"""Width, layers, vocabulary."""


def made_up_tokenizer(vocabulary: int) -> FastTokenizer:
    """A byte-level BPE of bytes, the words of the questions, and pairs of bytes; id 0 is the end of text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {(f"Ġ{word}"[:end], word[end - 1]): None for word in WORDS for end in range(1, len(word) + 1)}
    pairs = (pair for pair in product(letters, letters) if pair not in words)
    merges = list(islice(chain(words, pairs), vocabulary - len(letters) - 1))
    names = ["<|endoftext|>", *letters, *("".join(pair) for pair in merges)]
    ids = {name: i for i, name in enumerate(names)}
    backend = Tokenizer(models.BPE(vocab=ids, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    definition = json.loads(backend.to_str())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    definition["added_tokens"] = [{"id": 0, "content": names[0], "special": True, **flags}]
    return FastTokenizer(json.dumps(definition), eos_id=0)


class MeanEncoder(Encoder):
    """One patch of an image: its mean colour."""

    dim, image_size = 3, (8, 8)

    def transform(self, image: Image.Image) -> Tensor:
        pixels = torch.frombuffer(bytearray(image.resize((8, 8)).tobytes()), dtype=torch.uint8)
        return pixels.view(8, 8, 3).permute(2, 0, 1).float().div(255)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return 1, 1

    def forward(self, pixel_values: Tensor) -> Tensor:
        return pixel_values.mean((2, 3), keepdim=True).permute(0, 2, 3, 1)


def gpu_model(shape: Shape, device: torch.device) -> VLM:
    """A Mamba of this shape in bf16; the end of text is never its most likely token."""
    tokenizer = made_up_tokenizer(shape[2])
    with device:
        llm = MambaLM(*shape, dtype=torch.bfloat16, load_tokenizer=lambda: tokenizer)
        llm.backbone.embedding.weight.data[llm.tokenizer.eos_id] = 0
        connector: nn.Module = MLPConfig().build(MeanEncoder.dim, llm.dim)
    return VLM(MeanEncoder(), connector.bfloat16(), llm).eval()  # pyright: ignore[reportArgumentType]

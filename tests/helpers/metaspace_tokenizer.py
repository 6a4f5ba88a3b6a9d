"""Tokenizers whose tokens have the white space before a word, which they drop at the beginning of a text."""

import json

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from vlm_llms.tokenizer.tokenizer import FastTokenizer

_WORDS = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
METASPACE = {
    "llama": {"type": "Sequence", "decoders": [_WORDS, {"type": "ByteFallback"}, {"type": "Fuse"}, _STRIP]},
    "metaspace": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
}
"""Decoders by name, as a tokenizer.json has them."""


def train_metaspace(texts, decoder, size=60):
    """Train a BPE of such tokens; `<unk>`, `<s>` and `</s>` are 0 to 2."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    names = ["<unk>", "<s>", "</s>"]
    backend.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, special_tokens=names, show_progress=False)
    )
    definition = {**json.loads(backend.to_str()), "decoder": METASPACE[decoder]}
    return FastTokenizer(json.dumps(definition), eos_id=2, bos_id=1)

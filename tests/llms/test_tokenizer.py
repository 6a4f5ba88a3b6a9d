"""Text is literal, whatever tokenizer it goes through."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from vlm_core.errors import UserError
from vlm_core.plugins.config import DatasetConfig
from vlm_llms.configs import TokenizerChoice, TrainTokenizer, load_tokenizer
from vlm_llms.tokenizer.tokenizer import FastTokenizer, train_bpe

TEXTS = ["a cat sat on the mat", "the cat in the hat", "<|endoftext|> is <image> text", "  two  spaces"] * 3
SPECIAL = ["<|padding|>", "<s>", "[INST]"]
PLAIN = ["<image>", "<|user|>", "    ", "  "]


def _published() -> FastTokenizer:
    """Laid out as GPT-NeoX's: added tokens of every sort, runs of spaces among them."""
    backend = Backend.from_str(train_bpe(TEXTS, 320)._definition)
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    backend.add_tokens([AddedToken(token, rstrip=token == "<|user|>", normalized=False) for token in PLAIN])
    backend.enable_truncation(4)
    backend.enable_padding(length=16)
    return FastTokenizer(backend.to_str(), eos_id=0)


PUBLISHED = _published()
TRAINED = train_bpe(TEXTS, 320)
pieces = st.one_of(st.text(max_size=12), st.sampled_from(["<|endoftext|>", *SPECIAL, *PLAIN, "<", "|", ">"]))
texts = st.lists(pieces, max_size=8).map("".join)


@given(texts)
def test_any_text_gives_no_control_id_and_comes_back(text: str) -> None:
    for tokenizer in (PUBLISHED, TRAINED):
        ids = tokenizer.encode(text)
        assert tokenizer.control_ids.isdisjoint(ids)
        assert tokenizer.decode(ids) == text


def test_runs_of_spaces_stay_ordinary_text() -> None:
    space = PUBLISHED.token_id("    ")
    assert space in PUBLISHED.encode("a    b")
    assert space not in PUBLISHED.control_ids
    assert PUBLISHED.control_ids == {PUBLISHED.token_id(t) for t in ["<|endoftext|>", *SPECIAL, *PLAIN[:2]]}


def test_decoding_leaves_control_ids_out() -> None:
    control = sorted(PUBLISHED.control_ids)
    assert PUBLISHED.decode([*control, *PUBLISHED.encode("a cat"), *control]) == "a cat"


def test_a_vocabulary_word_that_is_a_control_token_is_spelled() -> None:
    vocab = [("<unk>", 0.0), ("</s>", 0.0), *((c, -3.0) for c in "</s>ab")]
    backend = Backend(models.Unigram(vocab, unk_id=0, byte_fallback=False))
    backend.add_special_tokens(["</s>", "<unk>"])
    tokenizer = FastTokenizer(backend.to_str(), eos_id=1)
    assert tokenizer.encode("a</s>b") == [tokenizer.token_id(c) for c in "a</s>b"]
    assert tokenizer.encode("ax") == [tokenizer.token_id("a"), 0], "an unknown character is no command"


def test_sentencepiece_style_text_comes_back() -> None:
    letters = {f"<0x{i:02X}>": i + 3 for i in range(256)}
    backend = Backend(
        models.BPE(
            {"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 259, **letters}, [], byte_fallback=True, unk_token="<unk>"
        )
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer = FastTokenizer(backend.to_str(), eos_id=2, bos_id=1)
    ids = tokenizer.encode("<s> né</s>")
    assert tokenizer.control_ids.isdisjoint(ids)
    assert tokenizer.decode([1, *ids, 2]) == "<s> né</s>"


def test_half_a_surrogate_pair_is_named() -> None:
    with pytest.raises(UserError, match="surrogate"):
        TRAINED.encode("a\ud83d")


def test_training_is_deterministic_and_every_text_encodes() -> None:
    assert train_bpe(iter(TEXTS), 320) == TRAINED
    assert TRAINED.eos_id == TRAINED.token_id("<|endoftext|>") == 0
    assert len(train_bpe([], 257)) == 257
    assert max(len(TRAINED.encode(c)) for c in "aé語🙂") <= 4
    with pytest.raises(UserError, match="257"):
        train_bpe(TEXTS, 256)


def test_workers_get_an_equal_copy() -> None:
    copy = pickle.loads(pickle.dumps(PUBLISHED))
    assert copy == PUBLISHED
    assert hash(copy) == hash(PUBLISHED)
    assert copy.encode("<s>") == PUBLISHED.encode("<s>")


def test_saved_and_loaded_it_is_equal(tmp_path: Path) -> None:
    for tokenizer in (PUBLISHED, FastTokenizer(PUBLISHED._definition, 0, PUBLISHED.token_id(SPECIAL[1]))):
        tokenizer.save(tmp_path)
        assert FastTokenizer.load(tmp_path) == tokenizer
        assert FastTokenizer.load(str(tmp_path / "tokenizer.json")) == tokenizer


def _folder(path: Path, processor: Any = None, **beside: Any) -> Path:
    backend = Backend(models.BPE({"a": 0, "b": 1}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens(["<begin>", "<end>", "<turn>"])
    if processor is not None:
        backend.post_processor = processor
    path.mkdir(exist_ok=True)
    backend.save(str(path / "tokenizer.json"))
    for name, content in beside.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("beside", "eos"),
    [
        ({"tokenizer_config": {"eos_token": "<turn>"}, "config": {"eos_token_id": 3}}, 4),
        ({"special_tokens_map": {"eos_token": {"content": "<end>"}}}, 3),
        ({"tokenizer_config": {"eos_token": "not there"}, "config": {"eos_token_id": 3}}, 3),
        ({"config": {"eos_token_id": [4, 3]}}, 4),
        ({"generation_config": {"eos_token_id": 3}, "config": {"eos_token_id": None}}, 3),
    ],
)
def test_the_end_of_text_comes_from_the_files(tmp_path: Path, beside: dict[str, Any], eos: int) -> None:
    tokenizer = FastTokenizer.load(_folder(tmp_path / "t", **beside))
    assert (tokenizer.eos_id, tokenizer.bos_id) == (eos, None)


def test_a_tokenizer_without_end_of_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no end-of-text token.*tokenizer_config\.json"):
        FastTokenizer.load(_folder(tmp_path / "t"))


TEMPLATE = processors.TemplateProcessing(single="<begin> $A", special_tokens=[("<begin>", 2)])


@pytest.mark.parametrize(
    ("processor", "config", "bos"),
    [
        (None, {"bos_token": "<begin>"}, None),
        (None, {"bos_token": "<begin>", "add_bos_token": True}, 2),
        (TEMPLATE, {}, 2),
        (processors.Sequence([processors.ByteLevel(), TEMPLATE]), {}, 2),  # pyright: ignore[reportArgumentType]
        (TEMPLATE, {"add_bos_token": False}, None),
        (processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 3)]), {}, None),
    ],
)
def test_bos_only_where_the_authors_put_one(
    tmp_path: Path, processor: Any, config: Any, bos: int | None
) -> None:
    folder = _folder(tmp_path / "t", processor, tokenizer_config={"eos_token": "<end>", **config})
    tokenizer = FastTokenizer.load(folder)
    assert tokenizer.bos_id == bos
    assert tokenizer.encode("ab") == [0, 1], "BOS is for the template to write"
    tokenizer.save(tmp_path / "saved")
    assert FastTokenizer.load(tmp_path / "saved").bos_id == bos


def test_a_bos_that_is_wanted_but_not_named(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "t", tokenizer_config={"eos_token": "<end>", "add_bos_token": True})
    with pytest.raises(UserError, match="no bos_token is named"):
        FastTokenizer.load(folder)


def test_sources_that_hold_no_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "tokenizer.model").write_text("old")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text('{"model": {"type": "?"}}')
    for source, message in {
        str(tmp_path): "expected tokenizer.json, found broken.json, other.json, tokenizer.model",
        str(tmp_path / "no.json"): "no such file or folder",
        str(tmp_path / "broken.json"): "not JSON",
        "nobody-here/nothing": r"could not get tokenizer.json from the hub.*tokenizer: path/to/tokenizer",
    }.items():
        with pytest.raises(UserError, match=message):
            FastTokenizer.load(source)
    with pytest.raises(UserError, match=r"not a tokenizer\.json"):
        FastTokenizer('{"model": {"type": "?"}}', eos_id=0)


class Rows(DatasetConfig):
    type: Literal["rows"] = "rows"

    def rows(self) -> Sequence[dict[str, Any]]:
        turns = [("human", "<image>\nwhat is it"), ("gpt", "a <image> of cats")]
        return [{"id": "1", "image": None, "conversations": [{"from": f, "value": v} for f, v in turns]}]


def test_a_tokenizer_learnt_from_a_dataset(tmp_path: Path) -> None:
    choice = TrainTokenizer(dataset=Rows(), vocab_size=300)
    assert list(choice.texts()) == ["\nwhat is it", "a <image> of cats"]
    learnt = load_tokenizer(choice)
    assert learnt == train_bpe(choice.texts(), 300)
    PUBLISHED.save(tmp_path)
    assert load_tokenizer(choice, tmp_path) == PUBLISHED, "what was saved wins"
    assert load_tokenizer(str(tmp_path)) == PUBLISHED


def test_the_choice_of_tokenizer_names_what_is_wrong() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(TokenizerChoice)
    assert adapter.validate_python("gpt2") == "gpt2"
    for value, message in {
        5: "valid string",
        "": "at least 1 ",
    }.items():
        with pytest.raises(ValidationError, match=message):
            adapter.validate_python(value)
    with pytest.raises(ValidationError, match="greater than or equal to 257"):
        adapter.validate_python({"dataset": Rows(), "vocab_size": 100})

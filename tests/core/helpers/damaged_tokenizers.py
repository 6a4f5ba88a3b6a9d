"""Model folders whose tokenizer or chat template is damaged or hostile: `CASES` damage in place."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from damaged_configs import files, text

TOKENIZER, CONFIG = Path("llm", "tokenizer.json"), Path("llm", "tokenizer_config.json")
BIG = "a" * 10_000_000


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Another tokenizer.json."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / TOKENIZER).read_text())
        change(content)
        (folder / TOKENIZER).write_text(json.dumps(content))

    return damage


def put(**values: Any) -> Callable[[Path], None]:
    return edit(lambda content: content.update(values))


def model(**values: Any) -> Callable[[Path], None]:
    return edit(lambda content: content["model"].update(values))


def added(*tokens: dict[str, Any]) -> Callable[[Path], None]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return edit(lambda content: content["added_tokens"].extend({**plain, **token} for token in tokens))


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def sequence(*items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(items)}


def splits(pattern: dict[str, str]) -> dict[str, Any]:
    split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [split, byte_level]}


def nested(kind: str, key: str, depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {"type": kind, key: []}
    for _ in range(depth):
        inner = {"type": kind, key: [inner]}
    return inner


def unigram(vocab: Any, **values: Any) -> Callable[[Path], None]:
    return edit(
        lambda content: content.update(
            model={"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": False, **values},
            pre_tokenizer=None,
            decoder=None,
        )
    )


def word_piece(vocab: dict[str, Any], **values: Any) -> Callable[[Path], None]:
    tokenizer = {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
    }
    return put(
        model={**tokenizer, "vocab": vocab, **values}, pre_tokenizer={"type": "Whitespace"}, decoder=None
    )


def charsmap(data: bytes | str) -> dict[str, Any]:
    return {
        "type": "Precompiled",
        "precompiled_charsmap": data if isinstance(data, str) else base64.b64encode(data).decode(),
    }


BOMBS = (
    r"(a+)+$", r"(a|a)*$", r"(a|aa)+$", r"([a-zA-Z]+)*!", r"(.*)*x", r"a*a*a*a*a*a*b", r"(\w+\s?)*$", r"((a*)*)*b",
    r"(a*)+\1b", r".*.*.*=.*", r"(?=(a+)+b)", r"\s*\s*\s*\s*x", r"(?:a{1,50}){1,50}x",
)  # fmt: skip
END = {"id": 0, "content": "<|endoftext|>", "special": True}

CASES: dict[str, Callable[[Path], None]] = {
    **dict(files(TOKENIZER)),
    **dict(files(CONFIG)),
    "tokenizer model missing": edit(lambda content: content.pop("model")),
    "tokenizer model of an unknown type": model(type="Oracle"),
    "tokenizer model a list": put(model=[]),
    "tokenizer vocab a list": model(vocab=["a", "b"]),
    "tokenizer vocab empty": model(vocab={}, merges=[]),
    "tokenizer ids negative": model(vocab={"<|endoftext|>": 0, "a": -1}, merges=[]),
    "tokenizer ids beyond the embedding": edit(lambda c: c["model"]["vocab"].update(zzz=10**6)),
    "tokenizer ids of 2^32": edit(lambda c: c["model"]["vocab"].update(zzz=2**32 - 1)),
    "tokenizer ids of 2^40": edit(lambda c: c["model"]["vocab"].update(zzz=2**40)),
    "tokenizer ids as text": edit(lambda c: c["model"]["vocab"].update(zzz="7")),
    "tokenizer ids fractions": edit(lambda c: c["model"]["vocab"].update(zzz=1.5)),
    "tokenizer ids null": edit(lambda c: c["model"]["vocab"].update(zzz=None)),
    "tokenizer ids twice": edit(lambda c: c["model"]["vocab"].update(dict.fromkeys(c["model"]["vocab"], 5))),
    "tokenizer merges that do not exist": model(merges=[["q", "qqqq"], ["zzzz", "z"]]),
    "tokenizer merges of one": model(merges=[["a"]]),
    "tokenizer merges as numbers": model(merges=[1, 2]),
    "tokenizer merges old and odd": model(merges=["a b c", "a"]),
    "tokenizer merges null": model(merges=None),
    "tokenizer dropout 7": model(dropout=7.0),
    "tokenizer dropout 0.5": model(dropout=0.5),
    "tokenizer unk_token missing": model(unk_token="[nowhere]"),
    "tokenizer prefix of 10 MB": model(continuing_subword_prefix=BIG),
    "tokenizer suffix of 10 MB": model(end_of_word_suffix=BIG),
    "tokenizer byte_fallback without bytes": model(byte_fallback=True, vocab={"<|endoftext|>": 0}, merges=[]),
    "tokenizer vocab of 300 000": model(vocab={f"t{i}": i for i in range(300_000)}, merges=[]),
    "tokenizer token of 10 MB": edit(lambda c: c["model"]["vocab"].update({BIG: 299})),
    "tokenizer added token of 10 MB": added({"id": 299, "content": BIG}),
    "tokenizer added token empty": added({"id": 299, "content": ""}),
    "tokenizer added token twice": added(END, END, {**END, "id": 7}),
    "tokenizer added token without content": added({"id": 299}),
    "tokenizer added token a number": edit(lambda c: c["added_tokens"].append(7)),
    "tokenizer added token with a text id": added({"id": "7", "content": "x"}),
    "tokenizer added token with id -1": added({"id": -1, "content": "x"}),
    "tokenizer added token with id 2^32": added({"id": 2**32 - 1, "content": "x"}),
    "tokenizer added token with id 10^9": added({"id": 10**9, "content": "x"}),
    "tokenizer added token a surrogate": added({"id": 299, "content": "\ud800"}),
    "tokenizer added tokens 100 000": added(*({"id": 0, "content": f"<{i}>"} for i in range(100_000))),
    "tokenizer added tokens of 2 MB": added(*({"id": 0, "content": f"<{i}>" * 400} for i in range(1000))),
    "tokenizer vocab of 600 000": model(vocab={f"t{i}": i for i in range(600_000)}, merges=[]),
    "tokenizer added tokens a mapping": put(added_tokens={"a": 1}),
    "tokenizer added tokens missing": edit(
        lambda c: (c.pop("added_tokens"), c["model"]["vocab"].pop("<|endoftext|>"))
    ),
    "tokenizer surrogate in the vocab": text(
        TOKENIZER, '{"model": {"type": "BPE", "vocab": {"\\ud800": 0}, "merges": []}}'
    ),
    "tokenizer normalizer unknown": put(normalizer={"type": "Magic"}),
    "tokenizer normalizer a list": put(normalizer=[]),
    "tokenizer normalizer nested 100": put(normalizer=nested("Sequence", "normalizers", 100)),
    "tokenizer pre_tokenizer nested 30": put(pre_tokenizer=nested("Sequence", "pretokenizers", 30)),
    "tokenizer replaces 40 times": put(normalizer=sequence(*[replace({"String": "a"}, "aa")] * 40)),
    "tokenizer replaces by regex 40 times": put(normalizer=sequence(*[replace({"Regex": "."}, "aa")] * 40)),
    "tokenizer replaces by 1 MB": put(normalizer=replace({"String": "a"}, "b" * 1_000_000)),
    "tokenizer replaces nothing by something": put(normalizer=sequence(*[replace({"String": ""}, "a")] * 30)),
    "tokenizer replaces an empty match": put(normalizer=sequence(*[replace({"Regex": "a*"}, "aaaa")] * 30)),
    "tokenizer prepends 10 MB": put(normalizer={"type": "Prepend", "prepend": BIG}),
    "tokenizer decoder replaces 40 times": put(
        decoder={
            "type": "Sequence",
            "decoders": [
                replace({"String": "a"}, "aa"),
                {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
                *[replace({"Regex": "."}, "aa")] * 40,
            ],
        }
    ),
    "tokenizer decoder unknown": put(decoder={"type": "Magic"}),
    "tokenizer decoder strip 10^9": put(
        decoder={"type": "Strip", "content": " ", "start": 10**9, "stop": 10**9}
    ),
    "tokenizer charsmap of noise": put(normalizer=charsmap(bytes(range(256)) * 4)),
    "tokenizer charsmap empty": put(normalizer=charsmap(b"")),
    "tokenizer charsmap of 3 bytes": put(normalizer=charsmap(b"abc")),
    "tokenizer charsmap longer than itself": put(
        normalizer=charsmap((2**31).to_bytes(4, "little") + b"abcd")
    ),
    "tokenizer charsmap of ones": put(
        normalizer=charsmap((1024).to_bytes(4, "little") + b"\xff" * 1024 + b"\xff" * 64)
    ),
    "tokenizer charsmap no base64": put(normalizer=charsmap("§§§")),
    **{f"tokenizer splits by {b}": put(pre_tokenizer=splits({"Regex": b})) for b in BOMBS},
    **{f"tokenizer replaces {b}": put(normalizer=replace({"Regex": b}, "a")) for b in BOMBS[:2]},
    "tokenizer splits by a broken regex": put(pre_tokenizer=splits({"Regex": "(((["})),
    "tokenizer splits by a regex of 1 MB": put(pre_tokenizer=splits({"Regex": "a?" * 500_000})),
    "tokenizer splits by a nested regex": put(
        pre_tokenizer=splits({"Regex": "(" * 20_000 + "a" + ")" * 20_000})
    ),
    "tokenizer splits by repeated repeats": put(pre_tokenizer=splits({"Regex": "((a{1000}){1000}){1000}"})),
    "tokenizer splits by an empty string": put(pre_tokenizer=splits({"String": ""})),
    "tokenizer splits by a number": put(pre_tokenizer=splits({"Regex": 7})),  # pyright: ignore
    "tokenizer splits by length 0": put(pre_tokenizer={"type": "FixedLength", "length": 0}),
    "tokenizer Unigram of NaN": text(
        TOKENIZER,
        json.dumps(
            {
                "added_tokens": [END],
                "model": {
                    "type": "Unigram",
                    "unk_id": 0,
                    "vocab": [["<|endoftext|>", float("nan")], ["a", float("nan")]],
                },
            }
        ),
    ),
    "tokenizer Unigram of infinity": unigram([["<|endoftext|>", 0.0], ["a", 1e400]]),
    "tokenizer Unigram of 1e308": unigram([["<|endoftext|>", 0.0], *[[c, -1.7e308] for c in "abcdehlo? "]]),
    "tokenizer Unigram of 5 MB": unigram(
        [["<|endoftext|>", 0.0], *[[f"{i:x} " * 600, -1.0] for i in range(2000)]]
    ),
    "tokenizer Unigram empty": unigram([]),
    "tokenizer Unigram without unknown": unigram([["<|endoftext|>", 0.0], ["zz", -1.0]], unk_id=None),
    "tokenizer Unigram unknown beyond": unigram([["<|endoftext|>", 0.0], ["a", -1.0]], unk_id=99),
    "tokenizer Unigram unknown negative": unigram([["<|endoftext|>", 0.0], ["a", -1.0]], unk_id=-1),
    "tokenizer Unigram pieces of one": unigram([["<|endoftext|>"], ["a"]]),
    "tokenizer Unigram pieces empty": unigram([["<|endoftext|>", 0.0], ["", -1.0], ["a", -1.0]]),
    "tokenizer Unigram a mapping": unigram({"a": 1}),
    "tokenizer Unigram bytes missing": unigram([["<|endoftext|>", 0.0], ["zz", -1.0]], byte_fallback=True),
    "tokenizer WordPiece without unknown": word_piece({"<|endoftext|>": 0, "a": 1}),
    "tokenizer WordPiece prefix of 10 MB": word_piece(
        {"<|endoftext|>": 0, "[UNK]": 1}, continuing_subword_prefix=BIG
    ),
    "tokenizer WordLevel without unknown": put(
        model={"type": "WordLevel", "vocab": {"<|endoftext|>": 0}, "unk_token": "[UNK]"}
    ),
    "tokenizer post_processor broken": put(
        post_processor={
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "nope", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        }
    ),
    "tokenizer post_processor a list": put(post_processor=[]),
    "tokenizer post_processor single a number": put(
        post_processor={"type": "TemplateProcessing", "single": [7], "pair": [], "special_tokens": {}}
    ),
    "tokenizer truncation 0": put(
        truncation={"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 5}
    ),
    "tokenizer padding 10^9": put(
        padding={
            "strategy": {"Fixed": 10**9},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "x",
        }
    ),
    "tokenizer eos a list": text(CONFIG, '{"eos_token": ["a"]}'),
    "tokenizer eos nowhere": text(CONFIG, '{"eos_token": "nowhere", "eos_token_id": 10000000000}'),
    "tokenizer eos negative": text(CONFIG, '{"eos_token_id": -7}'),
    "tokenizer eos true": text(CONFIG, '{"eos_token_id": true}'),
    "tokenizer bos wanted, not named": text(CONFIG, '{"add_bos_token": true}'),
}

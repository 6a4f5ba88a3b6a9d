"""Model folders whose small files are damaged, or valid and at odds with the weights: `CASES` damage in place."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

SPEC, TIMM, MAMBA = Path("spec.yaml"), Path("encoder", "timm.json"), Path("llm", "mamba.json")
DEEP = 1_000_000


def edit(file: Path, **values: Any) -> Callable[[Path], None]:
    """Other values in a JSON file."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(content | values))

    return damage


def without(file: Path, key: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        del content[key]
        (folder / file).write_text(json.dumps(content))

    return damage


def spec(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Another spec.yaml."""

    def damage(folder: Path) -> None:
        content = yaml.safe_load((folder / SPEC).read_text())
        change(content)
        (folder / SPEC).write_text(yaml.safe_dump(content))

    return damage


def text(file: Path, content: str | bytes) -> Callable[[Path], None]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / file).write_bytes(data) and None


def _fifo(file: Path) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / file).unlink()
        os.mkfifo(folder / file)

    return damage


def files(file: Path) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """What can happen to any JSON file."""
    name = file.name
    yield f"{name} empty", text(file, "")
    yield f"{name} no JSON", text(file, "{")
    yield f"{name} a list", text(file, "[]")
    yield f"{name} an empty object", text(file, "{}")
    yield f"{name} null", text(file, "null")
    yield f"{name} not UTF-8", text(file, b'{"\xff": 1}')
    yield f"{name} nested", text(file, "[" * DEEP + "]" * DEEP)
    yield f"{name} nested objects", text(file, '{"a":' * DEEP + "1" + "}" * DEEP)
    yield f"{name} a number of 10^5 digits", text(file, '{"d_model": 1' + "0" * 100_000 + "}")
    yield f"{name} of 20 MB", text(file, '{"a": [' + "[]," * 7_000_000 + "[]]}")
    yield f"{name} missing", lambda folder: (folder / file).unlink()
    yield f"{name} a FIFO", _fifo(file)
    yield f"{name} truncated", lambda folder: os.truncate(folder / file, (folder / file).stat().st_size // 2)


def _set(part: str, **values: Any) -> Callable[[Path], None]:
    return spec(lambda content: content[part].update(values))


CASES: dict[str, Callable[[Path], None]] = {
    "spec.yaml empty": text(SPEC, ""),
    "spec.yaml a list": text(SPEC, "[1, 2]"),
    "spec.yaml not UTF-8": text(SPEC, b"name: \xff\xfe"),
    "spec.yaml nested": text(SPEC, "[" * 100_000),
    "spec.yaml aliases": text(
        SPEC,
        "a: &a [1,1,1,1,1,1,1,1]\n"
        + "".join(
            f"{c}: &{c} [{','.join(['*' + p] * 8)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
        ),
    ),
    "spec.yaml with a Python tag": text(SPEC, "name: !!python/object/apply:os.system [id]"),
    "spec.yaml without llm": spec(lambda content: content.pop("llm")),
    "spec.yaml another encoder": spec(lambda c: c.update(encoder={"type": "timm", "model": "resnet18"})),
    "spec.yaml another connector": spec(lambda c: c.update(connector={"type": "vss-mlp"})),
    "spec.yaml wide connector": spec(lambda c: c.update(connector={"type": "mlp", "hidden": 10**9})),
    "spec.yaml another llm": spec(
        lambda c: c.update(llm={"type": "transformers", "model": "saved with this model"})
    ),
    "spec.yaml d_model 2^16": _set("llm", d_model=2**16),
    "spec.yaml d_model 10^9": _set("llm", d_model=10**9),
    "spec.yaml n_layer 10^6": _set("llm", n_layer=10**6),
    "spec.yaml image_size 10^9": _set("encoder", image_size=10**9),
    "spec.yaml image_size 8000": _set("encoder", image_size=8000),
    "spec.yaml layer 99": _set("encoder", layer=99),
    "spec.yaml depth 10^6": _set("encoder", model_args={"depth": 10**6}),
    "spec.yaml depth 10^9": _set("encoder", model_args={"depth": 10**9}),
    "spec.yaml embed_dim 10^9": _set("encoder", model_args={"embed_dim": 10**9}),
    "spec.yaml num_classes 10^9": _set("encoder", model_args={"num_classes": 10**9}),
    "spec.yaml unknown model_args": _set("encoder", model_args={"nonsense": 1}),
    "spec.yaml pretrained": _set("encoder", pretrained=True),
    **dict(files(TIMM)),
    "timm.json mean of text": edit(TIMM, mean="red"),
    "timm.json mean of two": edit(TIMM, mean=[0.5, 0.5], preprocessing=None),
    "timm.json model a number": edit(TIMM, model=7),
    "timm.json unknown model": edit(TIMM, model="no_such_model"),
    "timm.json another model": edit(TIMM, model="vit_giant_patch14_224"),
    "timm.json model of the hub": edit(TIMM, model="hf-hub:someone/something"),
    "timm.json model_args a list": edit(TIMM, model_args=[1]),
    "timm.json depth 10^6": edit(TIMM, model_args={"depth": 10**6}),
    "timm.json depth 10^9": edit(TIMM, model_args={"depth": 10**9}),
    "timm.json embed_dim 10^9": edit(TIMM, model_args={"embed_dim": 10**9}),
    "timm.json num_heads 0": edit(TIMM, model_args={"num_heads": 0}),
    "timm.json num_classes 10^10": edit(TIMM, model_args={"num_classes": 10**10}),
    "timm.json pretrained_cfg_overlay": edit(
        TIMM, model_args={"pretrained_cfg_overlay": {"file": "/etc/passwd"}}
    ),
    "timm.json checkpoint_path": edit(TIMM, model_args={"checkpoint_path": "/etc/passwd"}),
    "timm.json preprocessing a list": edit(TIMM, preprocessing=[]),
    "timm.json preprocessing without values": edit(TIMM, preprocessing={"sources": {}}),
    **{
        f"timm.json {key} {value!r:.20}": edit(
            TIMM,
            preprocessing={
                "sources": {},
                "values": {
                    "activation": "gelu",
                    "crop_pct": 1.0,
                    "resize_mode": "resize",
                    "image_size": [32, 32],
                    "interpolation": "bicubic",
                    "mean": [0.5] * 3,
                    "std": [0.5] * 3,
                }
                | {key: value},
            },
        )
        for key, value in (
            ("activation", "nonsense"),
            ("activation", 3),
            ("crop_pct", "all"),
            ("crop_pct", 0),
            ("resize_mode", "other"),
            ("resize_mode", "crop\n"),
            ("image_size", [0, 32]),
            ("image_size", [10**9, 10**9]),
            ("image_size", [32]),
            ("image_size", "big"),
            ("interpolation", "psychic"),
            ("interpolation", None),
            ("mean", [1, 2]),
            ("mean", None),
            ("mean", [float("nan")] * 3),
            ("std", [0, 0, 0]),
            ("std", ["a", "b", "c"]),
            ("std", [-1, 1, 1]),
        )
    },
    **dict(files(MAMBA)),
    "mamba.json d_model 10^9": edit(MAMBA, d_model=10**9),
    "mamba.json d_model 10^5": edit(MAMBA, d_model=10**5),
    "mamba.json d_model -1": edit(MAMBA, d_model=-1),
    "mamba.json d_model text": edit(MAMBA, d_model="wide"),
    "mamba.json d_model 1.5": edit(MAMBA, d_model=1.5),
    "mamba.json n_layer 10^6": edit(MAMBA, n_layer=10**6),
    "mamba.json n_layer 10^12": edit(MAMBA, n_layer=10**12),
    "mamba.json n_layer 1": edit(MAMBA, n_layer=1),
    "mamba.json n_layer 3": edit(MAMBA, n_layer=3),
    "mamba.json vocab_size 10^9": edit(MAMBA, vocab_size=10**9),
    "mamba.json vocab_size 10^12": edit(MAMBA, vocab_size=10**12),
    "mamba.json vocab_size 10": edit(MAMBA, vocab_size=10),
    "mamba.json d_state 10^9": edit(MAMBA, d_state=10**9),
    "mamba.json d_state 10^6": edit(MAMBA, d_state=10**6),
    "mamba.json d_conv 10^9": edit(MAMBA, d_conv=10**9),
    "mamba.json expand 10^6": edit(MAMBA, expand=10**6),
    "mamba.json dt_rank 10^9": edit(MAMBA, dt_rank=10**9),
    "mamba.json unknown key": edit(MAMBA, load_tokenizer=1),
    "mamba.json without d_model": without(MAMBA, "d_model"),
}

"""The text of a new spec: YAML with comments."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from vlm_core.io.video.sources import DEFAULT_SAMPLING
from vlm_core.io.yaml_scalars import quoted
from vlm_core.plugins.config import DatasetConfig
from vlm_train.config.train import TrainConfig
from vlm_train.data.split import SplitConfig
from vlm_train.init.data_facts import DataFacts
from vlm_train.init.recipe import Recipe, max_length
from vlm_train.init.sizes import Size

_PLAIN = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9_./][A-Za-z0-9_./-]*")
_WORDS = re.compile(r"(?i)null|true|false|[-+]?[0-9.]+e[-+]?[0-9]+|[-+]?\.(inf|nan)")
_LLAVA_RATES = "{connector: 2.0e-5, llm: 2.0e-5}"


def scalar(value: object) -> str:
    """A value of a config as a YAML scalar; a text stays this text whatever its characters are."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    text = str(value)
    if _PLAIN.fullmatch(text) and not _WORDS.fullmatch(text):
        return text
    return quoted(text)


def spec_text(
    name: str, size: Size, facts: DataFacts, data: DatasetConfig, held_out: float, recipe: Recipe
) -> str:
    """The spec. `data` is what stages train on: the training part of a split, or the dataset itself."""
    first = _anchored(data)
    parts, stages_data = size.parts, first
    if not size.pretrained:
        parts = parts.format(side=recipe.side, tokenizer=_indented(first, 6))
        stages_data = ""
    evaluation = _evaluation(facts, held_out) if isinstance(data, SplitConfig) else []
    lines = [
        f"# A model of size {size.name}, written by `vlm-train init`. Every line may be changed:",
        "# docs/spec.md and docs/spec-train.md of the project list all keys.",
        f"name: {scalar(name)}",
        "",
        parts.rstrip("\n"),
        *_views(facts),
        "",
        "train:",
        f"  output: {scalar(f'runs/{name}')}",
        *(["  precision: bf16"] if size.pretrained else []),
        *_length(size, facts, recipe),
        *_bad_rows(facts),
        "  stages:",
        *_stages(size, recipe, stages_data),
        *evaluation,
    ]
    return "\n".join(lines) + "\n"


def _anchored(data: DatasetConfig) -> str:
    """The training data as a block of YAML under the anchor `train`; of a split, the dataset is under `rows`."""
    if not isinstance(data, SplitConfig):
        return _mapping("train", data)
    keys = [
        "type: split                    # rows with a common image are in the same part",
        f"part: {data.part}",
        f"held_out: {scalar(data.held_out)}                 # share of the images; the same in both parts",
    ]
    inner = _mapping("rows", data.dataset)
    return "\n".join([" &train", *keys, f"dataset:{_indented(inner, 2)}"])


def _mapping(anchor: str, data: DatasetConfig) -> str:
    """The keys of a dataset that differ from their defaults."""
    values: Mapping[str, object] = data.model_dump(mode="json", exclude_defaults=True)
    keys = [f"{key}: {scalar(value)}" for key, value in values.items() if key != "type"]
    return "\n".join([f" &{anchor}", f"type: {data.type_name()}", *keys])


def _indented(block: str, spaces: int) -> str:
    """All lines but the first indented."""
    return block.replace("\n", "\n" + " " * spaces)


def _views(facts: DataFacts) -> list[str]:
    if not facts.videos:
        return []
    frames = DEFAULT_SAMPLING.limit
    return [
        "",
        "# Frames of a video, evenly spaced, unless its row says otherwise. `fps: 2` would read two a second.",
        f"views: {{video: {{frames: {frames}}}}}",
    ]


def _length(size: Size, facts: DataFacts, recipe: Recipe) -> list[str]:
    """The key `max_length` if rows with videos need more than the default."""
    needed = max_length(size, recipe.side, facts.views) if facts.videos else 0
    if needed <= TrainConfig.model_fields["max_length"].default:
        return []
    return [f"  max_length: {needed:<18} # a row has up to {facts.views} frames and images"]


def _bad_rows(facts: DataFacts) -> list[str]:
    if not facts.bad:
        return []
    complete = facts.checked == facts.rows
    budget = facts.bad if complete else max(0.01, float(f"{2 * facts.bad_share:.1g}"))
    comment = f"# {facts.bad} of {facts.checked} rows that were read can't be used; see vlm-train check"
    return [f"  on_bad_sample: skip                {comment}", f"  bad_sample_budget: {budget}"]


def _stages(size: Size, recipe: Recipe, data: str) -> list[str]:
    train = "      data: [*train]"
    if not size.pretrained:
        return [
            "    # One stage: a language model without pretrained weights has nothing that must be kept frozen.",
            *_stage("instruct", "[connector, llm]", "3.0e-3", recipe, train, []),
        ]
    auto = ["      micro_batch_size: auto         # as many samples as fit into the memory of the GPU"]
    first = f"      data:\n        -{_indented(data, 10)}"
    return [
        "    # LLaVA's two stages and rates. A connector learns more from many captions, such as LLaVA-Pretrain's.",
        *_stage("align", "[connector]", "1.0e-3", recipe, first, auto),
        *_stage("instruct", "[connector, llm]", _LLAVA_RATES, recipe, train, auto),
    ]


def _stage(name: str, trainable: str, rate: str, recipe: Recipe, data: str, more: Sequence[str]) -> list[str]:
    return [
        f"    - name: {name}",
        f"      trainable: {trainable}",
        data,
        f"      lr: {rate}",
        f"      batch_size: {recipe.batch_size}",
        *more,
        f"      epochs: {recipe.epochs}",
    ]


def _evaluation(facts: DataFacts, held_out: float) -> list[str]:
    data = f"    data: [{{type: split, part: held-out, held_out: {scalar(held_out)}, dataset: *rows}}]"
    if facts.short_answers:
        tokens = min(64, facts.answer_bytes + 1)  # a token has a byte or more; one token ends the answer
        return [
            "  # Accuracy after each stage, and two controls: images shuffled, and the most frequent answer.",
            "  held_out_qa:",
            data,
            f"    max_new_tokens: {tokens}",
        ]
    return [
        "  # Long answers can't be compared word by word: loss and sample answers on the held-out rows.",
        "  validation:",
        data,
    ]

"""Compares a spec with that of an earlier run: a difference that changes the trained weights forbids resuming."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vlm_core.errors import UserError
from vlm_core.io import digests
from vlm_core.io.paths import file_names
from vlm_core.io.yaml_loader import parse
from vlm_core.model import PARTS
from vlm_core.spec.spec import Spec
from vlm_train.checkpoint.run_inputs import Inputs, Source
from vlm_train.config.train import TrainConfig

MAY_CHANGE = re.compile(
    r"name|train\.(output|num_workers|timeout|strategy|activation_checkpointing|cuda_graphs|checkpoint_every|keep_checkpoints"
    r"|on_bad_sample|bad_sample_budget|on_too_long|on_non_finite|non_finite_budget"
    r"|feature_cache\.(path|limit_gb)|stages\.\d+\.micro_batch_size"
    r"|(trackers|held_out_qa|validation|benchmarks)(\..*)?)"
)
"""Keys whose value may change when a run is resumed: the weights trained so far do not depend on them."""
_DATA = re.compile(r"train\.stages\.\d+\.data\.\d+\..*|llm\.tokenizer\.dataset\..*")
"""Keys of data, which are compared by content; a tokenizer that the run has trained is saved in its folder."""
_MISSING = object()


class Difference(NamedTuple):
    """A key and its two values, as messages show them."""

    key: str
    old: str
    new: str
    content: bool = False
    """Whether the values describe contents of files, not values of the spec."""

    def __str__(self) -> str:
        return f"{self.key}: {self.old} before, {self.new} now"


def identity(spec: Spec, now: Inputs) -> str:
    """A digest of what decides the trained weights; checkpoints, models and evaluations of the run carry it."""
    settings = {
        key: value
        for key, value in _flat(parse(spec.to_yaml(), "spec.yaml").data)
        if not (MAY_CHANGE.fullmatch(key) or _DATA.fullmatch(key) or key in now.files)
    }
    data = _only(now.data, "train.stages.")
    return digests.of(
        settings, *({key: source.digest for key, source in each.items()} for each in (data, now.files))
    )


def resolved(spec: Spec, train: TrainConfig) -> Spec:
    """The spec as a run stores it, with every default of its `train` section, since defaults may change."""
    return spec.model_copy(update={"train": train.model_dump(mode="json", exclude_none=True)})


def differences(old: str, new: Spec) -> list[Difference]:
    """Differences of a spec from the text of an earlier one; defaults of keys that are newer than it do not count."""
    before, after = (dict(_flat(parse(text, "spec.yaml").data)) for text in (_completed(old), new.to_yaml()))
    pairs = {key: (before.get(key, _MISSING), after.get(key, _MISSING)) for key in after | before}
    return [Difference(key, _shown(a), _shown(b)) for key, (a, b) in pairs.items() if a != b]


def _completed(text: str) -> str:
    """A stored spec with the defaults of keys that are newer than it; unchanged if it is no longer valid."""
    try:
        spec = Spec.model_validate(parse(text, "spec.yaml").data)
        return resolved(spec, TrainConfig.model_validate(spec.train)).to_yaml()
    except ValueError:
        return text


def _flat(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict | list) and data:
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _flat(value, f"{path}.{key}".lstrip("."))
    else:
        yield path, data


def _shown(value: Any) -> str:
    return "not set" if value is _MISSING else f"{value!s:.200}"


def changes_result(
    changed: list[Difference], spec: Spec, old: Inputs | None, now: Inputs
) -> list[Difference]:
    """Differences that change the trained weights: of keys in `changed`, and of inputs (data, files of the parts).

    Files are compared by content, not by path; without recorded inputs (`old`) by path.
    """
    forbidden = [each for each in changed if not MAY_CHANGE.fullmatch(each.key)]
    if old is None:
        return forbidden
    named = {".".join((part, *keys)) for part in PARTS for keys, _ in file_names(getattr(spec, part))}
    by_content = {key for key in named if key in now.files and key in old.files}
    by_value = [each for each in forbidden if each.key not in by_content and not _DATA.fullmatch(each.key)]
    stages = [_only(inputs.data, "train.stages.") for inputs in (old, now)]
    files = [
        {key: source for key, source in inputs.files.items() if key in by_content} for inputs in (old, now)
    ]
    return by_value + changed_sources(*stages) + changed_sources(*files)


def _only(sources: Mapping[str, Source], prefix: str) -> dict[str, Source]:
    return {key: source for key, source in sources.items() if key.startswith(prefix)}


def changed_sources(old: Mapping[str, Source], now: Mapping[str, Source]) -> list[Difference]:
    """Inputs whose content differs, or that only one side has."""
    changed = []
    for key in dict.fromkeys((*old, *now)):
        a, b = old.get(key), now.get(key)
        if a is None or b is None or (a.digest, a.rows) != (b.digest, b.rows):
            changed.append(Difference(key, str(a or "not set"), str(b or "not set"), content=True))
    return changed


def measured_differently(old: Inputs, now: Inputs, losses: bool, benchmarks: bool) -> list[Difference]:
    """Changed validation data and benchmarks; `losses`, `benchmarks`: whether the folder holds such measurements."""
    changed = []
    if losses:
        changed += changed_sources(*(_only(inputs.data, "train.validation.") for inputs in (old, now)))
    if benchmarks:
        both = old.benchmarks.keys() & now.benchmarks.keys()
        changed += changed_sources(
            *({k: inputs.benchmarks[k] for k in sorted(both)} for inputs in (old, now))
        )
    return changed


def refuse(folder: Path, changed: list[Difference]) -> None:
    """Raise `UserError` with every difference, if there is any."""
    if changed:
        what = "its inputs differ" if all(each.content for each in changed) else "its spec differs"
        what = f"{folder}: holds a different run; {what} in"
        advice = (
            "Restore the spec and the files of that run, set train.output to a new folder, or remove this one"
        )
        if len(changed) == 1:
            raise UserError(f"{what} {changed[0]}. {advice}")
        raise UserError(what, *(f"  {each}" for each in changed), advice)

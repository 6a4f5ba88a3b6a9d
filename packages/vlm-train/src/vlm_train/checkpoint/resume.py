"""Whether a run may be resumed with a spec: what differs, and whether that changes the trained weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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
    r"name|train\.(output|num_workers|timeout|strategy|activation_checkpointing|checkpoint_every|keep_checkpoints"
    r"|on_bad_sample|bad_sample_budget|on_too_long|on_non_finite|non_finite_budget"
    r"|feature_cache\.(path|limit_gb)|stages\.\d+\.micro_batch_size"
    r"|(trackers|held_out_qa|validation|benchmarks)(\..*)?)"
)
"""Keys whose value may change when a run is resumed: what was trained so far would be the same."""
_DATA = re.compile(r"train\.stages\.\d+\.data\.\d+\..*|llm\.tokenizer\.dataset\..*")
"""Keys of data, which are compared by content; a tokenizer that the run has trained is kept in its folder."""
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
    """A digest of what decides the trained weights: checkpoints, models and evaluations of another run have another."""
    settings = {
        key: value
        for key, value in _flat(parse(spec.to_yaml(), "spec.yaml").data)
        if not (MAY_CHANGE.fullmatch(key) or _DATA.fullmatch(key) or key in now.files)
    }
    data = _only(now.data, "train.stages.")
    return digests.of(
        settings, *({key: one.digest for key, one in each.items()} for each in (data, now.files))
    )


def resolved(spec: Spec, train: TrainConfig) -> Spec:
    """The spec as a run keeps it, with every default of its `train` section, since defaults may change."""
    return spec.model_copy(update={"train": train.model_dump(mode="json", exclude_none=True)})


def differences(old: str, new: Spec) -> list[Difference]:
    """Where a spec differs from the text of an earlier one; a default that is new since then is no difference."""
    a, b = (dict(_flat(parse(text, "spec.yaml").data)) for text in (_completed(old), new.to_yaml()))
    keys = [
        key
        for key in (*b, *(key for key in a if key not in b))
        if a.get(key, _MISSING) != b.get(key, _MISSING)
    ]
    return [Difference(key, _shown(a.get(key, _MISSING)), _shown(b.get(key, _MISSING))) for key in keys]


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


def changes_result(found: list[Difference], spec: Spec, old: Inputs | None, now: Inputs) -> list[Difference]:
    """Differences that change the trained weights: those of `found`, and those of inputs (data, files of the parts).

    Files are compared by content, not by path; in a folder without recorded inputs (no `old`) by path.
    """
    kept = [one for one in found if not MAY_CHANGE.fullmatch(one.key)]
    if old is None:
        return kept
    named = {".".join((part, *keys)) for part in PARTS for keys, _ in file_names(getattr(spec, part))}
    by_content = {key for key in named if key in now.files and key in old.files}
    kept = [one for one in kept if one.key not in by_content and not _DATA.fullmatch(one.key)]
    stages = [_only(inputs.data, "train.stages.") for inputs in (old, now)]
    files = [
        {key: source for key, source in inputs.files.items() if key in by_content} for inputs in (old, now)
    ]
    return kept + other_sources(*stages) + other_sources(*files)


def _only(sources: Mapping[str, Source], prefix: str) -> dict[str, Source]:
    return {key: source for key, source in sources.items() if key.startswith(prefix)}


def other_sources(old: Mapping[str, Source], now: Mapping[str, Source]) -> list[Difference]:
    """Inputs whose content differs, or that only one side has."""
    found = []
    for key in dict.fromkeys((*old, *now)):
        a, b = old.get(key), now.get(key)
        if a is None or b is None or (a.digest, a.rows) != (b.digest, b.rows):
            found.append(Difference(key, str(a or "not set"), str(b or "not set"), content=True))
    return found


def measured_otherwise(old: Inputs, now: Inputs, losses: bool, benchmarks: bool) -> list[Difference]:
    """Validation data and benchmarks that differ from those of the figures already in the folder."""
    found = []
    if losses:
        found += other_sources(*(_only(inputs.data, "train.validation.") for inputs in (old, now)))
    if benchmarks:
        both = old.benchmarks.keys() & now.benchmarks.keys()
        found += other_sources(*({k: inputs.benchmarks[k] for k in sorted(both)} for inputs in (old, now)))
    return found


def refuse(where: object, found: list[Difference]) -> None:
    """Raise `UserError` naming every difference, if there is any."""
    if found:
        what = "its inputs differ" if all(one.content for one in found) else "its spec differs"
        what = f"{where}: holds a different run; {what} in"
        advice = (
            "Restore the spec and the files of that run, set train.output to a new folder, or remove this one"
        )
        if len(found) == 1:
            raise UserError(f"{what} {found[0]}. {advice}")
        raise UserError(what, *(f"  {one}" for one in found), advice)

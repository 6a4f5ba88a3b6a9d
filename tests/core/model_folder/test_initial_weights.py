"""Where weights come from is told, and random ones that nothing trains are refused unless they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pytest
import yaml

from vlm_core.cli.assemble import main
from vlm_core.model_folder.initial_weights import never_trained, weight_rows
from vlm_core.plugins import NO_WEIGHTS, EncoderConfig, random_values
from vlm_core.plugins.config import StrictModel
from vlm_core.plugins.registry import installed
from vlm_core.spec.spec import Spec, json_schema

STAGE = {
    "name": "a",
    "trainable": ["connector", "llm"],
    "data": [{"type": "llava", "path": "x.json"}],
    "lr": 1e-3,
    "batch_size": 4,
}


@pytest.fixture
def check(tiny_spec, tmp_path, monkeypatch, capsys):
    """`check(spec changes)` -> exit code, output and errors of `vlm-assemble --check`."""

    def run(*options: str, stage: dict[str, Any] | None = None, **changes: Any) -> tuple[int, str, str]:
        train = {"output": "run", "stages": [{**STAGE, **(stage or {})}]}
        spec = {**tiny_spec, "keep_random": None, "train": train, **changes}
        (tmp_path / "s.yaml").write_text(yaml.safe_dump(spec))
        monkeypatch.setattr("sys.argv", ["vlm-assemble", str(tmp_path / "s.yaml"), *(options or ["--check"])])
        return (main(), *capsys.readouterr())

    return run


def test_random_and_never_trained_is_an_error(check):
    code, _, error = check()
    assert code == 2
    assert "s.yaml:" in error
    assert (
        "encoder: timm vit_tiny_patch16_224 starts from random values and no stage trains it; set pretrained: true or "
        "weights: FILE, train encoder in a stage, or keep the random values by keep_random: [encoder]"
        in error
    )


def test_every_part_that_nothing_trains_is_named(check):
    _, _, error = check(stage={"trainable": ["encoder"]})
    assert "connector: vss-l2" in error
    assert "llm: mamba" in error
    assert "encoder: timm" not in error


def test_adapters_leave_random_weights_random(check):
    code, _, error = check(stage={"lora": {"targets": ["*x_proj"]}}, keep_random=["encoder"])
    assert (code, "llm: mamba" in error) == (2, True)


def test_a_tower_of_several(check):
    towers = [
        {"type": "timm", "model": "test_vit"},
        {"type": "timm", "model": "test_vit", "weights": "x.pth"},
    ]
    code, _, error = check(encoder={"type": "fused", "towers": towers})
    assert (code, error.count("random values and no stage")) == (2, 1)


def test_asked_for_it_passes_and_is_told(check):
    code, out, _ = check(keep_random=["encoder"])
    assert code == 0
    told = [line.split() for line in out.split("weights ")[1].splitlines()]
    assert ["encoder", "timm", "vit_tiny_patch16_224", "random", "values"] in told
    assert "image preprocessing" in out
    assert check(stage={"trainable": ["encoder", "connector", "llm"]})[0] == 0
    assert check(train=None)[0] == 0


def test_the_card_tells_sources(tiny_folder):
    card = (tiny_folder / "README.md").read_text()
    assert "| encoder | timm vit_tiny_patch16_224 | random values |" in card
    assert "|  | interpolation | bicubic | timm's vit_tiny_patch16_224" in card
    assert "keep_random" not in card


class SilentConfig(EncoderConfig):
    """A third party's that does not tell."""

    type: Literal["silent"] = "silent"


class FreeConfig(SilentConfig):
    """A third party's without parameters."""

    def weights_source(self) -> Any:
        return NO_WEIGHTS


def test_types_that_do_not_tell_and_those_without_weights(tiny_spec):
    spec = Spec.model_validate(tiny_spec)
    for config, text in ((SilentConfig(), "not reported by silent"), (FreeConfig(), "no weights")):
        changed = spec.model_copy(update={"encoder": config, "keep_random": None})
        assert weight_rows(changed)[0] == ("encoder", "silent", text)
        assert never_trained(changed, {"connector", "llm"}) == []
    assert random_values("x: y").remedy == "x: y"


def undescribed(node: Any, path: str = "") -> Iterator[str]:
    """Paths of properties without a description, in a JSON schema."""
    if isinstance(node, list):
        for item in node:
            yield from undescribed(item, path)
    if isinstance(node, dict):
        properties = node.get("properties")
        for name, one in properties.items() if isinstance(properties, dict) else ():
            if not (isinstance(one, dict) and one.get("description")):
                yield f"{path}.{name}"
        for key, value in node.items():
            yield from undescribed(value, f"{path}.{key}")


def test_every_key_is_described():
    """Those of the spec and of its sections, of every installed component, datasets and benchmarks included."""
    assert list(undescribed({"properties": {"x": {"type": "string"}}})) == [".x"]
    assert list(undescribed(json_schema())) == []
    components = [entry.value for entry in installed().all()]
    configs = [value for value in components if isinstance(value, type) and issubclass(value, StrictModel)]
    assert len(configs) > 20
    assert {c.__name__: found for c in configs if (found := list(undescribed(c.model_json_schema())))} == {}

"""`~` is the home folder, in every field of every config and on every command line."""

import argparse
import ast
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
from pydantic import BaseModel, TypeAdapter

from vlm_core.cli.common import local_path
from vlm_core.errors import SpecError, UserError
from vlm_core.io.paths import LocalFile, LocalPath, expanded, file_names, names_files
from vlm_core.plugins.registry import KINDS, installed
from vlm_core.spec.inheritance import read_with_base
from vlm_core.spec.spec import Spec
from vlm_train.sweep.config import SweepConfig

NO_FILES = {
    "suffix:MovingConfig",
    "judge:LlavaBenchConfig",
    "type",
    "name",
    "revision",
    "match",
    "pattern",
    "template",
    "system",
    "user",
    "assistant",
    "assistant_prompt",
    "images:Template",
    "images:TokenizerTemplate",
    "image:Template",
    "image:TokenizerTemplate",
    "system_text",
    "scan",
    "hidden_act",
}
"""Text fields that name no file; a new text field is a path or is added here."""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("~/a/b.json", "{}/a/b.json"),
        ("~", "{}"),
        ("local-dir:~/tower", "local-dir:{}/tower"),
        ("./~/a", "./~/a"),
        ("a/~/b", "a/~/b"),
        ("hf://datasets/~x", "hf://datasets/~x"),
        ("state-spaces/mamba-130m", "state-spaces/mamba-130m"),
        ("", ""),
    ],
)
def test_a_leading_tilde_is_the_home_folder(home, text, path):
    assert expanded(text) == path.format(home)


def test_a_home_that_nobody_knows_is_an_error(home):
    with pytest.raises(UserError, match=r"no home folder is known for ~nobody-here; write \./~nobody-here/x"):
        expanded("~nobody-here/x")
    with pytest.raises(argparse.ArgumentTypeError, match="no home folder"):
        local_path("~nobody-here/x")


@pytest.mark.parametrize(
    "text",
    [
        "a\0b",
        "a\ud800b",
        "x" * 256,
        "a/" + "é" * 128,
        "a/" * 2100,
        "~/" + "y" * 300,
        "local-dir:" + "z" * 300,
    ],
)
def test_what_can_be_no_path_is_refused_with_a_short_message(text):
    with pytest.raises(UserError, match="no path: ") as caught:
        expanded(text)
    assert len(str(caught.value)) < 250
    with pytest.raises(argparse.ArgumentTypeError):
        local_path(text)


def test_a_path_may_be_of_any_bytes_and_a_url_long():
    for text in ("x" * 255, "a\udcffb", "https://host/" + "q" * 2000):
        assert expanded(text) == text


def models(annotation):
    """Every model class that an annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models(inner)


def every_config():
    """Every installed component's config, section and spec, and the models that their fields hold."""
    found, waiting = [], [Spec, SweepConfig]
    waiting += [e.value for e in installed().all() if isinstance(e.value, type) and e.kind in KINDS]
    while waiting:
        model = waiting.pop()
        if model not in found:
            found.append(model)
            for field in model.model_fields.values():
                waiting += models(field.annotation)
    return found


@pytest.mark.parametrize("config", every_config(), ids=lambda c: f"{c.__module__}.{c.__name__}")
def test_every_field_that_names_files_expands(config):
    for name, field in config.model_fields.items():
        if names_files(field):
            assert name not in NO_FILES, name
        elif any(a is Path for a in (field.annotation, *get_args(field.annotation))):
            pytest.fail(f"{config.__name__}.{name} is a Path: make it a LocalFile")
        elif field.annotation in (str, str | None) and name not in NO_FILES:
            assert f"{name}:{config.__name__}" in NO_FILES, (
                f"{name}: make it a LocalPath, or name it in NO_FILES"
            )


def test_the_walk_finds_what_it_must():
    names = {(c.__name__, n) for c in every_config() for n, f in c.model_fields.items() if names_files(f)}
    assert {
        ("TimmConfig", "weights"),
        ("LlavaConfig", "path"),
        ("TrainConfig", "output"),
        ("PopeConfig", "data"),
        ("FeatureCache", "path"),
        ("MambaConfig", "tokenizer"),
        ("ParquetConfig", "path"),
        ("EasyVQABenchmarkConfig", "data"),
    } <= names


def test_every_command_line_expands():
    """No argument has the type `Path`, which would keep `~`."""
    root = Path(__file__).parents[3] / "packages"
    for file in root.glob("*/src/**/*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
                kinds = [
                    k.value.id for k in node.keywords if k.arg == "type" and isinstance(k.value, ast.Name)
                ]
                assert kinds != ["Path"], f"{file}:{node.lineno}: use vlm_core.cli.common.local_path"


def test_file_names_of_a_config(home):
    config = installed().get("dataset", "parquet")(path=["~/a", "b"], images="~/c")
    assert dict(file_names(config)) == {("path",): [f"{home}/a", "b"], ("images",): f"{home}/c"}
    assert TypeAdapter(LocalFile).validate_python("~/x") == home / "x"
    assert TypeAdapter(LocalPath | None).validate_python(None) is None


def test_a_base_may_be_in_the_home_folder(home, tmp_path):
    (home / "base.yaml").write_text("name: base\n")
    (tmp_path / "specs").mkdir()
    spec = tmp_path / "specs" / "spec.yaml"
    spec.write_text("base: ~/base.yaml\n")
    assert read_with_base(spec).data == {"name": "base"}
    spec.write_text("base: ~nobody-here/base.yaml\n")
    with pytest.raises(SpecError, match=r"spec.yaml:1: base: .*no home folder"):
        read_with_base(spec)


def test_an_option_of_a_benchmark_expands(home):
    from vlm_bench.cli.options import add_options, config_of

    config = installed().get("benchmark", "pope")
    parser = argparse.ArgumentParser()
    add_options(parser, config)
    args = parser.parse_args(["--data=~/eval", "--labels", "~/labels"])
    found = config_of(SimpleNamespace(**vars(args)), config)
    assert (found.data, found.labels) == (home / "eval", home / "labels")

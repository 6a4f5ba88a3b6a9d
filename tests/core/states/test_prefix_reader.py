"""Prompts read from cached states: bit by bit what is computed without a cache, whatever was read before."""

import random

import pytest
import torch
from generation_cases import LONG, images
from pairs import paired
from tiny_transformers import write_tiny

from vlm_core.generation.conversation import Conversation
from vlm_core.generation.generate import Session
from vlm_core.generation.prefix_reader import PrefixReader
from vlm_core.model_folder.assemble import build
from vlm_core.model_folder.weights import to_dtype
from vlm_core.spec.spec import Spec
from vlm_core.states.cache import StateCache
from vlm_core.states.disk_cache import DiskCache
from vlm_core.text.render import IMAGE, Message, render
from vlm_core.text.template import TEMPLATES

SYSTEM, FIRST = TEMPLATES["llava-v1"], TEMPLATES["short"]
QUESTIONS = ["is there a circle?", "red", "what color is the shape on the white ground?", "and now?"]


MODELS = ["mamba", "mamba-bfloat16", "llama", "gemma2", "jamba"]
FIRST_PARTS = {"system prompt": SYSTEM, "images first": FIRST}


@pytest.fixture(scope="module", params=MODELS)
def model(request, tiny_spec, tmp_path_factory):
    name = request.param.partition("-")[0]
    spec = dict(tiny_spec)
    if name != "mamba":
        spec["llm"] = {"type": "transformers", "model": str(write_tiny(name, tmp_path_factory.mktemp("llm")))}
    model = build(Spec.model_validate(spec), weights=False)
    if request.param.endswith("bfloat16"):
        to_dtype(model, torch.bfloat16)
    return model


def prompt(model, template, text, count):
    parts = (*[part for _ in range(count) for part in (IMAGE, "\n")], text)
    tokens = [model.image_tokens_by_default] * count
    return render(template, [Message("user", parts)], model.llm.tokenizer, tokens)


def assert_same(seen: Session, expected: Session) -> None:
    assert torch.equal(seen.next_logits, expected.next_logits)
    assert seen.ends == expected.ends
    tensors, others = seen.state.to_tensors(), expected.state.to_tensors()
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == others[name].dtype
        assert torch.equal(tensor, others[name]), name


@pytest.mark.parametrize(
    ("model", "first", "place"), paired(MODELS, list(FIRST_PARTS), ["memory", "disk"]), indirect=["model"]
)
def test_a_hit_has_the_bits_of_computing(model, first, place, tmp_path):
    """Prompts in random order, some repeated, some a continuation of another; each against a reader without a cache."""
    draw, pixels, template = random.Random(0), images(3), FIRST_PARTS[first]
    disk = DiskCache(tmp_path / "cache") if place == "disk" else None
    cache = StateCache(0 if disk else 2**24, disk)
    reader, plain = PrefixReader(model, template, cache), PrefixReader(model, template)
    for _ in range(16):
        chosen = [pixels[draw.randrange(3)] for _ in range(draw.randrange(4))]
        asked = prompt(model, template, draw.choice(QUESTIONS), len(chosen))
        seen, expected = Session(model), Session(model)
        histories = [r.read(s, asked, chosen) for r, s in ((reader, seen), (plain, expected))]
        assert histories[0] == histories[1]
        assert histories[0].positions == len(asked) == sum(piece.tokens for piece in histories[0].pieces)
        assert_same(seen, expected)
        assert seen.generate(LONG) == expected.generate(LONG)
    stats = cache.stats
    assert stats.hits + stats.misses == 16
    assert stats.hits >= 8
    assert stats.reused_positions > 0
    if disk is not None:
        assert stats.disk_hits == stats.hits
        assert stats.entries == 0


@pytest.mark.parametrize("count", [0, 1, 2])
def test_pieces_are_the_whole_prompt(model, count):
    """Up to rounding: kernels sum in another order."""
    pixels, whole, pieces = images(count), Session(model), Session(model)
    asked = prompt(model, SYSTEM, QUESTIONS[2], count)
    whole.prefill([asked], pixels)
    history = PrefixReader(model, SYSTEM).read(pieces, asked, pixels)
    scale = 0.05 if pieces.next_logits.dtype == torch.bfloat16 else 1e-4
    known = pieces.known_logits()
    torch.testing.assert_close(known, whole.known_logits(), rtol=scale, atol=scale * float(known.abs().max()))
    assert [piece.kind for piece in history.pieces].count("image") == count


def test_what_is_cached(tiny_model):
    """After the system prompt, after each image and at the end: a prompt that shares these begins there."""
    cache, (one, two) = StateCache(), images(2)
    reader = PrefixReader(tiny_model, SYSTEM, cache)

    def reused(text, *chosen):
        before = cache.stats.reused_positions
        reader.read(Session(tiny_model), prompt(tiny_model, SYSTEM, text, len(chosen)), chosen)
        return cache.stats.reused_positions - before

    length, tokens = len(prompt(tiny_model, SYSTEM, "red?", 0)), tiny_model.image_tokens_by_default
    assert reused("red?") == 0
    system = reused("blue?")
    assert 16 <= system < length
    assert reused("red?") == length, "the whole prompt"
    assert reused("red?", one) == system
    first = reused("blue?", one)
    assert system + tokens <= first < len(prompt(tiny_model, SYSTEM, "blue?", 1))
    assert reused("blue?", two) == system
    assert reused("blue?", one, two) == first
    assert reused("red?", one, two) > first + tokens
    assert reused("red?", two, one) > first - 1, "another order begins with the other image"


def test_other_weights_pieces_and_dtypes_are_other_states(tiny_model):
    cache = StateCache()
    asked = prompt(tiny_model, SYSTEM, "red?", 0)

    def hit(**settings):
        before = cache.stats.hits
        PrefixReader(tiny_model, SYSTEM, cache).read(Session(tiny_model, **settings), asked)
        return cache.stats.hits > before

    assert [hit(), hit()] == [False, True]
    assert not hit(prefill_chunk=5)
    with torch.no_grad():
        tiny_model.llm.backbone.layers[0].mixer.in_proj.weight[0, 0] += 1
    assert [hit(), hit()] == [False, True]
    to_dtype(tiny_model, torch.bfloat16)
    assert [hit(), hit()] == [False, True]


def test_an_error_leaves_the_session_as_it_was(tiny_model, monkeypatch):
    reader, (pixels,) = PrefixReader(tiny_model, SYSTEM, StateCache()), images(1)
    session, plain = Session(tiny_model), Session(tiny_model)
    for each in (session, plain):
        history = reader.read(each, prompt(tiny_model, SYSTEM, "red?", 0))
    calls, prefill = [], tiny_model.prefill

    def fail_at_the_second(*args):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return prefill(*args)

    monkeypatch.setattr(tiny_model, "prefill", fail_at_the_second)
    with pytest.raises(RuntimeError, match="out of memory"):
        reader.read(session, prompt(tiny_model, SYSTEM, "and?", 1), [pixels], history)
    assert_same(session, plain)


def test_a_session_is_not_taken_for_a_new_one(tiny_model):
    """Without its history, a prompt would be found under the key of another one."""
    reader, session = PrefixReader(tiny_model, SYSTEM), Session(tiny_model)
    reader.read(session, prompt(tiny_model, SYSTEM, "red?", 0))
    with pytest.raises(AssertionError, match="not that of the session"):
        reader.read(session, prompt(tiny_model, SYSTEM, "red?", 0))


def test_turns_of_a_conversation_are_cached(tiny_model, tmp_path):
    """The same conversation again, sampled alike, reads nothing; its answers are those without a cache."""
    from PIL import Image

    Image.radial_gradient("L").save(tmp_path / "x.png")
    cache = StateCache()

    def talk(cache):
        conversation = Conversation(tiny_model, SYSTEM, cache)
        conversation.show(tmp_path / "x.png")
        answers = ["".join(conversation.ask(question, LONG)) for question in QUESTIONS]
        return answers, conversation.session

    first, plain = talk(cache), talk(None)
    read = cache.stats.read_positions
    again = talk(cache)
    assert first[0] == again[0] == plain[0]
    assert_same(again[1], plain[1])
    assert cache.stats.read_positions == read
    assert cache.stats.hits == len(QUESTIONS)

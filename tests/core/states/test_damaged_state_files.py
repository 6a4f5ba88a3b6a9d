"""State files that are damaged, lie, or belong elsewhere: one error that names the file and what is wrong."""

import os
import shutil

import pytest
import torch
from generation_cases import LONG, images
from safetensors.torch import load_file, save_file
from state_file_cases import manifest_of, rewrite

from vlm_core.errors import UserError
from vlm_core.generation.conversation import Conversation
from vlm_core.generation.read_history import of_image_input
from vlm_core.model import PARTS
from vlm_core.model_folder.assemble import load
from vlm_core.text.template import TEMPLATES
from vlm_core.views.image_views import ImageViews
from vlm_core.views.rule import ViewRule

TEMPLATE = TEMPLATES["llava-v1"]


@pytest.fixture(scope="module")
def models(tiny_folder):
    return {"model": load(tiny_folder)[0]}


@pytest.fixture(scope="module")
def model(models):
    return models["model"]


@pytest.fixture(scope="module")
def original(model, tmp_path_factory):
    """A conversation of one turn, and an image for the next one."""
    talk = Conversation(model, TEMPLATE)
    list(talk.ask("is there a circle?", LONG))
    talk.images = images(1)
    talk.save(path := tmp_path_factory.mktemp("talk") / "talk.state")
    return path


@pytest.fixture
def file(original, tmp_path):
    return shutil.copy(original, tmp_path / "talk.state")


def refused(file, model, template=TEMPLATE, **settings):
    with pytest.raises(UserError) as caught:
        Conversation.load(file, model, template, **settings)
    text = str(caught.value)
    assert text.startswith(str(file)), text
    return text


def test_the_untouched_file_is_read(file, model):
    rewrite(file)
    assert len(Conversation.load(file, model, TEMPLATE).images) == 1


def test_what_the_manifest_says(file, model):
    """Enough to see without the model what a file is."""
    manifest = manifest_of(file)
    assert (manifest["format"], manifest["version"], manifest["sequences"]) == ("vlm-state", 1, 1)
    assert manifest["conversation"]["messages"][0] == {
        "role": "user",
        "parts": [{"type": "text", "text": "is there a circle?"}],
    }
    assert sum(piece["tokens"] for piece in manifest["read"]) == manifest["positions"]
    assert [piece["kind"] for piece in manifest["read"]] == ["text", "text", "answer"]
    assert set(manifest["model"]) == {*PARTS, "views", "tokenizer", "template", "dtypes"}


def test_positions_that_were_not_read(file, model):
    """A file with valid checksums whose numbers of positions contradict each other."""
    read = manifest_of(file)["read"]
    known = sum(piece["tokens"] for piece in read)
    rewrite(file, facts={"positions": 10**9})
    assert f"damaged: positions is 1000000000, and what was read has {known}" in refused(file, model)
    moved = [read[0], {**read[1], "start": 5 * known}, *read[2:]]
    rewrite(file, facts={"positions": known, "read": moved})
    assert f"damaged: read.1 begins at position {5 * known}, expected" in refused(file, model)


@pytest.mark.parametrize("count", [0, 7, 40, -1, -3000])
def test_a_file_cut_off(file, model, count):
    file.write_bytes(file.read_bytes()[:count])
    assert "not a readable state file" in refused(file, model)


def test_any_changed_byte(file, model):
    content = file.read_bytes()
    for place in range(8, len(content), len(content) // 60):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        refused(file, model)


def test_a_huge_header(file, model):
    file.write_bytes((2**25).to_bytes(8, "little") + b" " * 2**25 + b"x")
    assert "a header of 33554432 bytes" in refused(file, model)
    file.write_bytes((2**60).to_bytes(8, "little") + file.read_bytes()[8:])
    assert "not a readable state file" in refused(file, model)


def test_no_state_file(file, model, tmp_path):
    save_file({"x": torch.zeros(2)}, file)
    assert "no state file: it has no manifest" in refused(file, model)
    assert "no such file" in refused(tmp_path / "none.state", model)
    os.mkfifo(tmp_path / "fifo")
    assert "a FIFO" in refused(tmp_path / "fifo", model)
    assert "a folder" in refused(tmp_path, model)


def changed_state(original, name, change):
    return {name: change(load_file(original)[name].clone())}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("state.ssm", lambda t: t[:-1], "'ssm' has shape"),
        ("state.ssm", lambda t: t[..., :-1].contiguous(), "'ssm' has shape"),
        ("state.conv", lambda t: t.flatten(), "'conv' has shape"),
        ("state.conv", lambda t: t[:, :0], "'conv' has shape"),
        ("state.conv", lambda t: t.to(torch.float16), "'conv' is torch.float16"),
        ("state.conv", lambda t: t.to(torch.int32), "'conv' is of type int32"),
        ("state.ssm", lambda t: t.fill_(float("nan")), "of 'state.ssm' are NaN or infinite"),
        ("state.ssm", lambda t: t.index_fill_(0, torch.tensor([0]), float("inf")), "NaN or infinite"),
        ("state.ssm", lambda t: None, "has a tensor 'ssm', which is missing"),
        ("next_logits", lambda t: t[:, :-1].contiguous(), "'next_logits' is missing"),
        ("next_logits", lambda t: None, "'next_logits' is missing"),
        ("next_logits", lambda t: t.fill_(float("nan")), "NaN or infinite"),
        ("image.0", lambda t: t[:1].contiguous(), "'image.0' is missing, or no image"),
        ("image.0", lambda t: t.repeat(1, 9, 9), "'image.0' is missing, or no image"),
        ("image.0", lambda t: None, "'image.0' is missing, or no image"),
    ],
)
def test_tensors_that_lie(file, original, model, name, change, message):
    rewrite(file, changed_state(original, name, change))
    assert message in refused(file, model)


def test_tensors_that_nobody_expects(file, model):
    rewrite(file, {"state.stranger": torch.zeros(1)})
    assert "unexpected tensor 'stranger'" in refused(file, model)
    rewrite(file, {"state.stranger": None, "more": torch.zeros(1)})
    assert "unexpected tensor 'more'" in refused(file, model)


def test_hashes_that_lie(file, model):
    rewrite(file, hashes=dict.fromkeys(load_file(file), "0" * 64))
    assert "differs from its hash" in refused(file, model)
    rewrite(file, hashes={})
    assert "its tensors are not those that its manifest lists" in refused(file, model)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"format": "other"}, "its format is 'other', expected 'vlm-state'"),
        ({"version": 2}, "version 2 of the format vlm-state; this vlm-core reads version 1"),
        ({"version": None}, "version None"),
        ({"positions": -1}, "positions: Input should be greater than or equal to 0"),
        ({"positions": "9"}, "positions: Input should be a valid integer"),
        ({"sequences": 2}, "'next_logits' is missing, or no numbers of shape (2, "),
        ({"ends": []}, "ids are not those of the tokenizer, or not of every sequence"),
        ({"ends": [[10**6]]}, "ids are not those of the tokenizer"),
        ({"conversation": {"messages": [], "pending_tokens": []}}, "not of a conversation"),
        ({"conversation": {"messages": [{"role": "system", "parts": []}]}}, "conversation.messages.0.role"),
        ({"conversation": {"messages": [], "pending_tokens": [10**6]}}, "ids are not those of the tokenizer"),
        ({"stranger": 1}, "stranger: Extra inputs are not permitted"),
        ({"read": [{"kind": "text", "start": 0, "tokens": 1, "sha256": "x"}]}, "read.0.sha256"),
        ({"images": [{"views": True}]}, "'image.0' is missing, or no image"),
        ({"images": []}, "unexpected tensor 'image.0'"),
    ],
)
def test_a_manifest_that_lies(file, model, facts, message):
    rewrite(file, facts=facts)
    assert message in refused(file, model)


def test_another_model_template_or_tokenizer(file, model, tiny_folder):
    text = refused(file, model, TEMPLATES["short"])
    assert "the state of another model or template" in text
    assert "template: other patterns" in text
    assert "llm" not in text
    other = load(tiny_folder)[0]
    other.views = ViewRule()
    assert "views: other tiles" in refused(file, other)
    other.views = None
    with torch.no_grad():
        next(other.connector.parameters()).add_(1)
    assert "connector: other weights or configuration" in refused(file, other)


def test_another_dtype_is_converted_if_asked_for(file, tiny_folder):
    other = load(tiny_folder, dtype=torch.bfloat16)[0]
    text = refused(file, other)
    assert "dtype of llm: 'float32' in the file, 'bfloat16+float32' here" in text
    assert "encoder: other" not in text
    talk = Conversation.load(file, other, TEMPLATE, convert=True)
    state = talk.session.state
    assert (state[0].conv.dtype, state[0].ssm.dtype) == (torch.bfloat16, torch.float32)
    list(talk.ask("and now?", LONG))
    talk.save(file)
    assert "dtype of llm: 'bfloat16+float32' in the file" in refused(file, load(tiny_folder)[0])


def test_a_file_poisons_no_cache(file, original, model):
    """A state that claims to be what it is not is never found by those who ask for that."""
    rewrite(file, changed_state(original, "state.ssm", lambda t: t.zero_()))
    honest, liar = (Conversation.load(path, model, TEMPLATE) for path in (original, file))
    assert honest.history.pieces == liar.history.pieces
    assert honest.history.key != liar.history.key


def views_of(model, order=(0, 3, 7, 2)):
    tokens = model.image_tokens_by_default
    return ImageViews(torch.stack(images(2)), torch.tensor(order), view_tokens=tokens)


def test_views_for_the_next_question(file, model):
    """Tiles with an order of their tokens, and several views without one, as the model takes them."""
    talk = Conversation.load(file, model, TEMPLATE)
    (same,) = images(1)
    talk.images = [views_of(model), same, ImageViews(torch.stack(images(3))), same]
    talk.save(file)
    again = Conversation.load(file, model, TEMPLATE)
    for seen, expected in zip(again.images, talk.images, strict=True):
        assert type(seen) is type(expected)
        assert of_image_input(seen) == of_image_input(expected)
    assert list(again.ask("and?", LONG)) == list(talk.ask("and?", LONG))


@pytest.mark.parametrize("order", [[-1, 0], [0, 8], [[0]], [], [0.5]])
def test_an_order_that_lies(file, model, order):
    talk = Conversation.load(file, model, TEMPLATE)
    talk.images = [views_of(model)]
    talk.save(file)
    rewrite(file, {"image.0.order": torch.tensor(order)})
    assert "'image.0' is missing, or no image" in refused(file, model)

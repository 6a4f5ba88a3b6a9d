"""Every argument of transformers' interface is honoured, or refused by its name."""

import pytest
import torch
from hf_talk import PICTURE, TALK
from transformers import AutoModelForImageTextToText

import vlm_core.hf  # noqa: F401  transformers' Auto classes know it from here on
from vlm_core.errors import UserError


@pytest.fixture(scope="module", autouse=True)
def calm(one_thread):
    pass


@pytest.fixture
def model(tiny_folder):
    return AutoModelForImageTextToText.from_pretrained(tiny_folder)


@pytest.mark.parametrize(
    "option",
    [
        {"attn_implementation": "eager"},
        {"use_safetensors": False},
        {"variant": "fp16"},
        {"hidden_size": 7},
        {"tie_word_embeddings": False},
        {"output_hidden_states": True},
        {"max_memory": {0: 1}},
        {"foo": 1},
        {"key_mapping": {"a": "b"}},
        {"num_labels": 5},
        {"tp_plan": "auto"},
        {"low_cpu_mem_usage": False},
        {"adapter_kwargs": {"foo": 1}},
    ],
    ids=lambda option: next(iter(option)),
)
def test_loading_refuses_by_name(tiny_folder, option):
    name = {"num_labels": "id2label", "adapter_kwargs": "foo"}.get(next(iter(option)), next(iter(option)))
    with pytest.raises((UserError, TypeError), match=name):
        AutoModelForImageTextToText.from_pretrained(tiny_folder, **option)


def test_loading_takes_what_happens_anyway(tiny_folder):
    AutoModelForImageTextToText.from_pretrained(
        str(tiny_folder),
        attn_implementation="sdpa",
        use_safetensors=True,
        low_cpu_mem_usage=True,
        trust_remote_code=False,
        weights_only=True,
        variant=None,
    )
    inner = AutoModelForImageTextToText.from_pretrained(tiny_folder.parent / tiny_folder.name, revision=None)
    assert inner.config.name_or_path == str(tiny_folder)


@pytest.mark.parametrize(
    "option",
    [
        {"num_beams": 2},
        {"prompt_lookup_num_tokens": 2},
        {"output_attentions": True},
        {"foo": 1},
        {"output_hidden_states": True},
        {"position_ids": torch.arange(3)},
        {"cache_implementation": "static"},
        {"guidance_scale": 2.0},
        {"past_key_values": "x"},
        {"token_type_ids": torch.zeros(1, 3)},
    ],
    ids=lambda option: next(iter(option)),
)
def test_generation_refuses_by_name(model, batch, option):
    name = {"prompt_lookup_num_tokens": "assisted generation"}.get(next(iter(option)), next(iter(option)))
    with pytest.raises((UserError, TypeError, ValueError), match=name):
        model.generate(**batch, max_new_tokens=2, **option)


@pytest.mark.parametrize("option", ["position_ids", "output_attentions", "past_key_values", "foo"])
def test_forward_refuses_by_name(model, batch, option):
    with pytest.raises((UserError, TypeError), match=option):
        model(**batch, **{option: torch.ones(1)})


def test_forward_honours_its_options(model, batch):
    with torch.no_grad():
        whole = model(**batch)
        assert model(**batch, use_cache=False).cache is None
        assert torch.equal(model(**batch, return_dict=False)[0], whole.logits)
        torch.testing.assert_close(
            model(**batch, logits_to_keep=torch.tensor([1, 3])).logits, whole.logits[:, [1, 3]]
        )
        inputs = {key: value for key, value in batch.items() if key != "input_ids"}
        embeds = model.model.llm.embed(batch["input_ids"])
        assert torch.equal(model(inputs_embeds=embeds, **inputs).logits, whole.logits)
        rows = {**batch, "pixel_values": batch["pixel_values"].unsqueeze(0)}
        assert torch.equal(model(**rows).logits, whole.logits)
    with pytest.raises(UserError, match="marks 3 positions, but 1 images take 4 each"):
        model(**{**batch, "image_mask": batch["image_mask"].clone().index_fill_(1, torch.tensor(0), False)})
    with pytest.raises(UserError, match="expected either input_ids or inputs_embeds"):
        model(**batch, inputs_embeds=embeds)


def test_labels_that_can_mean_nothing_are_ignored(model, processor):
    """On images, on padding, and on the first position after it."""
    talks = [TALK, [{"role": "user", "content": "a longer question than the other"}, TALK[1]]]
    batch = processor.apply_chat_template(talks, tokenize=True)
    labels = batch["input_ids"].clone()
    clean = labels.masked_fill(batch["attention_mask"] == 0, -100)
    clean[0][batch["image_mask"][0]] = -100
    first = int(batch["attention_mask"][0].argmax())
    clean[0, first] = clean[1, 0] = -100
    assert first > 0
    loss = model(**batch, labels=labels).loss
    assert torch.equal(loss, model(**batch, labels=clean).loss)
    right = processor.apply_chat_template(talks, tokenize=True, padding_side="right")
    torch.testing.assert_close(model(**right, labels=right["input_ids"].clone()).loss, loss)
    count = int((clean[:, 1:] != -100).sum())
    torch.testing.assert_close(model(**batch, labels=clean, num_items_in_batch=2 * count).loss, loss / 2)
    nothing = model(**batch, labels=torch.full_like(labels, -100)).loss
    nothing.backward()
    assert nothing == 0


@pytest.mark.parametrize(
    "option",
    [
        {"max_length": 64},
        {"truncation": True},
        {"do_resize": False},
        {"images_kwargs": {"do_resize": False}},
        {"videos": [1]},
        {"num_frames": 3},
        {"foo": 1},
        {"enable_thinking": True},
        {"padding": "x"},
        {"text_kwargs": {"return_length": True}},
        {"size": {"height": 8}},
        {"padding_side": "up"},
    ],
    ids=lambda option: next(iter(option)),
)
def test_the_processor_refuses_by_name(processor, option):
    name = next(iter(option))
    name = {"truncation": "max_length", "images_kwargs": "do_resize", "text_kwargs": "return_length"}.get(
        name, name
    )
    with pytest.raises(UserError, match=name):
        processor(images=PICTURE, text="x", **option)


def test_the_processor_honours_padding_and_truncation(processor):
    texts = ["red", "what color is the shape?"]
    left, right = processor(text=texts), processor(text=texts, text_kwargs={"padding_side": "right"})
    n = int(left["attention_mask"][0].sum())
    assert torch.equal(left["input_ids"][0, -n:], right["input_ids"][0, :n])
    assert processor(text=texts, pad_to_multiple_of=16)["input_ids"].shape[1] % 16 == 0
    assert processor(text=texts, padding="max_length", max_length=50)["input_ids"].shape == (2, 50)
    with pytest.raises(UserError, match="padding=False: rows of"):
        processor(text=texts, padding=False)
    with pytest.raises(UserError, match=r"cut an image|no answer would be left"):
        processor(images=PICTURE, text="red", truncation=True, max_length=2)
    masks = processor.apply_chat_template(TALK, tokenize=True, return_assistant_tokens_mask=True)
    assert 0 < masks["assistant_masks"].sum() < masks["input_ids"].numel()


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([{"role": "user", "content": [{"type": "image", "image": PICTURE, "min_pixels": 3}]}], "min_pixels"),
        ([{"role": "user", "content": "x", "tool_calls": [1]}], "tool_calls"),
        ([{"role": "user"}], "content None"),
        ([{"role": "user", "content": [{"type": "text", "text": 3}]}], "expected a string"),
        ([{"role": "user", "content": [{"type": "image", "image": PICTURE, "path": "x"}]}], "named twice"),
        ([], "must be a list of turns"),
    ],
)
def test_parts_that_are_not_understood_are_named(processor, turns, message):
    with pytest.raises(UserError, match=message):
        processor.apply_chat_template(turns, tokenize=True, add_generation_prompt=True)


def test_decoding_refuses_by_name(processor):
    assert processor.decode([[5, 6], [7, 8]], skip_special_tokens=True) == processor.batch_decode(
        [[5, 6], [7, 8]]
    )
    for option in ({"skip_special_tokens": False}, {"clean_up_tokenization_spaces": True}, {"foo": 1}):
        with pytest.raises(UserError, match=next(iter(option))):
            processor.batch_decode([[5, 6]], **option)
    with pytest.raises(UserError, match="-100 is not a token id"):
        processor.decode([-100])


def test_another_vocabulary_is_refused(model):
    with pytest.raises(UserError, match="can't be resized"):
        model.resize_token_embeddings(7)
    assert model.resize_token_embeddings(model.model.llm.vocab_size) is model.get_input_embeddings()

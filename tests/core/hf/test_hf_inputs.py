"""Tensors that the transformers model would misread are refused by name."""

import numpy as np
import pytest
import torch
from PIL import Image

import vlm_core.hf  # noqa: F401  transformers' Auto classes know it from here on
from vlm_core.errors import UserError

QUESTIONS = ["is there a circle?", "red"]
PICTURES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    for seed in (0, 1)
]


@pytest.fixture(scope="module", autouse=True)
def calm(one_thread):
    pass


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda b: {"attention_mask": b["attention_mask"][:, :3]}, "attention_mask: expected the shape"),
        (
            lambda b: {"attention_mask": torch.ones(3, b["input_ids"].shape[1])},
            "attention_mask: expected the shape",
        ),
        (lambda b: {"attention_mask": torch.ones(1, 1, 4, 4)}, "attention_mask: expected the shape"),
        (lambda b: {"attention_mask": torch.full(b["input_ids"].shape, -1e9)}, "0 at padding"),
        (lambda b: {"image_mask": b["image_mask"][:, :-1]}, "image_mask: expected the shape"),
        (lambda b: {"pixel_values": (b["pixel_values"] * 255).byte()}, "floats from 0 to 1, not torch.uint8"),
        (lambda b: {"pixel_values": list(b["pixel_values"])}, "floats from 0 to 1, not list"),
        (lambda b: {"pixel_values": b["pixel_values"][0]}, "pixel_values: expected"),
        (lambda b: {"input_ids": b["input_ids"][0]}, "expected input_ids"),
        (lambda b: {"labels": b["input_ids"][:, 1:]}, "labels: expected the shape"),
        (lambda b: {"labels": b["input_ids"].repeat(2, 1)}, "labels: expected the shape"),
        (lambda b: {"logits_to_keep": -3}, "logits_to_keep -3"),
        (lambda b: {"logits_to_keep": True}, "logits_to_keep True"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(model, processor, given, message):
    inputs = processor(images=PICTURES[0], text=QUESTIONS[0])
    with pytest.raises(UserError, match=message):
        model(**{**inputs, **given(inputs)})


def test_a_mask_of_floats_is_one_of_ids(model, processor):
    inputs = processor(images=PICTURES[:2], text=QUESTIONS[:2])
    again = model(**{**inputs, "attention_mask": inputs["attention_mask"].float()})
    assert torch.equal(again.logits, model(**inputs).logits)


def test_generate_does_not_drop_images(model, processor):
    inputs = processor(images=PICTURES[0], text=QUESTIONS[0])
    del inputs["image_mask"]
    with pytest.raises(UserError, match="pixel_values and image_mask go together"):
        model.generate(**inputs, max_new_tokens=1)


def test_what_a_config_asks_for_is_refused_as_an_argument_is(model, processor, monkeypatch):
    monkeypatch.setattr(model.config, "output_hidden_states", True)
    with pytest.raises(UserError, match="output_hidden_states"):
        model(**processor(text=QUESTIONS[0]))


def test_a_loss_that_a_trainer_makes_itself_is_refused(model, processor):
    """Trainer's label_smoothing_factor keeps the labels, and would not shift them."""
    with pytest.raises(UserError, match="label_smoothing_factor"):
        model(**processor(text=QUESTIONS[0]), num_items_in_batch=3)

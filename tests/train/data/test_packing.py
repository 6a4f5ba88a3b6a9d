"""Packed rows: the same loss and gradient as the samples apart, and less padding."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from resume_helpers import run_folder

from vlm_core.errors import UserError
from vlm_core.spec.spec import load_spec
from vlm_core.text.batch import collate, pack, padding_share, share_rows
from vlm_core.text.render import IMAGE, Message, render
from vlm_core.text.template import TEMPLATES
from vlm_llms.mamba.mamba import MambaLM
from vlm_train.loss import SummedLoss
from vlm_train.run import start


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 40))
def test_rows_hold_each_sample_once_within_the_capacity_and_never_cost_more(lengths, capacity):
    rows = share_rows(lengths, capacity)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(len(row) == 1 or sum(lengths[i] for i in row) <= capacity for row in rows)
    sums = [sum(lengths[i] for i in row) for row in rows]
    assert len(rows) * max(sums) <= len(lengths) * max(lengths)


def test_rows_are_balanced():
    """Four samples that nearly fill a row and a half become two equal rows, not one full and one short."""
    assert sorted(map(sorted, share_rows([36, 36, 36, 36], 128))) == [[0, 2], [1, 3]]
    assert share_rows([20, 30, 10], 60) == [[1, 0, 2]]


def examples(model, loss_on="answers"):
    """Nine conversations: some without image, one with two, two turns, lengths that differ."""
    generator, found, pixels = torch.Generator().manual_seed(0), [], []
    for i in range(9):
        images = [torch.rand(3, 32, 32, generator=generator) for _ in range((1, 0, 2)[i % 3])]
        turns = [
            Message("user", (*[IMAGE] * len(images), "what? " * i)),
            Message("assistant", ("red " * (i % 4),)),
        ]
        turns += [Message("user", ("and?",)), Message("assistant", ("blue",))] if i % 2 else []
        counts = [model.image_tokens(p) for p in images]
        found.append(render(TEMPLATES["short"], turns, model.llm.tokenizer, counts, loss_on=loss_on))
        pixels.append(images)
    return found, pixels


@pytest.mark.parametrize("loss_on", ["answers", "all"])
def test_packed_loss_and_gradient_equal_unpacked(tiny_model, loss_on):
    """State, convolution and image features stay in their sample."""
    samples, pixels = examples(tiny_model, loss_on)
    packed = pack(samples, pixels, 300)
    padded = collate(samples, [p for images in pixels for p in images])
    assert len(packed.input_ids) < len(padded.input_ids) / 2
    found = {}
    for name, batch in (("packed", packed), ("padded", padded)):
        tiny_model.zero_grad()
        loss = SummedLoss(tiny_model)(batch)
        loss.backward()
        found[name] = (
            loss,
            {n: p.grad.clone() for n, p in tiny_model.named_parameters() if p.grad is not None},
        )
    alone = sum(SummedLoss(tiny_model)(collate([s], p)) for s, p in zip(samples, pixels, strict=True))
    torch.testing.assert_close(found["packed"][0], alone, rtol=1e-5, atol=1e-4)
    assert found["packed"][1].keys() == found["padded"][1].keys()
    for name, gradient in found["padded"][1].items():
        scale = gradient.abs().max()
        assert (found["packed"][1][name] - gradient).abs().max() <= 1e-4 * scale + 1e-6, name


def test_padding_is_what_is_not_read(tiny_model):
    samples, pixels = examples(tiny_model)
    real = sum(map(len, samples))
    for batch in (pack(samples, pixels, 300), collate(samples, [p for images in pixels for p in images])):
        assert padding_share([batch]) == pytest.approx(1 - real / batch.input_ids.numel())
    same = collate([samples[0]] * 2, pixels[0] * 2)
    assert padding_share([same]) == 0.0


def test_a_packed_run_has_the_losses_of_a_padded_one_and_says_what_it_saves(run_spec):
    losses, padding = {}, {}
    stage = {f"train.stages.{i}.{key}={value}" for i in (0, 1) for key, value in (("steps", 3),)}
    for name, changes in (
        ("padded", ()),
        ("packed", ("packing=true",)),
        ("grouped", ("group_by_length=true",)),
    ):
        keys = [f"train.stages.{i}.{change}" for i in (0, 1) for change in changes]
        folder = run_folder(run_spec(name, held_out_qa=None, max_length=128), *stage, *keys)
        losses[name] = [m["loss"] for m in folder.metrics()]
        padding[name] = sum(m["padding"] for m in folder.metrics())
    assert losses["packed"] == pytest.approx(losses["padded"], rel=1e-4)
    assert losses["grouped"] != losses["padded"]
    assert padding["grouped"] < padding["padded"]
    assert padding["packed"] < padding["padded"]


def test_a_language_model_that_mixes_samples_is_refused(run_spec, monkeypatch):
    monkeypatch.setattr(MambaLM, "supports_packing", False)
    with pytest.raises(
        UserError, match="stage align: packing needs a language model that keeps samples apart"
    ):
        start(*load_spec(run_spec(held_out_qa=None), ["train.stages.0.packing=true"]))

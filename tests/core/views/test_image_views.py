"""Views of images in a batch: their order, the newline embedding, and images that several prompts share."""

import pytest
import torch
from generation_cases import LONG, SHORT, images, prompt
from torch import nn

from vlm_core.generation.answer import answer
from vlm_core.generation.generate import Session
from vlm_core.text.batch import collate, pack
from vlm_core.text.render import IMAGE, Message, render
from vlm_core.views.image_views import ImageViews, joined_order
from vlm_train.loss import SummedLoss

TOKENS = 4
"""Tokens of a view of `tiny_model`."""


@pytest.fixture
def model(tiny_model):
    """`tiny_model` with a newline embedding."""
    values = torch.randn(tiny_model.llm.dim, generator=torch.Generator().manual_seed(3))
    tiny_model.connector.image_newline = nn.Parameter(values)
    return tiny_model


def tiles(seed, order=None):
    """Three views."""
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return ImageViews(pixels, None if order is None else torch.tensor(order), view_tokens=order and TOKENS)


def asked(model, text, *inputs):
    counts = [model.image_tokens(image) for image in inputs]
    parts = (*[IMAGE] * len(counts), text)
    return render(SHORT, [Message("user", parts)], model.llm.tokenizer, counts)


def test_the_order_of_several_images_counts_on_and_has_one_newline():
    one, two, plain = tiles(0, [3, 12, 0]), tiles(1, [1, 12]), torch.rand(3, 32, 32)
    assert joined_order([one, plain, two]).tolist() == [3, 28, 0, 12, 13, 14, 15, 17, 28]
    assert joined_order([one, two], slots=[1, 0, 1]).tolist() == [13, 24, 3, 24, 0, 13, 24]
    assert joined_order([plain, plain]) is None


def test_embeddings_at_the_positions_of_an_image_follow_its_order(model):
    image = tiles(0, [7, 12, 2])
    batch = collate([asked(model, "a?", image)], [image])
    rows = torch.cat([model.encode_images(image.pixels).flatten(0, 1), model.connector.image_newline[None]])
    x = model.embed(
        batch.input_ids, batch.image_mask, model.arrange(model.encode_images(image.pixels), batch.image_order)
    )
    torch.testing.assert_close(x[batch.image_mask], rows[[7, 12, 2]])


def test_images_without_views_are_untouched(tiny_model):
    """Bit for bit: no order, and no newline."""
    pixels = images(2)
    samples = [prompt(tiny_model, text, p) for text, p in zip(("a?", "is it?"), pixels, strict=True)]
    batch = collate(samples, pixels)
    assert batch.image_order is None
    embeds = tiny_model.encode_images(batch.pixel_values)
    assert tiny_model.arrange(embeds) is embeds
    as_views = [ImageViews(p[None]) for p in pixels]
    again = collate(samples, as_views)
    assert torch.equal(again.pixel_values, batch.pixel_values)
    assert again.image_order is None


def test_answers_are_equal_at_any_batch_size_tiles_and_plain_images_mixed(model):
    inputs = [tiles(0, [5, 12, 0, 1]), images(1)[0], tiles(1), tiles(2, [11, 10, 12]), *images(2)]
    samples = [asked(model, text, i) for text, i in zip(["ab", "c?", "is", "it"], inputs[:4], strict=True)]
    samples += [asked(model, "what color is the shape?", *inputs[4:])]
    alone = [answer(model, [s], [i], decoding=LONG)[0] for s, i in zip(samples, inputs[:4], strict=False)]
    alone += answer(model, samples[4:], inputs[4:], decoding=LONG)
    assert answer(model, samples, inputs, decoding=LONG) == alone
    assert answer(model, samples[:3], inputs[:3], decoding=LONG) == alone[:3]


def test_prompts_may_share_an_image_with_views(model):
    one, two = tiles(0, [5, 12, 0, 1]), tiles(1, [0, 1, 2, 3])
    samples = [asked(model, text, one) for text in ("a?", "is there a b?", "c?")]
    expected = [answer(model, [s], [i])[0] for s, i in zip(samples, (two, one, two), strict=True)]
    assert answer(model, samples, [one, two], slots=[1, 0, 1]) == expected


def test_prefill_in_pieces_equals_one(model):
    image = tiles(0, [5, 12, 0, 1, 12, 7, 8])
    sample = asked(model, "is there a b?", image)
    whole, pieces = Session(model), Session(model, prefill_chunk=3)
    for session in (whole, pieces):
        session.prefill([sample], [image])
    torch.testing.assert_close(pieces.next_logits, whole.next_logits)


def test_packed_loss_equals_that_of_single_samples_and_newline_always_has_a_gradient(model):
    loss = SummedLoss(model)
    inputs = [tiles(0, [5, 12, 0, 1]), tiles(1, [0, 1, 2, 3]), images(1)[0]]
    samples = [asked(model, text, i) for text, i in zip(("a?", "is there?", "c"), inputs, strict=True)]
    for sample in samples:
        sample.loss_mask[-3:] = [True] * 3
    alone = [loss(collate([s], [i])).item() for s, i in zip(samples, inputs, strict=True)]
    packed = pack(samples, [[i] for i in inputs], 70)
    assert len(packed.input_ids) < 3
    assert loss(packed).item() == pytest.approx(sum(alone), rel=1e-5)
    model.zero_grad()
    loss(collate(samples[2:], inputs[2:])).backward()
    assert model.connector.image_newline.grad.abs().sum() == 0, "a gradient of zeros, not none"
    loss(packed).backward()
    assert model.connector.image_newline.grad.abs().sum() > 0

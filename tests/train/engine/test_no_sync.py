"""Forward and backward of a padded batch: no operation whose result the host would have to wait for."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vlm_core.model import splice
from vlm_core.text.batch import Batch, collate, empty_batch, pack
from vlm_core.text.render import TokenizedConversation
from vlm_ssm.backends import forced
from vlm_train.loss import SummedLoss, target_count

DATA_DEPENDENT = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
WAIT_INSIDE = {"masked_scatter_backward"}  # it selects by a mask, and torch does not tag it
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}


class Waits(RuntimeError):
    """The host would wait for a GPU here."""


class NoWaiting(TorchDispatchMode):
    """Raises `Waits` for values and shapes that depend on data, and for copies between devices.

    Torch tags such operations; indexing is tagged whatever the index is, and depends on data if that is a mask.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._overloadpacket.__name__
        if name in INDEXING:
            if any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
                raise Waits(f"{name} with a mask")
        elif name in WAIT_INSIDE or DATA_DEPENDENT & set(func.tags):
            raise Waits(name)
        out = func(*args, **(kwargs or {}))
        if name in ("_to_copy", "copy_"):
            source = args[0] if name == "_to_copy" else args[1]
            if source.device != out.device:
                raise Waits(f"{name} from {source.device} to {out.device}")
        return out


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.masked_select(x > 0),
        lambda x: torch.equal(x, x),
        lambda x: x.unique(),
        lambda x: x.masked_fill_(x > 0, 1.0).__setitem__(x > 0, torch.ones(1)),
        lambda x: torch.ones(3).to("meta"),
        lambda x: x.masked_scatter(x > 0, x.clone().requires_grad_()).sum().backward(),
    ],
)
def test_the_mode_sees_what_waits(wait):
    with NoWaiting(), pytest.raises(Waits):
        wait(torch.tensor([1.0, -1.0, 2.0]))


def conversation(ids, image=0):
    """`image` positions of an image, then text of which the second half are targets."""
    half = len(ids) // 2
    return TokenizedConversation(
        [0] * image + ids,
        [True] * image + [False] * len(ids),
        [False] * (image + half) + [True] * (len(ids) - half),
    )


def batches(model):
    """A batch whose rows differ in length and images, a packed one, a padded one of text alone, and a blank one."""
    tokens = model.image_tokens_by_default
    samples = [
        conversation([5, 6, 7, 8, 9], tokens),
        conversation([5, 6]),
        conversation([7, 8, 9, 4], tokens),
    ]
    pixels = torch.rand(2, 3, *model.encoder.image_size, generator=torch.Generator().manual_seed(0))
    images = [[pixels[0]], [], [pixels[1]]]
    text = [conversation([5, 6, 7, 8]), conversation([9, 4])]
    return {
        "padded": collate(samples, list(pixels)),
        "packed": pack(samples, images, 2 * tokens + 8),
        "text": collate(text),
        "blank": empty_batch(),
    }


@pytest.fixture
def trained(tiny_model):
    """The tiny model, all of it trained."""
    tiny_model.train().requires_grad_(True)
    return SummedLoss(tiny_model, always_sees=True)


@pytest.mark.parametrize("kind", ["padded", "packed", "text", "blank"])
def test_forward_and_backward_wait_for_nothing(trained, kind):
    batch = batches(trained.model)[kind]
    with forced("torch"):
        trained(batch).backward()  # tables are made
        with NoWaiting():
            trained(batch).backward()


@pytest.mark.parametrize("kind", ["padded", "packed", "text", "blank"])
def test_nothing_is_copied_between_devices(trained, kind):
    """On the meta device, where no value can be read and the host's tensors are another device's."""
    batch = batches(trained.model)[kind].to("meta")
    trained.to("meta")
    with forced("torch"):
        trained(batch).backward()
        with NoWaiting():
            trained(batch).backward()


def test_left_padding_and_a_continued_state_wait_for_nothing(tiny_model):
    tokens = tiny_model.image_tokens_by_default
    batch = collate(
        [conversation([5, 6, 7, 8], tokens), conversation([5, 6], tokens)],
        list(torch.rand(2, 3, *tiny_model.encoder.image_size)),
        side="left",
    )
    with forced("torch"), torch.no_grad():
        tiny_model(batch.input_ids, batch.image_mask, batch.pixel_values, batch.segments)
        with NoWaiting():
            embeds = tiny_model.embed(
                batch.input_ids, batch.image_mask, tiny_model.encode_images(batch.pixel_values)
            )
            _, state = tiny_model.forward_embeds(embeds, batch.segments)
            tiny_model.forward_embeds(embeds, batch.segments, state)


def test_splice_is_masked_scatter():
    generator = torch.Generator().manual_seed(0)
    x, embeds = torch.randn(3, 7, 4, generator=generator), torch.randn(2, 5, 4, generator=generator)
    grad = torch.randn(3, 7, 4, generator=generator)
    for count in (0, 1, 9, 10):  # places, of 10 embeddings
        mask = torch.zeros(21, dtype=torch.bool)
        mask[torch.randperm(21, generator=generator)[:count]] = True
        mask = mask.view(3, 7)
        ends = []
        for one in (splice, lambda x, mask, embeds: x.masked_scatter(mask.unsqueeze(-1), embeds)):
            inputs = x.clone().requires_grad_(), embeds.clone().requires_grad_()
            out = one(inputs[0], mask, inputs[1])
            ends.append([out, *torch.autograd.grad(out, inputs, grad)])
        assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True)), count
    mask = torch.zeros(21, dtype=torch.bool).index_fill_(0, torch.arange(11), True).view(3, 7)
    with pytest.raises(RuntimeError, match="image_mask has more positions than there are embeddings"):
        splice(x, mask, embeds)


def test_targets_are_the_places_of_the_loss_mask(tiny_model):
    for kind, batch in batches(tiny_model).items():
        flat = torch.zeros_like(batch.loss_mask).flatten()
        flat[batch.targets] = True
        wanted = batch.loss_mask.clone()
        wanted[:, 0] = False
        assert torch.equal(flat.view_as(wanted), wanted), kind
        assert target_count(batch) == int(wanted.sum())
    assert target_count(empty_batch()) == 0
    by_hand = Batch(
        *(torch.ones(2, 3, dtype=dtype) for dtype in (torch.long, torch.bool, torch.bool)), None, None
    )
    assert by_hand.targets.tolist() == [1, 2, 4, 5]
    assert by_hand.to("meta").targets.is_meta

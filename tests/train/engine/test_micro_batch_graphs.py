"""Micro-batches padded to a few shapes, and repeated from records: equal losses and gradients."""

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_core.numerics.linear_cross_entropy import summed_cross_entropy
from vlm_core.text.batch import collate
from vlm_core.text.render import TokenizedConversation
from vlm_train.distributed.base import DDPStrategy
from vlm_train.engine.step_graphs import micro_batch_graphs, padded_batch
from vlm_train.engine.step_graphs.micro_batch_graphs import MicroBatchGraphs, why_not, why_not_fixed
from vlm_train.engine.step_graphs.padded_batch import padded
from vlm_train.engine.train_step import take_step
from vlm_train.loss import SummedLoss, target_count


@pytest.fixture
def model(tiny_spec):
    from vlm_core.model_folder.assemble import build
    from vlm_core.spec.spec import Spec

    return build(Spec.model_validate(tiny_spec)).train().requires_grad_(True)


def sample(model, text, image=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = model.image_tokens_by_default if image else 0
    ids = torch.randint(5, 60, (text,), generator=generator).tolist()
    conversation = TokenizedConversation(
        [0] * tokens + ids, [True] * tokens + [False] * text, [False] * (tokens + 2) + [True] * (text - 2)
    )
    return conversation, [torch.rand(3, *model.encoder.image_size, generator=generator)] * image


def batch_of(model, *texts, image=True, seed=0):
    pairs = [sample(model, text, image, seed + i) for i, text in enumerate(texts)]
    return collate([c for c, _ in pairs], [image for _, images in pairs for image in images])


class Recorder:
    """Records that run the function again, and write where the first run did, as CUDA graphs."""

    def __init__(self, module):
        self.parameters = list(module.parameters())

    def __call__(self, run, pool):
        before = [None if p.grad is None else p.grad.clone() for p in self.parameters]
        loss = run()
        own = [(p, p.grad) for p in self.parameters]
        for (_, grad), earlier in zip(own, before, strict=True):  # a capture computes nothing
            if grad is not None:
                grad.copy_(torch.full_like(grad, 7.0) if earlier is None else earlier)

        def replay():
            result = run()
            for p, grad in own:
                if p.grad is not grad:
                    grad.copy_(p.grad)
                    p.grad = grad
            loss.copy_(result)

        return replay, loss, pool or "pool"


@given(length=st.integers(1, 5000), count=st.integers(0, 5000))
def test_shapes_are_few_and_not_much_larger(length, count):
    assert length <= padded_batch.positions(length) <= max(length * 1.0625, length + 31)
    assert count <= padded_batch.targets(count) <= max(64, 2 * count, count + 511)


def test_few_shapes_serve_all_lengths():
    assert len({padded_batch.positions(n) for n in range(768, 1281)}) <= 13
    assert len({padded_batch.targets(n) for n in range(1, 513)}) == 4


@settings(max_examples=8, deadline=None)
@given(texts=st.lists(st.integers(3, 30), min_size=1, max_size=3), image=st.booleans())
def test_padding_changes_no_loss_and_no_gradient(tiny_spec, texts, image):
    from vlm_core.model_folder.assemble import build
    from vlm_core.spec.spec import Spec

    model = build(Spec.model_validate(tiny_spec)).train().requires_grad_(True)
    module, batch = SummedLoss(model), batch_of(model, *texts, image=image)
    results = []
    for given_batch, counted in ((batch, None), padded(batch)):
        module.zero_grad()
        loss = module(given_batch, counted)
        loss.backward()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
        results.append((loss.detach(), grads))
    (loss, grads), (other, others) = results
    torch.testing.assert_close(other, loss, rtol=1e-5, atol=1e-5)
    for a, b in zip(others, grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * max(1, float(b.abs().max())))


@pytest.mark.parametrize("chunk", [None, 100])
def test_only_counted_tokens_have_a_loss(model, chunk, monkeypatch):
    from vlm_core.numerics import linear_cross_entropy as module

    if chunk:
        monkeypatch.setattr(module, "CHUNK", chunk)
    hidden = torch.randn(7, model.llm.dim, requires_grad=True)
    labels = torch.arange(7)
    counted = torch.tensor([True, False, True, True, False, False, True])
    summed_cross_entropy(model.llm, hidden, labels, counted).backward()
    grad, hidden.grad = hidden.grad, None
    wanted = summed_cross_entropy(model.llm, hidden[counted], labels[counted])
    wanted.backward()
    torch.testing.assert_close(grad, hidden.grad)
    assert not grad[~counted].any()


STEPS = [
    [(9, True)],
    [(9, True)],
    [(9, True), (5, True)],
    [(9, True), (5, True)],
    [(9, True), (5, True)],
    [(9, False)],
    [(80, True), (9, False), (9, True)],
    [(9, False)],
    [(9, False), (9, True)],
    [(9, True)],
]


@pytest.mark.parametrize("order", [1, -1])
def test_steps_from_records_equal_those_of_passes(tiny_spec, order):
    """Shapes, text alone, several micro-batches, in two orders: what comes first makes the gradients."""
    from vlm_core.model_folder.assemble import build
    from vlm_core.spec.spec import Spec

    outcomes, weights, graphs = [], [], None
    for recorded in (False, True):
        model = build(Spec.model_validate(tiny_spec)).train().requires_grad_(True)
        strategy = DDPStrategy(Accelerator(cpu=True))
        module = strategy.wrap(SummedLoss(model))
        optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
        # without room nothing is recorded, and every micro-batch is padded all the same
        graphs = MicroBatchGraphs(strategy, module, Recorder(module))
        if not recorded:
            graphs._has_room = lambda seen: False
        results = []
        for number, step in enumerate(STEPS[::order]):
            batches = [batch_of(model, text, image=image, seed=number) for text, image in step]
            targets = sum(map(target_count, batches))
            results.append(take_step(strategy, module, optimizer, batches, 1.0, targets, graphs))
        outcomes.append(results)
        weights.append([p.detach().clone() for p in model.parameters()])
    assert len(graphs) >= 3
    assert outcomes[0] == outcomes[1]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_a_graph_with_other_gradients_is_not_used(model, caplog):
    strategy = DDPStrategy(Accelerator(cpu=True))
    module = strategy.wrap(SummedLoss(model))

    recorder = Recorder(module)

    def wrong(run, pool):
        replay, loss, pool = recorder(run, pool)

        def other():
            replay()
            recorder.parameters[0].grad += 1

        return other, loss, pool

    graphs = MicroBatchGraphs(strategy, module, wrong)
    batch = batch_of(model, 9)
    losses, grads = [], []
    for _ in range(4):
        losses.append(graphs.backward([batch], 7))
        grads = [p.grad.clone() for p in module.parameters()]
        module.zero_grad()
    assert len(graphs) == 0
    assert "has other gradients" in caplog.text
    assert len(caplog.records) == 1
    assert len({float(loss) for loss in losses}) == 1
    module(*padded(batch)).div(7.0).backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(grads, module.parameters(), strict=True))


def test_a_capture_that_fails_is_told_once(model, caplog):
    strategy = DDPStrategy(Accelerator(cpu=True))
    module = strategy.wrap(SummedLoss(model))

    def fails(run, pool):
        raise RuntimeError("out of memory\nand more")

    graphs = MicroBatchGraphs(strategy, module, fails)
    for _ in range(4):
        graphs.backward([batch_of(model, 9)], 7)
        module.zero_grad()
    assert caplog.messages == [
        "a micro-batch can't be a CUDA graph: out of memory; it is launched call by call"
    ]


def test_weights_elsewhere_drop_the_graphs(model):
    strategy = DDPStrategy(Accelerator(cpu=True))
    module = strategy.wrap(SummedLoss(model))
    graphs = MicroBatchGraphs(strategy, module, Recorder(module))
    for _ in range(2):
        graphs.backward([batch_of(model, 9)], 7)
        module.zero_grad()
    assert len(graphs) == 1
    weight = next(module.parameters())
    weight.data = weight.data.clone()
    graphs.backward([batch_of(model, 9)], 7)
    assert len(graphs) == 0


def test_what_has_no_graphs(model):
    strategy, module = DDPStrategy(Accelerator(cpu=True)), SummedLoss(model)
    assert why_not(strategy, module) == "the device is cpu, not a GPU of CUDA"
    assert why_not_fixed(module) is None
    handle = model.connector.register_forward_hook(lambda *_: None)
    assert why_not_fixed(module) == "model.connector has hooks"
    handle.remove()
    model.llm.forward = model.llm.forward
    assert "another forward" in str(why_not_fixed(module))
    del model.llm.forward
    model.connector.norm = torch.nn.BatchNorm1d(3)
    assert why_not_fixed(module) == "model.connector.norm has running statistics"


def test_large_micro_batches_and_counts_run_as_they_are(model, monkeypatch):
    from torch.utils.flop_counter import FlopCounterMode

    strategy = DDPStrategy(Accelerator(cpu=True))
    module = strategy.wrap(SummedLoss(model))
    graphs, batch = MicroBatchGraphs(strategy, module, Recorder(module)), batch_of(model, 9)
    losses = []
    for _ in range(3):
        with FlopCounterMode(display=False):
            losses.append(graphs.backward([batch], 7))
        module.zero_grad()
    assert len(graphs) == 0
    assert torch.equal(graphs.backward([batch], 7), losses[0])
    assert len(graphs) == 1
    assert graphs.positions([batch, batch]) == 2 * padded(batch)[0].input_ids.numel()
    work = batch.input_ids.numel() * sum(p.numel() for p in model.llm.parameters())
    monkeypatch.setattr(micro_batch_graphs, "MOST_WORK", work - 1)
    assert not graphs.takes([batch])
    assert graphs.positions([batch]) == batch.input_ids.numel()

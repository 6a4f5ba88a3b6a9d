"""Which calls become graphs, and when a graph is no longer the function's; graphs themselves are plain calls here."""

import copy
import pickle

import pytest
import torch
from torch import nn

from vlm_core.numerics import cuda_graphs
from vlm_core.numerics.cuda_graphs import Captured, CudaGraphs


@pytest.fixture
def captures(monkeypatch):
    """Shapes of captured calls."""
    made = []

    def capture(run, pool):
        outputs = run()
        made.append(tuple(outputs[0].shape))

        def replay():
            for own, new in zip(outputs, run(), strict=True):
                own.copy_(new)

        return Captured(replay, outputs, "pool")

    monkeypatch.setattr(cuda_graphs, "capture", capture)
    monkeypatch.setattr(cuda_graphs, "usable", lambda *_: not torch.is_grad_enabled())
    with torch.no_grad():
        yield made


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Linear(3, 2).eval()


def through(graphs, layer, x):
    def product(x):
        return (layer(x),)

    (y,) = graphs.call(product, [layer], x)
    assert torch.equal(y, layer(x))
    return y


def test_the_second_call_of_a_shape_is_captured(captures, layer):
    graphs = CudaGraphs()
    kept = [through(graphs, layer, torch.randn(n, 3)) for n in (4, 5, 4, 4, 5, 4)]
    assert captures == [(4, 2), (5, 2)]
    first = kept[2].clone()
    through(graphs, layer, torch.randn(4, 3))
    assert torch.equal(kept[2], first), "outputs belong to the caller"


def test_the_graphs_used_last_are_kept(captures, layer):
    graphs = CudaGraphs(limit=2, spare_bytes=0)
    for n in (1, 1, 2, 2, 1, 3, 3, 1, 2):
        through(graphs, layer, torch.randn(n, 3))
    assert len(graphs) == 2
    assert captures == [(1, 2), (2, 2), (3, 2), (2, 2)]


def test_more_graphs_are_kept_while_they_are_small(captures, layer):
    size = 4 * (3 + 2)  # bytes of a row of input and output
    graphs = CudaGraphs(limit=1, spare_bytes=10 * size)
    for n in (1, 2, 3, 4, 5):
        through(graphs, layer, torch.randn(n, 3))
        through(graphs, layer, torch.randn(n, 3))
    assert len(graphs) == 2, "5 rows and 4"
    for n in (4, 5):
        through(graphs, layer, torch.randn(n, 3))
    assert [shape[0] for shape in captures] == [1, 2, 3, 4, 5]
    assert len(copy.deepcopy(graphs)) == 0
    assert pickle.loads(pickle.dumps(graphs)).spare_bytes == 10 * size


def test_another_backend_or_precision_has_a_graph_of_its_own(captures, layer, monkeypatch):
    graphs, x = CudaGraphs(), torch.randn(4, 3)
    for _ in range(2):
        through(graphs, layer, x)
    monkeypatch.setenv("VLM_SCAN_BACKEND", "torch")
    through(graphs, layer, x)
    assert len(captures) == 1, "a first call"
    through(graphs, layer, x)
    assert len(captures) == 2
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        for _ in range(2):
            through(graphs, layer, x)
    finally:
        torch.set_float32_matmul_precision(before)
    assert len(captures) == 3


def test_weights_that_move_are_captured_anew(captures, layer):
    graphs, x = CudaGraphs(), torch.randn(4, 3)
    through(graphs, layer, x)
    through(graphs, layer, x)
    layer.weight.mul_(2)
    through(graphs, layer, x)
    assert len(captures) == 1, "changed in place: read as they are"
    layer.weight = nn.Parameter(torch.randn(2, 3))
    through(graphs, layer, x)
    layer.bias.data = torch.randn(2)
    through(graphs, layer, x)
    assert len(captures) == 3


@pytest.mark.parametrize("change", ["hook", "forward", "training", "gradients", "global"])
def test_what_a_graph_would_leave_out_is_called(captures, layer, change):
    graphs, x, seen = CudaGraphs(), torch.randn(4, 3), []
    hook = lambda *_: seen.append(1)  # noqa: E731
    undo = None
    if change == "hook":
        layer.register_forward_hook(hook)
    elif change == "forward":
        forward = layer.forward
        layer.forward = lambda x: seen.append(1) or forward(x)
    elif change == "training":
        layer.train()
    elif change == "global":
        undo = nn.modules.module.register_module_forward_hook(hook)
    with torch.set_grad_enabled(change == "gradients"):
        for _ in range(3):
            graphs.call(lambda x: (layer(x),), [layer], x)
    if undo is not None:
        undo.remove()
    assert not captures
    assert len(seen) == (3 if change in ("hook", "forward", "global") else 0)


def test_what_cannot_be_captured_is_said_once_and_called(captures, layer, monkeypatch, caplog):
    def fail(run, pool):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(cuda_graphs, "capture", fail)
    graphs = CudaGraphs()
    for _ in range(4):
        through(graphs, layer, torch.randn(4, 3))
    (record,) = caplog.records
    assert "can't be a CUDA graph: operation not permitted when stream is capturing;" in record.message


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_are_empty(captures, layer, copied):
    graphs = CudaGraphs(limit=3)
    for _ in range(2):
        through(graphs, layer, torch.randn(4, 3))
    again = copied(graphs)
    assert (len(graphs), len(again), again.limit) == (1, 0, 3)

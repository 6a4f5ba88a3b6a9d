"""Steps as graphs that run ahead of the host: the same tokens as steps that are called and read one by one.

Without a GPU graphs are plain calls. With one, the whole engine runs on it.
"""

import asyncio
import random
from importlib.util import find_spec

import pytest
import torch
from engine_cases import (
    answered,
    assert_answers_are_those_alone,
    becomes_empty,
    chat,
    closed,
    image_file,
    outcome,
    request,
)
from graph_engine import plain_captures, small_model

from vlm_core.text.template import TEMPLATES
from vlm_serve.engine.batching import decode_groups, graph_steps
from vlm_serve.engine.batching.decode_groups import ROWS, Batching, Group
from vlm_serve.engine.batching.graph_steps import sizes
from vlm_serve.engine.local import LocalEngine
from vlm_serve.engine.request import Failed, SamplingParams
from vlm_serve.engine.settings import EngineSettings

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
needs_gpu = pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
LOGPROBS = [None, None, None, 2] if find_spec("llguidance") else [None]  # it names tokens
QUESTIONS = ["what color is the shape?", "red", "is there a circle? yes no " * 6, "a blue triangle " * 40]


@pytest.fixture(scope="module")
def model():
    return small_model(DEVICE)


@pytest.fixture
def captured(monkeypatch):
    """The numbers of rows that are captured, where graphs are plain calls; None on a GPU."""
    return None if CUDA else plain_captures(monkeypatch)


@pytest.fixture
def engine_of(model, captured):
    engines = []

    def start(model=model, **settings):
        engines.append(LocalEngine(model, TEMPLATES["short"], EngineSettings(**settings)))
        return engines[-1]

    yield start
    for engine in engines:
        closed(engine)


@torch.inference_mode()
def states_of(model, count):
    prompts = [torch.tensor([[17 * i + 1, i + 2, 5]], device=DEVICE) for i in range(count)]
    return [model.forward_embeds(model.llm.embed(ids))[1] for ids in prompts]


def called(monkeypatch, model, batching):
    """A group whose steps are called one by one."""
    with monkeypatch.context() as patch:
        patch.setattr(decode_groups, "steps_are_graphs", lambda _: False)
        return Group(model, batching)


def test_few_sizes():
    assert [sizes(n) for n in (1, 2, 5, 8, 16)] == [
        (1,),
        (1, 2),
        (1, 2, 4, 5),
        (1, 2, 4, 8),
        (1, 2, 4, 8, 16),
    ]


@pytest.mark.parametrize("batching", [Batching(ROWS), Batching(ROWS, padded=True), Batching(5)], ids=str)
def test_groups_of_graphs_equal_groups_of_calls(model, captured, monkeypatch, batching):
    """Logits and states bit by bit, while members come and go."""
    draw, states = random.Random(1), states_of(model, 12)
    graphs, calls, outside = Group(model, batching), called(monkeypatch, model, batching), list(range(12))
    by_rows = CUDA and not batching.padded and Batching.of(model) != Batching(ROWS)
    assert graphs.graphs == 1 + (1 if batching.padded else len(sizes(batching.rows)))  # one that draws
    assert calls.graphs == 0
    for _ in range(30):
        leaving = [member for member in graphs.members if draw.random() < 0.2]
        room = batching.rows - (len(graphs.members) - len(leaving))
        joining = [
            (member, states[member])
            for member in draw.sample(outside, min(room, draw.randrange(4), len(outside)))
        ]
        for group in (graphs, calls):
            group.change(leaving, joining)
        outside = [member for member in range(12) if member not in graphs.members]
        if not graphs.members:
            continue
        ids = [draw.randrange(300) for _ in graphs.members]
        one, other = graphs.launch(ids), calls.launch(ids)
        if not by_rows:
            assert torch.equal(one.logits, other.logits)
            assert one.read() == other.read()
            member = draw.choice(graphs.members)
            seen, expected = (group.taken(member).to_tensors() for group in (graphs, calls))
            assert all(torch.equal(seen[name], expected[name]) for name in expected)
        else:  # kernels choose by rows, of which a graph has a few more
            assert (one.logits - other.logits).abs().max() <= 0.05 * other.logits.abs().max()


def test_steps_run_ahead_of_their_readers(model, captured, monkeypatch):
    """Who joins brings an id; who leaves takes it along; the others go on with those that the steps chose."""
    states, batching = states_of(model, 6), Batching(ROWS, padded=True)
    ahead, alone = Group(model, batching), {}
    tokens = {member: [10 + member] for member in range(6)}
    expected = {}
    for member in range(6):
        alone[member] = called(monkeypatch, model, batching)
        alone[member].change([], [(member, states[member])])
        expected[member] = [10 + member]
        for _ in range(12):
            expected[member] += alone[member].launch([expected[member][-1]]).read()
    before, changes = None, {0: ([], [0, 1, 2]), 3: ([1], [3]), 5: ([0], [4, 5]), 8: ([2, 3], [])}
    for number in range(11):
        leaving, joining = changes.get(number, ([], []))
        ahead.change(leaving, [(member, states[member]) for member in joining])
        unread = [] if before is None else before.members
        step = ahead.launch([None if m in unread else tokens[m][-1] for m in ahead.members])
        if before is not None:
            for member, token in zip(before.members, before.read(), strict=True):
                tokens[member].append(token)
        before = step
    assert all(tokens[member] == expected[member][: len(tokens[member])] for member in range(6))
    assert [len(tokens[member]) for member in range(6)] == [6, 4, 9, 6, 6, 6]


def drawn_request(draw, name):
    """Few need the host, so that groups run ahead, and then do not."""
    sampling = SamplingParams(
        max_tokens=draw.choice([1, 3, 8, 20]),
        temperature=draw.choice([0.0, 0.0, 0.9]),
        top_p=draw.choice([1.0, 1.0, 1.0, 0.9]),
        presence_penalty=draw.choice([0.0] * 9 + [0.5]),
        seed=draw.randrange(1000),
        stop=draw.choice([(), (), ("e",)]),
        logprobs=draw.choice(LOGPROBS),
    )
    images = [image_file(draw.randrange(3)) for _ in range(draw.choice([0, 0, 1]))]
    return request(chat(draw.choice(QUESTIONS), *images), sampling, owner=draw.choice("ab"), name=name)


async def arriving(engine, requests, draw):
    """All requests at random times, each third cancelled after a while -> outcomes of the others by name."""

    async def one(asked, wait, cancel_after):
        await asyncio.sleep(wait)
        return asked.id, cancel_after, await outcome(engine, asked, cancel_after)

    plans = [
        (asked, draw.random() * 0.3, draw.choice([None, None, draw.randrange(1, 6)])) for asked in requests
    ]
    seen = await asyncio.gather(*(one(*plan) for plan in plans))
    return {name: result for name, cancelled, result in seen if cancelled is None}


@pytest.mark.parametrize("slots", [5, 16, 40])
def test_company_changes_no_answer(engine_of, slots):
    draw = random.Random(slots)
    requests = [drawn_request(draw, str(n)) for n in range(40)]
    alone_engine = engine_of(slots=1, cache_bytes=0, prefill_chunk=64)
    together_engine = engine_of(slots=slots, prefill_chunk=64)
    together = asyncio.run(arriving(together_engine, requests, draw))
    assert_answers_are_those_alone(together, requests, alone_engine)
    assert len({seen.text for seen in together.values()}) > 8
    assert becomes_empty(together_engine)
    stats = together_engine.stats()
    assert stats["decode_graphs"] > 0
    assert stats["requests_failed_total"] == 0


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_answers_equal_those_of_an_engine_without_graphs(engine_of, monkeypatch, temperature):
    """Whose steps are called and read one by one, and whose tokens are drawn on the host."""
    sampling = [SamplingParams(max_tokens=20, temperature=temperature, seed=n) for n in range(12)]
    asked = [request(chat(QUESTIONS[n % 4], image_file(n)), sampling[n], name=str(n)) for n in range(12)]
    graphs = engine_of(slots=16, cache_bytes=0)
    seen = [one.answer for one in answered(graphs, *asked)]
    with monkeypatch.context() as patch:
        patch.setattr(decode_groups, "steps_are_graphs", lambda _: False)
        called_one_by_one = engine_of(slots=16, cache_bytes=0)
        assert called_one_by_one.stats()["decode_graphs"] == 0
        assert called_one_by_one.stats()["batch_rows"] == graphs.stats()["batch_rows"]
        assert [one.answer for one in answered(called_one_by_one, *asked)] == seen
    assert len(set(map(str, seen))) > 6


def test_a_capture_that_fails_is_told_of(engine_of, monkeypatch, caplog):
    greedy = SamplingParams(max_tokens=8, temperature=0.0)
    asked = [request(chat(question), greedy) for question in QUESTIONS]
    expected = [one.answer for one in answered(engine_of(cache_bytes=0), *asked)]

    def fail(run, pool):
        run()
        raise RuntimeError("out of memory\nmore")

    monkeypatch.setattr(graph_steps, "capture", fail)
    engine = engine_of(cache_bytes=0)
    assert "the decoding of a group can't be a CUDA graph: out of memory" in caplog.text
    assert engine.stats()["decode_graphs"] == 0
    assert [one.answer for one in answered(engine, *asked)] == expected


def test_weights_that_move_are_captured_again(captured, monkeypatch):
    """Once a sequence joins an empty group."""
    model = small_model(DEVICE)
    states, batching = states_of(model, 2), Batching(ROWS, padded=True)
    group, calls = Group(model, batching), called(monkeypatch, model, batching)
    before = None if captured is None else len(captured)
    logits = []
    for member, token in enumerate((5, 5)):
        for one in (group, calls):
            one.change(list(one.members), [(member, states[0])])
        logits.append(group.launch([token]).logits.clone())
        assert torch.equal(logits[-1], calls.launch([token]).logits)
        embedding = model.llm.get_submodule("backbone.embedding")
        embedding.weight = torch.nn.Parameter(embedding.get_parameter("weight").detach() * 2)
    assert not torch.equal(*logits)
    assert group.graphs == 2
    if captured is not None:
        assert len(captured) == before + 2, "once"


def test_a_hooked_module_is_called(captured, caplog):
    model, seen = small_model(DEVICE, torch.float32), []
    model.llm.backbone.norm_f.register_forward_hook(lambda *_: seen.append(1))
    group = Group(model, Batching(ROWS))
    assert group.graphs == 0
    assert "hook" in caplog.text
    (state,) = states_of(model, 1)
    group.change([], [(0, state)])
    seen.clear()
    group.launch([5]).read()
    assert seen


def test_damaged_weights_are_told_of(engine_of, model):
    broken = small_model(DEVICE)
    engine = engine_of(broken)
    with torch.no_grad():
        broken.llm.backbone.norm_f.weight.fill_(float("nan"))
    asked = request(chat("red"), SamplingParams(max_tokens=5, temperature=0.0))
    (seen,) = answered(engine, asked)
    assert "not finite" in seen.last.message


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_the_memory_of_graphs_is_bounded(dtype):
    """All sizes share the memory of the largest."""
    model = small_model(DEVICE, dtype)
    Group(model, Batching(ROWS, padded=True))
    torch.cuda.synchronize()
    before = torch.cuda.memory_reserved()
    group = Group(model, Batching(ROWS))
    assert group.graphs == 6
    assert torch.cuda.memory_reserved() - before <= 128 * 2**20  # cuBLAS takes 32 MiB of it, once


@needs_gpu
def test_an_engine_on_the_last_gpu():
    """Its threads launch there."""
    device = f"cuda:{torch.cuda.device_count() - 1}"
    engine = LocalEngine(small_model(device), TEMPLATES["short"], EngineSettings())
    asked = request(chat(QUESTIONS[0], image_file(1)), SamplingParams(max_tokens=9, temperature=0.0))
    (seen,) = answered(engine, asked)
    assert not isinstance(seen.last, Failed)
    closed(engine)

"""Rows that are cheap to read together are read together, and the order stays a pure function of seed and position."""

from collections import Counter, OrderedDict
from functools import partial
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_core.rows import Blocks
from vlm_train.data.order.sampler import StepSampler
from vlm_train.data.order.shuffled_order import ShuffledOrder

SIZES = st.lists(st.integers(1, 7), min_size=1, max_size=9)


def blocks(sizes, window):
    return Blocks(np.array(sizes), window)


@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, window=st.integers(1, 4), seed=st.integers(0, 2), plain=st.integers(0, 9), data=st.data())
def test_each_epoch_has_its_rows_whatever_is_mixed(sizes, window, seed, plain, data):
    """A source in blocks beside one without, with counts or without, grouped by length or not."""
    totals = [sum(sizes), plain] if plain else [sum(sizes)]
    counts = data.draw(st.none() | st.tuples(*(st.integers(1, 2 * n) for n in totals)))
    lengths = torch.arange(sum(totals)) * 7 % 11 if data.draw(st.booleans()) else None
    made = partial(ShuffledOrder, seed, totals, counts, lengths=lengths, batch_size=3)
    order, again = (made(blocks=[blocks(sizes, window), None][: len(totals)]) for _ in range(2))
    seen = Counter()
    for epoch in range(4):
        rows = order.epoch(epoch)
        first = int((rows < totals[0]).sum())
        assert [first, len(rows) - first][: len(totals)] == list(counts or totals)
        seen.update(rows.tolist())
    for start, stop in ((0, totals[0]), (totals[0], sum(totals))):
        often = [seen[row] for row in range(start, stop)]
        assert not often or max(often) - min(often) <= 1
    places = range(3 * len(order))
    assert [order.row_at(i) for i in places] == [again.row_at(i) for i in reversed(places)][::-1]


@settings(max_examples=30, deadline=None)
@given(world=st.sampled_from([1, 2, 3, 4, 6]), first=st.integers(0, 9), grouped=st.booleans())
def test_any_number_of_processes_reads_the_same_steps(world, first, grouped):
    sizes = [5, 3, 8, 8, 8, 2]
    lengths = torch.arange(sum(sizes)) * 7 % 11 if grouped else None

    def steps(world, rank, first=0):
        order = ShuffledOrder(1, [sum(sizes)], lengths=lengths, batch_size=12, blocks=[blocks(sizes, 2)])
        sampler = StepSampler(34, 12, 10, first_step=first, rank=rank, world=world, order=order)
        return list(sampler)

    shares = [steps(world, rank, first) for rank in range(world)]
    whole = steps(1, 0)[first:]
    assert [list(chain(*parts)) for parts in zip(*shares, strict=True)] == whole


def fetched(order, size, batch, world, workers, kept):
    """How often a block is fetched in one epoch, by all workers of all processes, each keeping `kept` blocks."""
    asked = 0
    for rank in range(world):
        held = [OrderedDict() for _ in range(workers)]
        sampler = StepSampler(
            len(order),
            batch,
            len(order) // batch,
            rank=rank,
            world=world,
            micro=batch // world // workers,
            order=order,
        )
        for number, rows in enumerate(sampler):
            mine = held[number % workers]
            for row in rows:
                if row // size not in mine:
                    asked += 1
                    while len(mine) >= kept:
                        mine.popitem(last=False)
                mine[row // size] = None
                mine.move_to_end(row // size)
    return asked / (len(order) // size)


@pytest.mark.parametrize(
    ("world", "workers", "group", "most"),
    [(1, 1, False, 1.01), (1, 1, True, 1.4), (1, 4, False, 1.7), (4, 2, False, 2.4), (4, 2, True, 2.6)],
)
def test_a_block_is_fetched_about_once_an_epoch(world, workers, group, most):
    """200 blocks of 50 rows, 32 kept and 16 mixed, batches of 128, over all processes. A plain order: 45 times."""
    count, size, lengths, kinds = 200, 50, None, None
    if group:
        lengths = torch.randint(1, 500, (count * size,), generator=torch.Generator().manual_seed(0))
        kinds = (lengths % 10 < 3).long()
    keys = {"lengths": lengths, "kinds": kinds, "batch_size": 128}
    order = ShuffledOrder(0, [count * size], blocks=[blocks([size] * count, 16)], **keys)
    assert fetched(order, size, 128, world, workers, 32) < most
    if world == workers == 1:
        assert fetched(ShuffledOrder(0, [count * size], **keys), size, 128, 1, 1, 32) > 30


def test_rows_are_mixed_within_a_window_and_blocks_over_all():
    count, size, window = 200, 50, 16
    order = ShuffledOrder(0, [count * size], blocks=[blocks([size] * count, window)]).epoch(0)
    first = order[: size * window] // size
    assert len(first.unique()) == window
    assert int(first.max()) > count // 2, "blocks come from everywhere"
    assert len(first[:50].unique()) > window // 2, "rows of a window are mixed"
    assert not torch.equal(
        order, ShuffledOrder(0, [count * size], blocks=[blocks([size] * count, window)]).epoch(1)
    )

"""Mixing and grouping: exact shares, every row as often as the next, and a pure function of seed and position."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlm_core.errors import SpecError
from vlm_core.spec.spec import load_spec
from vlm_train.data.mixture import joined
from vlm_train.data.order.row_lengths import sizes_of
from vlm_train.data.order.sampler import StepSampler
from vlm_train.data.order.shuffled_order import ShuffledOrder
from vlm_train.data.order.source_mixing import shares


@given(weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=5), total=st.integers(1, 1000))
def test_shares_are_whole_exact_and_nearest(weights, total):
    found = shares(weights, total)
    assert sum(found) == total
    assert all(abs(n - total * w / sum(weights)) < 1 for n, w in zip(found, weights, strict=True))


def test_without_a_mixture_the_order_is_the_plain_permutation():
    """Specs written before there was mixing train in the order that they always had."""
    expected = torch.randperm(7, generator=torch.Generator().manual_seed((3 << 20) + 2))
    assert ShuffledOrder(3, [4, 3]).epoch(2).tolist() == expected.tolist()


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3), seed=st.integers(0, 2), data=st.data())
def test_each_epoch_has_the_counts_and_rows_are_seen_equally_often(sizes, seed, data):
    counts = [data.draw(st.integers(1, 2 * n)) for n in sizes]
    order, starts = ShuffledOrder(seed, sizes, counts), np.cumsum([0, *sizes])
    seen = Counter()
    for epoch in range(4):
        rows = order.epoch(epoch)
        source = np.searchsorted(starts, rows.numpy(), side="right") - 1
        assert np.bincount(source, minlength=len(sizes)).tolist() == counts
        seen.update(rows.tolist())
    for i, size in enumerate(sizes):
        often = [seen[r] for r in range(starts[i], starts[i] + size)]
        assert max(often) - min(often) <= 1


@given(n=st.integers(1, 60), batch=st.integers(1, 9), seed=st.integers(0, 3))
def test_grouping_only_changes_the_order(n, batch, seed):
    lengths = torch.randint(1, 50, (n,), generator=torch.Generator().manual_seed(seed))
    order = ShuffledOrder(seed, [n], lengths=lengths, kinds=lengths % 2, batch_size=batch)
    for epoch in range(3):
        assert sorted(order.epoch(epoch).tolist()) == list(range(n))


def test_groups_are_alike_and_stay_whole_in_every_epoch():
    """Also where an epoch ends inside a batch: all but the two loose batches of an epoch hold one kind."""
    n, batch = 1003, 10
    lengths = torch.randint(1, 500, (n,), generator=torch.Generator().manual_seed(0))
    kinds = (torch.arange(n) % 3 == 0).long()
    order = ShuffledOrder(0, [n], lengths=lengths, kinds=kinds, batch_size=batch)
    batches = list(StepSampler(n, batch, 300, order=order))
    mixed = sum(len({int(kinds[i]) for i in rows}) > 1 for rows in batches)
    assert mixed <= 3 * 3
    spread = [int(lengths[rows].max() - lengths[rows].min()) for rows in batches]
    plain = [int(lengths[rows].max() - lengths[rows].min()) for rows in StepSampler(n, batch, 300)]
    assert np.mean(spread) < 0.1 * np.mean(plain)
    first = [rows[0] for rows in batches[:100]]
    assert first != sorted(first, key=lambda i: int(lengths[i])), "batches are shuffled"
    assert batches[150:] == list(StepSampler(n, batch, 300, order=order, first_step=150))


def test_lengths_come_from_the_index_or_from_the_rows(run_spec):
    spec, _ = load_spec(run_spec())
    from vlm_train.data.llava import LlavaConfig

    rows = joined([LlavaConfig.model_validate(spec.train["stages"][0]["data"][0])])
    assert sizes_of(rows).tolist() == sizes_of(list(rows)).tolist()
    assert sizes_of(rows)[:, 1].tolist() == [0 if i % 3 == 2 else 1 for i in range(18)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.stages.0.mix_weights=[1, 2]", "2 mix_weights or samples_per_epoch for 1 datasets"),
        ("train.stages.0.mix_weights=[0]", "greater than 0"),
        ("train.stages.0.samples_per_epoch=[1.5]", "expected a whole number"),
    ],
)
def test_bad_mixtures(run_spec, change, message):
    with pytest.raises(SpecError, match=message):
        load_spec(run_spec(), [change])


def test_a_stage_takes_what_its_weights_or_counts_say(run_spec):
    """Two datasets of 18 rows: the epoch keeps its length with weights, and has its own with counts."""
    from vlm_train.config.train import Stage
    from vlm_train.data.mixture import order_of
    from vlm_train.engine.stage_batches import total_steps

    data = load_spec(run_spec())[0].train["stages"][0]["data"] * 2
    keys = {"name": "s", "trainable": ["llm"], "data": data, "lr": 1e-3, "batch_size": 4}
    for mix, counts in (
        ({"mix_weights": [2.0, 1.0]}, [24, 12]),
        ({"samples_per_epoch": [5, 7]}, [5, 7]),
        ({}, [18, 18]),
    ):
        stage = Stage.model_validate({**keys, **mix})
        rows = joined(stage.data)
        order = order_of(stage, rows, 0, image_tokens=lambda: 4)
        assert order.mixture.counts == counts
        assert total_steps(stage, len(rows)) == -(-sum(counts) // 4)
        again = order_of(stage, rows, 0, image_tokens=lambda: 4)
        assert [order.row_at(i) for i in range(80)] == [again.row_at(i) for i in reversed(range(80))][::-1]

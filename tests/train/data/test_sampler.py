"""The order of data: a pure function of seed and step, whatever the number of processes."""

from hypothesis import given
from hypothesis import strategies as st

from vlm_train.data.order.sampler import StepSampler, row_at


@given(rows=st.integers(1, 40), seed=st.integers(0, 3), epochs=st.integers(1, 3))
def test_every_epoch_is_a_permutation(rows, seed, epochs):
    for epoch in range(epochs):
        seen = [row_at(epoch * rows + i, rows, seed) for i in range(rows)]
        assert sorted(seen) == list(range(rows))


@given(
    rows=st.integers(2, 30),
    share=st.integers(1, 5),
    world=st.integers(1, 4),
    micro=st.integers(1, 6),
    first=st.integers(0, 4),
)
def test_processes_share_the_same_steps(rows, share, world, micro, first):
    """All processes together see, step by step, what one process alone sees from any step on."""
    batch, steps = share * world, 5
    alone = list(StepSampler(rows, batch, steps, seed=7))
    parts = [
        StepSampler(rows, batch, steps, seed=7, first_step=first, rank=r, world=world, micro=micro)
        for r in range(world)
    ]
    pieces = [list(part) for part in parts]
    assert all(len(p) == len(part) for p, part in zip(pieces, parts, strict=True))
    per_step = parts[0].micro_batches
    for step in range(first, steps):
        start = (step - first) * per_step
        together = [i for p in pieces for micro_batch in p[start : start + per_step] for i in micro_batch]
        assert together == alone[step]


def test_seeds_and_epochs_differ():
    orders = {tuple(row_at(e * 50 + i, 50, s) for i in range(50)) for s in (0, 1) for e in (0, 1)}
    assert len(orders) == 4

"""The order of training rows never changes: a checkpoint holds a position in it, not the rows that were used."""

import hashlib
import json
from itertools import product

import numpy as np
import pytest
import torch

from vlm_core.rows import Blocks
from vlm_train.data.order.sampler import StepSampler
from vlm_train.data.order.shuffled_order import ShuffledOrder

SIZES = ([7], [40, 3], [25, 61, 10])
MIXES = {
    "plain": {},
    "counts": {"counts": [17, 5, 30]},
    "grouped": {"lengths": True},
    "kinds": {"lengths": True, "kinds": 3},
    "blocks": {"blocks": True},
    "everything": {"counts": [17, 5, 30], "lengths": True, "kinds": 2, "blocks": True},
}
RECORDED = {
    "plain": "1299080e3bdf9315",
    "counts": "42454a07b4edf1c7",
    "grouped": "af7929ac98b80053",
    "kinds": "b5897bda5e056f09",
    "blocks": "3cbff618c9461c29",
    "everything": "060f40f250e1f408",
}
"""Digests of the outputs, recorded before the class was split into its parts."""


def order_for(mix, seed, sizes, batch_size):
    total = sum(sizes)
    keys = {"batch_size": batch_size, "counts": mix["counts"][: len(sizes)] if "counts" in mix else None}
    if "lengths" in mix:
        keys["lengths"] = torch.arange(total) * 37 % 101
    if "kinds" in mix:
        keys["kinds"] = torch.arange(total) % mix["kinds"]
    if "blocks" in mix:
        split = [np.diff([*range(0, size, 4), size]) for size in sizes]
        keys["blocks"] = [None if i == 1 else Blocks(s, 2) for i, s in enumerate(split)]
    return ShuffledOrder(seed, sizes, **keys)


def outputs(mix):
    """Epochs, positions, rows of a range, and the micro-batches of two ranks after a resume."""
    for seed, sizes, batch_size in product((0, 5, 2**31), SIZES, (1, 4)):
        order = order_for(mix, seed, sizes, batch_size)
        yield [order.epoch(number).tolist() for number in (0, 1, 6)]
        yield [order.row_at(position) for position in range(0, 5 * len(order), 3)]
        yield order.rows_between(len(order) // 2, 2 * len(order) + 1)
        for rank in range(2):
            sampler = StepSampler(
                len(order), 2 * batch_size, 9, first_step=3, rank=rank, world=2, micro=3, order=order
            )
            yield list(sampler)


@pytest.mark.parametrize("name", MIXES)
def test_the_order_is_the_recorded_one(name):
    digest = hashlib.sha256(json.dumps(list(outputs(MIXES[name]))).encode()).hexdigest()
    assert digest[:16] == RECORDED[name]

"""Copies of weights in another dtype are kept in a context, are current, and end with it."""

import gc
import threading
import weakref

import pytest
import torch
from torch import nn

from vlm_ssm.registration.cast_cache import cast, keep_casts


@pytest.fixture
def weight():
    return nn.Parameter(torch.randn(3, 4))


def test_a_copy_is_kept_in_the_context_alone(weight):
    assert cast(weight, torch.bfloat16) is not cast(weight, torch.bfloat16)
    with keep_casts():
        copy = cast(weight, torch.bfloat16)
        assert torch.equal(copy, weight.detach().bfloat16())
        assert not copy.requires_grad
        assert cast(weight, torch.bfloat16) is copy
        with keep_casts():
            assert cast(weight, torch.bfloat16) is copy, "the outer context's"
        assert cast(weight, torch.bfloat16) is copy
        assert cast(weight, torch.float32) is weight
    assert cast(weight, torch.bfloat16) is not copy


def test_a_changed_weight_is_cast_again(weight):
    with keep_casts():
        copy = cast(weight, torch.bfloat16)
        with torch.no_grad():
            weight += 1
        assert torch.equal(cast(weight, torch.bfloat16), weight.detach().bfloat16())
        assert not torch.equal(cast(weight, torch.bfloat16), copy)
        assert cast(weight, torch.float16).dtype == torch.float16
        weight.data = torch.zeros(2, dtype=torch.float64)
        assert torch.equal(cast(weight, torch.bfloat16), torch.zeros(2, dtype=torch.bfloat16))


def test_a_weight_with_other_memory_is_cast_again(weight):
    """torch counts operations, not a change of memory, as by `vector_to_parameters` and swaps of averaged weights."""
    with keep_casts():
        cast(weight, torch.bfloat16)
        weight.data = torch.full((3, 4), 2.0)
        assert cast(weight, torch.bfloat16).unique().tolist() == [2]
        nn.utils.vector_to_parameters(torch.full((12,), 5.0), [weight])
        assert cast(weight, torch.bfloat16).unique().tolist() == [5]


def test_copies_end_with_the_context_and_with_the_weight():
    weight = nn.Parameter(torch.randn(3, 4))
    with keep_casts():
        copy = weakref.ref(cast(weight, torch.bfloat16))
        gc.collect()
        assert copy() is not None
        del weight
        gc.collect()
        assert copy() is None
        other = nn.Parameter(torch.ones(2))
        copy = weakref.ref(cast(other, torch.bfloat16))
    gc.collect()
    assert copy() is None


def test_activations_are_not_kept(weight):
    with keep_casts():
        x = weight * 2
        assert cast(x, torch.bfloat16) is not cast(x, torch.bfloat16)
        assert not cast(x, torch.bfloat16).requires_grad


def test_another_thread_has_its_own(weight):
    copies = []
    with keep_casts():
        copy = cast(weight, torch.bfloat16)
        thread = threading.Thread(
            target=lambda: copies.extend(cast(weight, torch.bfloat16) for _ in range(2))
        )
        thread.start()
        thread.join()
    assert copies[0] is not copies[1]
    assert all(each is not copy for each in copies)

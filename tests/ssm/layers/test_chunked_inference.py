"""A long inference in pieces of time: equal to the whole, with buffers that do not grow with the length."""

import mmap
import sys
from pathlib import Path

import pytest
import torch
from cases import assert_near
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vlm_core.interfaces import PADDING
from vlm_core.numerics import low_precision_matmul
from vlm_core.numerics.low_precision_matmul import upcast_matmul
from vlm_ssm import Mamba, MambaMixer, SSMState, boundaries_of
from vlm_ssm.layers import chunked_inference
from vlm_ssm.runtime.huge_pages import LARGE, with_huge_pages

WIDTH, LENGTH = 24, 300


@pytest.fixture(autouse=True)
def _numba(monkeypatch):
    monkeypatch.setenv("VLM_SCAN_BACKEND", "numba")


def segments_of(batch):
    """Padding over more than a piece in front of the first sequence; segments that begin within pieces."""
    segments = torch.zeros(batch, LENGTH, dtype=torch.long)
    segments[:, 130:] = 3
    segments[:, 140:] = 1
    segments[0, :90] = PADDING
    return segments


def state_of(mixer, batch):
    conv = torch.randn(batch, mixer.d_conv - 1, mixer.d_inner).to(mixer.in_proj.weight.dtype)
    return SSMState(conv, torch.randn(batch, mixer.d_inner, mixer.d_state))


@torch.no_grad()
def outputs(mixer, x, segments, state):
    y, after = mixer(x, segments, state)
    if segments is not None:
        y = y[segments != PADDING]
    return {"y": y.clone()} | after._asdict()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("segmented", [False, True])
@pytest.mark.parametrize("continued", [False, True])
def test_pieces_equal_the_whole(dtype, batch, segmented, continued, monkeypatch):
    torch.manual_seed(0)
    mixer = MambaMixer(WIDTH, d_state=8).to(dtype)
    x, segments = torch.randn(batch, LENGTH, WIDTH).to(dtype), segments_of(batch) if segmented else None
    state = state_of(mixer, batch) if continued else None
    before = None if state is None else [t.clone() for t in state]
    assert not chunked_inference.is_long(mixer, x)
    whole = outputs(mixer, x, segments, state)
    monkeypatch.setattr(chunked_inference, "ROWS", 64 * batch)
    with torch.no_grad():
        assert chunked_inference.is_long(mixer, x)
    pieces = outputs(mixer, x, segments, state)
    assert {name: t.dtype for name, t in pieces.items()} == {name: t.dtype for name, t in whole.items()}
    assert_near(pieces, whole, 2e-6 if dtype == torch.float32 else 1e-2)
    if before is not None:
        assert all(torch.equal(a, b) for a, b in zip(before, state, strict=True))


def test_pieces_of_other_layers(monkeypatch):
    """Without the convolution's bias; `Mamba`; a window of one tap."""
    monkeypatch.setattr(chunked_inference, "ROWS", 64)
    bare, one_tap = Mamba(WIDTH, conv_bias=False), MambaMixer(WIDTH, d_conv=1)
    x = torch.randn(1, LENGTH, WIDTH)
    for layer in (bare, one_tap):
        with torch.no_grad():
            assert chunked_inference.is_long(layer, x)
            pieces = layer.mix(x)[0]
        assert_near({"y": pieces}, {"y": layer.mix(x)[0].detach()}, 2e-6)


def test_a_gradient_or_a_hook_means_the_whole(monkeypatch):
    """Inputs and parameters get gradients; a hook sees all positions in one call."""
    monkeypatch.setattr(chunked_inference, "ROWS", 64)
    mixer, x, lengths = MambaMixer(WIDTH), torch.randn(1, LENGTH, WIDTH, requires_grad=True), []
    mixer(x)[0].sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    mixer.x_proj.register_forward_hook(lambda module, args, y: lengths.append(y.shape[-2]))
    with torch.no_grad():
        mixer(x)
    assert lengths == [LENGTH]


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that an operation returns, besides those of `apart`."""

    def __init__(self):
        super().__init__()
        self.sizes = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for t in tree_leaves(result):
            if isinstance(t, torch.Tensor):
                storage = t.untyped_storage()
                self.sizes[storage.data_ptr()] = storage.nbytes()
        return result

    def but(self, *apart):
        known = {t.untyped_storage().data_ptr() for t in apart}
        return max(size for at, size in self.sizes.items() if at not in known)


@pytest.mark.parametrize("batch", [1, 2])
@torch.no_grad()
def test_buffers_do_not_grow_with_the_length(batch, monkeypatch):
    """The output alone does: no other tensor is larger at eight times the length."""
    monkeypatch.setattr(chunked_inference, "ROWS", 128 * batch)
    mixer, sizes = MambaMixer(WIDTH), []
    for length in (512, 4096):
        x, largest = torch.randn(batch, length, WIDTH), Largest()
        boundaries = boundaries_of(torch.arange(length).div(100, rounding_mode="floor").expand(batch, -1))
        with largest:
            y, _ = mixer(x, boundaries)
        sizes.append(largest.but(x, y, *boundaries))
        assert y.nbytes > sizes[0] or length == 512
    assert sizes[0] == sizes[1]


def test_products_of_a_cpu_without_bf16(monkeypatch):
    """They are made in fp32 and rounded once, into the buffers."""
    torch.manual_seed(0)
    mixer, x = MambaMixer(WIDTH).bfloat16(), torch.randn(1, LENGTH, WIDTH).bfloat16()
    monkeypatch.setattr(low_precision_matmul, "native", lambda dtype: dtype == torch.float32)
    with torch.no_grad(), upcast_matmul(x):
        whole = mixer(x)[0]
        monkeypatch.setattr(chunked_inference, "ROWS", 64)
        assert_near({"y": mixer(x)[0]}, {"y": whole}, 1e-2)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux lists the flags of mappings")
@pytest.mark.parametrize(("size", "flag"), [(2 * LARGE, True), (LARGE // 2, False)])
def test_large_outputs_are_advised_for_huge_pages(size, flag):
    """Memory of a mapping of its own: that of a tensor may lie in a mapping that an earlier one had advised."""
    if not Path("/sys/kernel/mm/transparent_hugepage/enabled").exists():
        pytest.skip("this kernel has no transparent huge pages")
    with mmap.mmap(-1, size) as fresh:
        t = torch.frombuffer(fresh, dtype=torch.uint8)
        assert with_huge_pages(t) is t
        assert ("hg" in flags_at(t.data_ptr() + size // 2)) is flag
        del t


def flags_at(address):
    """VmFlags of the mapping that holds the address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split(maxsplit=1)[0]
        if "-" in first and not first.endswith(":"):
            begin, end = (int(n, 16) for n in first.split("-"))
            inside = begin <= address < end
        elif inside and first == "VmFlags:":
            return line.split()[1:]
    raise AssertionError("no mapping holds the address")

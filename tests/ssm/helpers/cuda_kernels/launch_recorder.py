"""Launches of CUDA kernels where there is no GPU: recorded and checked instead of run."""

import re
from functools import partial

import nvrtc_here  # noqa: F401  skips where NVRTC is missing
import pytest
import torch

from vlm_ssm.cuda import compiler, conv, launch, parameters, reduce, scan_backward, scan_forward
from vlm_ssm.cuda.decoding import matvec, stack_step
from vlm_ssm.cuda.decoding import step as decode
from vlm_ssm.cuda.norms import layer_norm, rms_norm


def fields_of_a_layer():
    text = (compiler.SOURCES / "stack_sizes.cuh").read_text()
    body = text.split("struct Layer {", 1)[1].split("};", 1)[0]
    return re.findall(r"\*\s*(\w+)", body)


@pytest.fixture
def launches(monkeypatch):
    """Launches as (file, constants), each checked to name every field of its arguments, instead of running."""
    made = []

    class Kernel:
        def __init__(self, file, entry, **constants):
            self.file, self.entry = file, entry
            self.names = launch.argument_names(file)
            self.constants = tuple(sorted((n, int(v)) for n, v in constants.items()))

        def prepare(self, grid, threads, shared, device, tensors, **integers):
            assert sorted([*tensors, *integers]) == sorted(launch.argument_names(self.file)), self.entry
            assert all(n > 0 for n in grid)
            assert all(isinstance(n, int) for n in integers.values())
            made.append((self.file, self.constants))
            return partial(self.launched, len(tensors))

        def launched(self, count, *tensors):
            assert len(tensors) == count
            assert all(t is None or isinstance(t, torch.Tensor) for t in tensors)

        def __call__(self, grid, threads, shared, device, **values):
            tensors = {n: v for n, v in values.items() if v is None or isinstance(v, torch.Tensor)}
            integers = {n: v for n, v in values.items() if n not in tensors}
            self.prepare(grid, threads, shared, device, (*tensors,), **integers)(*tensors.values())

    for module in (
        conv,
        decode,
        layer_norm,
        matvec,
        parameters,
        reduce,
        rms_norm,
        scan_backward,
        scan_forward,
        stack_step,
    ):
        monkeypatch.setattr(module, "kernel", Kernel)
    for module in (decode, matvec):
        dependent = lambda run, grid, threads, device, **values: run(grid, threads, 0, device, **values)  # noqa: E731
        monkeypatch.setattr(module, "launch_dependent", dependent)

    def cooperative(run, blocks, threads, shared, device, arguments):
        constants, (own, layers) = dict(run.constants), arguments
        assert len(own) == len(run.names)
        assert len(layers) == len(fields_of_a_layer()) * constants["LAYERS"]
        assert (blocks, shared) == (constants["GRID"], constants["SHARED"])
        made.append((run.file, run.constants))

    monkeypatch.setattr(stack_step, "launch_cooperative", cooperative)
    monkeypatch.setattr(stack_step, "gpu_of", lambda device: None)
    for module in (decode, parameters, rms_norm):
        monkeypatch.setattr(module, "is_usable", lambda device: True)
    forget_launches()
    yield made
    forget_launches()


def forget_launches():
    kept = (
        conv._launch,
        parameters._launch,
        reduce._launch,
        scan_backward._launches,
        scan_backward._gate_launch,
        scan_forward._launches,
        scan_forward._sum_launch,
        rms_norm._launch,
        layer_norm._launch,
    )
    for function in kept:
        function.cache_clear()

"""Matrix products in bf16 and fp16 on a CPU that has no instructions for them.

torch's fallback runs at a seventh of the speed of fp32 (10 against 77 GFLOP/s on two AVX2 cores), so such
products are computed in fp32 and rounded once.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

ROWS = 32
"""With fewer rows a product is bound by reading the matrix, and a conversion to fp32 only adds to that."""
CHUNK = 1 << 21
"""Numbers of a matrix that are converted at once: 8 MB in fp32, which the allocator reuses."""
_PRODUCTS = {
    F.linear,
    F.conv2d,
    F.scaled_dot_product_attention,
    torch.matmul,
    torch.bmm,
    torch.mm,
    torch.addmm,
    torch.baddbmm,
    Tensor.matmul,
    Tensor.__matmul__,
    Tensor.bmm,
    Tensor.mm,
}


@cache
def native(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies matrices of a dtype at full speed; True if torch has no oneDNN."""
    if not torch.backends.mkldnn.is_available():
        return True
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.ops.mkldnn._is_mkldnn_fp16_supported() if dtype == torch.float16 else True


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def _linear(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, *, out: Tensor | None = None
) -> Tensor:
    """`F.linear` in fp32, by chunks of the matrix: the fp32 copy stays small and its memory is reused."""
    x, y = input.float(), input.new_empty(*input.shape[:-1], len(weight)) if out is None else out
    rows = max(1, CHUNK // weight.shape[1])
    for i in range(0, len(weight), rows):
        b = None if bias is None else bias[i : i + rows].float()
        y[..., i : i + rows] = F.linear(x, weight[i : i + rows].float(), b)
    return y


def _slow(x: Any) -> bool:
    """Whether `x` has many rows on the CPU, in a dtype without native instructions."""
    return (
        isinstance(x, Tensor)
        and not native(x.dtype)
        and x.device.type == "cpu"
        and x.ndim > 1
        and x.numel() >= ROWS * x.shape[-1]
    )


class _InFP32(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func not in _PRODUCTS or not _slow(args[0]):
            return func(*args, **kwargs)
        if func is F.linear and not torch.is_grad_enabled():
            return _linear(*args, **kwargs)
        out = kwargs.pop("out", None)
        if func is torch.mm and out is not None:
            return _linear(args[0], args[1].mT, out=out)
        y = func(*tree_map(_wide, args), **tree_map(_wide, kwargs))
        return y.to(args[0].dtype) if out is None else out.copy_(y)


def upcast_matmul(like: Tensor) -> AbstractContextManager[Any]:
    """Context in which CPU products in the dtype of `like` are computed in fp32; empty if the CPU has native ones."""
    slow = like.device.type == "cpu" and not native(like.dtype) and not torch.compiler.is_compiling()
    return _InFP32() if slow else nullcontext()

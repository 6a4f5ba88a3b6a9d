"""The operations on CUDA kernels, and on Triton's where those don't cover a case.

Importing it fails where the kernels can't run at all: without NVRTC, or on a GPU that is too old.
"""

from __future__ import annotations

import torch

from vlm_ssm.cuda.compiler import CompilationError, target, version
from vlm_ssm.cuda.conv import conv
from vlm_ssm.cuda.scan import scan
from vlm_ssm.runtime.errors import UnusableError
from vlm_ssm.triton.norm import add_rms_norm

__all__ = ["add_rms_norm", "conv", "scan"]

try:  # the first call loads the library of NVRTC
    version()
except (CompilationError, OSError, RuntimeError) as error:
    raise UnusableError(
        f"NVRTC can't be used: {error}; pip install 'cuda-bindings[all]' brings it"
    ) from error
for _device in range(torch.cuda.device_count()):
    _major, _minor = torch.cuda.get_device_capability(_device)
    try:
        target(10 * _major + _minor)
    except CompilationError as error:
        raise UnusableError(f"GPU {_device}: {error}; use backend triton") from error

"""The operations on CUDA kernels, and on Triton's where those don't cover a case.

Importing it fails where nothing can compile the kernels. Importing it does not initialize CUDA: processes that only
read data import it, too. What a GPU lacks is found out at its first use (`launch.why_unusable`).
"""

from __future__ import annotations

from vlm_ssm.cuda import parameters as layer_parameters
from vlm_ssm.cuda.compiler import CompilationError, version
from vlm_ssm.cuda.conv import conv, conv_kernels
from vlm_ssm.cuda.norms.layer_norm import add_layer_norm
from vlm_ssm.cuda.norms.rms_norm import add_rms_norm, norm_kernels
from vlm_ssm.cuda.scan import scan, scan_kernels
from vlm_ssm.runtime.errors import UnusableError

__all__ = [
    "add_layer_norm",
    "add_rms_norm",
    "conv",
    "conv_kernels",
    "layer_parameters",
    "norm_kernels",
    "scan",
    "scan_kernels",
]

try:
    version()
except (CompilationError, OSError, RuntimeError) as error:  # the first call loads NVRTC's library
    raise UnusableError(
        f"NVRTC can't be used: {error}; pip install 'cuda-bindings[all]' brings it"
    ) from error

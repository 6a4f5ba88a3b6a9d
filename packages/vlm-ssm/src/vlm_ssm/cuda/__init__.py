"""Backend `cuda`: CUDA C++ kernels, compiled at first use by NVRTC. No compiler or header is needed."""

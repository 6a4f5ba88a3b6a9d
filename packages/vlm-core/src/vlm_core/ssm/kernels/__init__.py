"""The CPU kernels, compiled by numba on the machine they run on; `vlm_core.ssm.fast` calls them."""

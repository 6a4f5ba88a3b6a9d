"""The CPU kernels, compiled by numba on the machine they run on; `vlm_ssm.numba.ops` calls them."""

"""Launches of the CUDA kernels where there is no GPU: they name every argument, and their sources compile."""

import nvrtc_here  # noqa: F401  skips where NVRTC is missing
import pytest
from launch_cases import CASES
from launch_recorder import launches

from vlm_ssm.cuda import compiler

__all__ = ["launches"]


@pytest.mark.parametrize("name", CASES)
def test_every_launch_names_its_arguments(name, launches):
    CASES[name]()
    assert launches


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_120"])
@pytest.mark.parametrize("name", CASES)
def test_the_sources_compile(name, arch, launches):
    """Without a warning, and without registers spilled by the thousand."""
    CASES[name]()
    for file, constants in launches:
        if file == "stack_step.cu" and arch == "sm_80":
            continue  # not used there
        image, log = compiler.build(file, constants, arch)
        assert image.startswith(b"\x7fELF")
        assert not log, log

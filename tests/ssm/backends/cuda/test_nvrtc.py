"""NVRTC, where there is no GPU: the CUDA sources compile for GPUs that it knows, and errors show its log."""

import nvrtc_here  # noqa: F401  skips where NVRTC is missing
import pytest

from vlm_ssm.cuda import compiler


def test_a_source_compiles():
    image, log = compiler.build("reduce.cu", (("ROW", 1),), "sm_90")
    assert image.startswith(b"\x7fELF")
    assert not log


def test_compiling_changes_no_bytes_that_python_shares():
    """NVRTC writes its log into a bytes object; those of one byte are the same everywhere in a process."""
    compiler.build("reduce.cu", (("ROW", 1),), "sm_90")
    assert [bytes([n])[0] for n in range(256)] == [*range(256)]


def test_a_gpu_that_nvrtc_does_not_know_gets_portable_code():
    assert compiler.target(90) == "sm_90"
    assert compiler.target(99999).startswith("compute_")
    with pytest.raises(compiler.CompilationError, match="below"):
        compiler.target(75)


def test_an_error_in_a_source_shows_the_log(tmp_path, monkeypatch):
    (tmp_path / "bad.cu").write_text("nonsense")
    monkeypatch.setattr(compiler, "SOURCES", tmp_path)
    with pytest.raises(compiler.CompilationError, match=r"bad\.cu\(1\)"):
        compiler.build("bad.cu", (), "sm_90")

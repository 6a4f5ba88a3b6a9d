"""Where Triton's compiled kernels are kept."""

import os

import pytest

from vlm_ssm.triton import kernel_cache


@pytest.mark.parametrize("name", ["HOME", "TRITON_HOME", "TRITON_CACHE_DIR"])
def test_a_triton_cache_that_can_not_be_written(tmp_path, monkeypatch, capsys, name):
    """Triton itself would raise at its first kernel."""
    for variable in ("TRITON_HOME", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(variable, "")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(name, str(tmp_path / "file"))
    kernel_cache.ensure_usable()
    assert os.access(kernel_cache.folder(), os.W_OK)
    assert capsys.readouterr().err.count("kernels that Triton compiles are not cached") == 1
    kernel_cache.ensure_usable()
    assert capsys.readouterr().err == ""


def test_a_triton_cache_that_can_be_written_stays(tmp_path, monkeypatch):
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    monkeypatch.setenv("TRITON_HOME", str(tmp_path))
    kernel_cache.ensure_usable()
    assert "TRITON_CACHE_DIR" not in os.environ
    assert kernel_cache.folder() == str(tmp_path / ".triton" / "cache")


def test_a_triton_cache_that_others_can_write_is_not_used(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    kernel_cache.ensure_usable()
    assert kernel_cache.folder() != str(tmp_path / "cache")
    assert "can be written by other users; chmod go-w" in capsys.readouterr().err

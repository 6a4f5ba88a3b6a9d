"""Machine code of the CUDA kernels is kept safely: checked when it is read, and in no folder of others."""

import hashlib
import sys
from pathlib import Path

import nvrtc_here  # noqa: F401  skips where NVRTC is missing
import pytest

from vlm_ssm.cuda import compiler


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own, and the number of compilations."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiler.why_not_kept.cache_clear()
    count, build = [], compiler.build

    def counted(*arguments):
        count.append(arguments)
        return build(*arguments)

    monkeypatch.setattr(compiler, "build", counted)
    yield tmp_path / "vlm-ssm" / "kernels" / "cuda", count
    compiler.why_not_kept.cache_clear()


def machine_code():
    return compiler.machine_code("reduce.cu", (("ROW", 0),), "sm_90")


def test_machine_code_is_kept(cache):
    folder, count = cache
    first, second = machine_code(), machine_code()
    assert first == second
    assert len(count) == 1
    assert [file.suffix for file in folder.iterdir()] == [".bin"], "nothing half-written is left"


@pytest.mark.parametrize("damage", [b"", b"x" * 40, None], ids=["empty", "other", "cut off"])
def test_damaged_machine_code_is_compiled_anew(cache, damage):
    folder, count = cache
    first = machine_code()
    (entry,) = folder.iterdir()
    entry.write_bytes(entry.read_bytes()[:-1] if damage is None else damage)
    assert machine_code() == first
    assert len(count) == 2
    content = entry.read_bytes()
    assert hashlib.sha256(content[32:]).digest() == content[:32]


@pytest.mark.skipif(sys.platform == "win32", reason="a user's folders are the user's")
def test_a_folder_of_others_is_not_used(cache, capsys):
    folder, count = cache
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    machine_code()
    machine_code()
    assert len(count) == 2
    assert not list(folder.iterdir())
    assert capsys.readouterr().err.count("are not kept") == 1


def test_the_name_of_an_entry_depends_on_everything(monkeypatch, tmp_path):
    names = {compiler.digest("reduce.cu", (("ROW", n),), arch) for n in (0, 1) for arch in ("sm_80", "sm_90")}
    for path in compiler.SOURCES.iterdir():
        Path(tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(compiler, "SOURCES", tmp_path)
    for name in ("common.cuh", "reduce.cu"):
        with (tmp_path / name).open("a") as file:
            file.write("// changed\n")
        names.add(compiler.digest("reduce.cu", (("ROW", 0),), "sm_80"))
    assert len(names) == 6

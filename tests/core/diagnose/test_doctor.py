"""`vlm-assemble --doctor`: what it tells, and that it finds what is wrong."""

import importlib.metadata
import re
import sys
from functools import cache
from pathlib import Path

import pytest
from processes import add_plugin, connector_plugin, run

from vlm_core.diagnose import doctor

CODE = """
import sys
from vlm_core.cli.assemble import main
sys.argv[1:] = ["--doctor"]
sys.exit(main())
"""
ABSENT = "import sys; sys.modules[{!r}] = None"
DAMAGED_NUMBA = """
import sys

class Damaged:
    def find_spec(self, name, path=None, target=None):
        if name == "numba":
            raise OSError("libLLVM.so: invalid ELF header")

sys.meta_path.insert(0, Damaged())
"""


def output(before="", **env):
    """Exit code and text of `--doctor` in a fresh process that ran `before`."""
    clean = {"VLM_SCAN_BACKEND": "", "NUMBA_CACHE_DIR": "", "CUDA_VISIBLE_DEVICES": ""}
    done = run(sys.executable, "-c", before + CODE, env=clean | env)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout


healthy = cache(output)
"""The same without anything wrong."""


def examine(before="", **env):
    """Exit code, values by section and name, and what follows the sections."""
    code, text = output(before, **env) if before or env else healthy()
    *sections, end = text.split("\n\n")
    found = {}
    for title, *lines in map(str.splitlines, sections):
        found[title] = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in lines)
    return code, found, end


def test_all_is_well():
    code, found, end = examine()
    assert (code, end) == (0, "no problems found\n")
    assert list(found) == ["versions", "device", "scan backends", "kernels", "parts run on", "plugins"]
    assert found["versions"]["torch"] == importlib.metadata.version("torch")
    assert re.fullmatch(r"\d+ usable of \d+", found["device"]["cores"])
    assert int(found["device"]["torch threads"]) > 0
    assert found["device"]["cuda"].startswith("no CUDA device; torch is built ")
    assert found["scan backends"]["reference"] == "available"
    assert found["scan backends"]["VLM_SCAN_BACKEND"] == "not set"
    assert re.match(r"\d+ encoder, \d+ connector, \d+ llm, ", found["plugins"]["components"])
    assert "vlm-connectors 0.1.0" in found["plugins"]["packages"]
    assert found["plugins"]["broken"] == "none"


def test_values_stand_in_one_column():
    rows = [line for line in healthy()[1].splitlines() if line.startswith("  ")]
    column = rows[0].index(rows[0].split()[1])
    assert all(row[column - 2 : column] == "  " and row[column] != " " for row in rows)


@pytest.mark.slow
def test_kernels_and_their_cache(tmp_path):
    pytest.importorskip("numba")
    code, found, _ = examine(NUMBA_CACHE_DIR=str(tmp_path))
    scan = found["scan backends"]
    folder = Path(scan["kernel cache"])
    assert code == 0
    assert (scan["numba"], scan["torch"]) == ("used on cpu", "available")
    assert re.match(r"lib\w*omp|none: kernels use Python threads", scan["OpenMP of kernels"])
    assert (folder.parent, scan["kernels"]) == (tmp_path, "not compiled yet")
    (folder / "kernels_1").mkdir(parents=True)
    (folder / "kernels_1/conv.forward-9.py311.nbi").touch()
    assert examine(NUMBA_CACHE_DIR=str(tmp_path))[1]["scan backends"]["kernels"] == "1 compiled"


@pytest.mark.slow
def test_a_cache_that_can_not_be_written(tmp_path):
    pytest.importorskip("numba")
    (tmp_path / "file").touch()
    code, found, _ = examine(NUMBA_CACHE_DIR=str(tmp_path / "file"))
    assert code == 0, "slow, but it works"
    assert found["scan backends"]["kernels"] == "can't be written: kernels are compiled in each process"


def test_without_numba_torch_is_used():
    code, found, _ = examine(ABSENT.format("numba"))
    scan = found["scan backends"]
    assert code == 0
    assert scan["torch"] == "used on cpu"
    assert scan["numba"].startswith("missing: ")
    assert scan["numba"].endswith("pip install 'vlm-ssm[cpu]' brings numba")
    assert "kernel cache" not in scan


def test_a_version_that_is_not_there(monkeypatch):
    def version(name):
        if name in ("numba", "timm"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(doctor, "version", version)
    rows = dict(doctor.version_rows())
    assert rows["numba"] == "not installed; install it with: pip install 'vlm-ssm[cpu]'"
    assert "timm" not in rows
    assert rows["mamba-ssm"] == "1.0"


def test_a_forced_backend():
    code, found, _ = examine(VLM_SCAN_BACKEND="reference")
    assert code == 0
    assert found["scan backends"]["VLM_SCAN_BACKEND"] == "forces reference"
    assert found["scan backends"]["reference"] == "used on cpu"
    assert "used" not in found["scan backends"]["torch"]


def test_a_forced_backend_that_is_missing():
    code, found, end = examine(ABSENT.format("numba"), VLM_SCAN_BACKEND="numba")
    assert code == 1
    assert end.startswith("problems\n  - VLM_SCAN_BACKEND=numba on cpu: scan backend 'numba' can't be used: ")
    assert "pip install 'vlm-ssm[cpu]' brings numba\n    unset VLM_SCAN_BACKEND for the default" in end
    assert not any("used on" in value for value in found["scan backends"].values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "hint"), [("nonsense", "numba, cuda, triton, mamba_ssm"), ("nunba", "did you mean 'numba'?")]
)
def test_a_forced_backend_that_does_not_exist(name, hint):
    code, _, end = examine(VLM_SCAN_BACKEND=name)
    assert code == 1
    assert f"unknown scan backend {name!r}; possible: " in end
    assert f"{hint}\n    unset VLM_SCAN_BACKEND for the default" in end


def test_a_damaged_numba():
    code, found, end = examine(DAMAGED_NUMBA)
    assert code == 1
    assert "OSError: libLLVM.so: invalid ELF header" in found["scan backends"]["numba"]
    assert found["kernels"]["numba (CPU)"].startswith(
        "damaged: OSError: libLLVM.so: invalid ELF header; pip install"
    )
    assert "numba is damaged: OSError: libLLVM.so: invalid ELF header; pip install --force-reinstall" in end


def test_without_torch_the_rest_is_told():
    code, found, end = examine(ABSENT.format("torch"))
    assert code == 1
    assert list(found) == ["versions", "device", "plugins"]
    assert "torch can't be imported: ModuleNotFoundError" in end


@pytest.mark.slow
def test_plugins_that_fail_or_clash(tmp_path):
    add_plugin(tmp_path, "bad-plugin", "raise RuntimeError('no licence found')")
    add_plugin(tmp_path, "first-plugin", connector_plugin("same"))
    env = add_plugin(tmp_path, "second-plugin", connector_plugin("same"))
    code, found, end = examine(**env)
    assert code == 1
    assert found["plugins"]["broken"] == "bad-plugin"
    assert "broken plugin: bad-plugin: RuntimeError: no licence found; update it, or switch it off" in end
    assert "connector 'same' is claimed by first-plugin and second-plugin" in end
    code, found, _ = examine(**env, VLM_DISABLE_PLUGINS="bad-plugin,second-plugin")
    assert code == 0
    assert found["plugins"]["VLM_DISABLE_PLUGINS"] == "bad-plugin,second-plugin"


def test_cuda_devices_by_name(monkeypatch):
    """A numba that is forced there, too, is a problem: it has no kernels for CUDA."""
    importlib.import_module("vlm_ssm.backends")  # which looks for devices when it is imported
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: f"GPU {index}")
    monkeypatch.delenv("VLM_SCAN_BACKEND", raising=False)
    rows = dict(doctor.device_rows()[0])
    assert (rows["cuda:0"], rows["cuda:1"]) == ("GPU 0", "GPU 1")
    assert "cuda" in dict(doctor.scan_rows()[0])["torch"]
    pytest.importorskip("numba")
    monkeypatch.setenv("VLM_SCAN_BACKEND", "numba")
    rows, _, problems = doctor.scan_rows()
    assert dict(rows)["numba"] == "used on cpu"
    assert len(problems) == 1
    assert problems[0].startswith("VLM_SCAN_BACKEND=numba on cuda: scan backend 'numba' runs on the CPU")


def fake_modules(folder, *names):
    """Modules that fail when they are imported: finding them must be enough."""
    for name in names:
        (folder / f"{name}.py").write_text("raise RuntimeError('imported')")
    return {"PYTHONPATH": str(folder)}


@pytest.mark.slow
def test_kernels_that_are_missing_come_with_their_line():
    kernels = examine()[1]["kernels"]
    assert kernels["selective_scan_cuda"] == (
        "missing: MAMBA_KEEP_CUDA_BUILD=TRUE pip install --no-build-isolation --no-binary mamba-ssm mamba-ssm"
    )
    assert kernels["causal_conv1d_cuda"].startswith("missing: pip install --no-build-isolation")
    assert (
        examine(ABSENT.format("numba"))[1]["kernels"]["numba (CPU)"] == "missing: pip install 'vlm-ssm[cpu]'"
    )


@pytest.mark.slow
def test_a_mamba_ssm_without_its_extension_is_not_taken_for_whole(tmp_path):
    code, found, _ = examine(**fake_modules(tmp_path, "mamba_ssm", "causal_conv1d", "causal_conv1d_cuda"))
    kernels = found["kernels"]
    assert code == 0, "nothing was imported"
    assert kernels["selective_scan_cuda"].startswith("missing: mamba_ssm is installed without it; MAMBA_KEEP")
    assert kernels["causal_conv1d_cuda"] == "present"
    whole = examine(**fake_modules(tmp_path, "selective_scan_cuda", "triton"))[1]["kernels"]
    assert (whole["selective_scan_cuda"], whole["triton"]) == ("present", "present")


def test_what_each_part_runs_on(monkeypatch):
    import torch

    from vlm_core.diagnose.engines import engine_rows
    from vlm_ssm import backends

    monkeypatch.delenv("VLM_SCAN_BACKEND", raising=False)
    rows = dict(engine_rows(["cpu", "cuda"]))
    cpu, gpu = (backends.default(torch.device(device)) for device in ("cpu", "cuda"))
    assert (
        rows["llm mamba"] == rows["connector vss-l2"] == f"cpu: scan backend {cpu}, cuda: scan backend {gpu}"
    )
    assert rows["connector mlp"] == rows["encoder fused"] == rows["encoder timm"] == "cpu: torch, cuda: torch"
    monkeypatch.setenv("VLM_SCAN_BACKEND", "numba")
    assert (
        "cuda: nothing: scan backend 'numba' runs on the CPU"
        in dict(engine_rows(["cpu", "cuda"]))["llm mamba"]
    )

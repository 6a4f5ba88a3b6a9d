"""Kernels among threads, processes, caches, and where numba or OpenMP is missing."""

import ctypes
import os
import pwd
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from cases import run_scan, scan_inputs

from vlm_llms.mamba.mamba import MambaLM
from vlm_ssm import MambaMixer
from vlm_ssm.numba.kernels import jit


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def run_python(*arguments, timeout=60, **env):
    """A fresh interpreter; its standard output and error. Fails where it does."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def owner(path):
    return pwd.getpwuid(path.stat().st_uid).pw_name


def equal(found, wanted):
    return all(torch.equal(found[name], t) for name, t in wanted.items())


def everything():
    """Outputs and gradients of a layer, and a token of a model: every kernel runs."""
    torch.manual_seed(0)
    mixer, x = MambaMixer(40, d_state=8), torch.randn(3, 70, 40, requires_grad=True)
    y, state = mixer(x, torch.tensor([0] * 30 + [1] * 40).expand(3, 70))
    grads = torch.autograd.grad(y.sin().sum() + state.ssm.sum(), [x, *mixer.parameters()])
    model = MambaLM(40, 2, 131, load_tokenizer=lambda: None)
    hidden, _ = model(torch.randn(2, 40, 40))
    more = torch.autograd.grad(hidden.sin().sum(), [b.norm.weight for b in model.backbone.layers])
    with torch.no_grad():
        _, before = model(torch.randn(1, 5, 40))
        token, after = model(torch.randn(1, 1, 40), state=before)
        logits = model.logits(token)
    tensors = [y, *state, *grads, hidden, *more, token, logits, *(t for layer in after for t in layer)]
    return dict(enumerate(tensors))


@pytest.mark.usefixtures("two_threads")
def test_python_threads_at_once():
    """Four threads, twenty times forward and backward each: to the bit what one alone computes."""
    wanted, wrong = [run_scan("numba", scan_inputs(2, 70, 40, 8, seed=i)) for i in range(4)], []

    def work(i):
        for _ in range(20):
            case = {n: t.detach().clone().requires_grad_() for n, t in cases[i].items()}
            if not equal(run_scan("numba", case), wanted[i]):
                wrong.append(i)

    cases = [scan_inputs(2, 70, 40, 8, seed=i) for i in range(4)]
    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


@pytest.mark.usefixtures("two_threads")
def test_number_of_threads_does_not_matter():
    """To the bit, whatever the shapes; matrix products are torch's own and may differ."""
    for case in ((1, 70, 40, 8), (3, 33, 200, 4), (2, 5, 17, 16)):
        made = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            made.append(run_scan("numba", scan_inputs(*case)))
        assert equal(*made), case


@pytest.mark.usefixtures("two_threads")
def test_without_openmp(monkeypatch):
    """Threads of Python do the work, with the same result."""
    wanted = everything()
    monkeypatch.setattr(jit, "openmp", lambda: None)
    assert equal(everything(), wanted)


@pytest.mark.usefixtures("two_threads")
def test_exceptional_numbers_of_threads():
    """More threads than cores, or than tasks."""
    wanted = run_scan("numba", scan_inputs(2, 70, 40, 8))
    torch.set_num_threads(7)
    assert equal(run_scan("numba", scan_inputs(2, 70, 40, 8)), wanted)
    small = run_scan("numba", scan_inputs(1, 1, 1, 1))
    assert all(t.isfinite().all() for t in small.values())


def test_openmp_is_found():
    """On Linux torch brings a library that can be used; without it kernels are slower, not wrong."""
    assert isinstance(jit.openmp(), ctypes.CDLL)


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_of_a_data_loader(start):
    """Kernels in workers and in the main process at once, after the main process has used them."""
    out, _ = run_python(Path(__file__).parents[1] / "helpers" / "loader_script.py", start)
    assert out.strip() == "right"


WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = None
import torch
from vlm_ssm.runtime.errors import BackendError
from vlm_ssm import MambaMixer, backends, selective_scan
assert backends.chosen(torch.device("cpu")) == "torch"
mixer = MambaMixer(12)
y, state = mixer(torch.randn(2, 9, 12))
y.sum().backward()
with torch.no_grad():
    mixer(torch.randn(2, 1, 12), state=state)
    x = torch.randn(1, 1, 12)
    mixer(x, state=type(state)(*(t[:1] for t in state)))
u, A, B = torch.randn(1, 4, 5), -torch.rand(4, 3), torch.randn(1, 3, 5)
try:
    selective_scan(u, u.abs(), A, B, B, backend="numba")
except BackendError as error:
    print(error)
"""


def test_without_numba():
    """Plain torch is the default, and asking for numba says how to get it."""
    out, _ = run_python("-c", WITHOUT_NUMBA)
    assert "pip install 'vlm-ssm[cpu]'" in out
    assert "'numba' can't be used" in out


def test_cache_folder_follows_the_sources(tmp_path, monkeypatch):
    """One changed byte in any source of the kernels names another folder."""
    folder = Path(shutil.copytree(Path(jit.__file__).parent, tmp_path / "kernels"))
    monkeypatch.setattr(jit, "__file__", str(folder / "jit.py"))
    plain = jit.cache_folder.__wrapped__
    names = {plain()}
    assert names == {jit.cache_folder()}
    for name in ("simd.py", "conv.py"):
        (folder / name).write_text((folder / name).read_text() + "\n")
        names.add(plain())
    assert len(names) == 3


ONE_KERNEL = """
import torch
from vlm_ssm import linear
torch.manual_seed(0)
x, weight = torch.randn(1, 1, 40), torch.randn(50, 40)
with torch.no_grad():
    torch.testing.assert_close(linear(x, weight), torch.nn.functional.linear(x, weight))
"""


@pytest.mark.slow
def test_compiling_says_so_once(tmp_path):
    """One line the first time, none after that."""
    home = {"XDG_CACHE_HOME": str(tmp_path), "NUMBA_CACHE_DIR": ""}
    _, first = run_python("-c", ONE_KERNEL, **home)
    _, second = run_python("-c", ONE_KERNEL, **home)
    assert [line for line in first.splitlines() if "compiling" in line] == first.splitlines()
    assert len(first.splitlines()) == 1
    assert second == ""


@pytest.mark.parametrize("kind", ["file", pytest.param("broken", marks=pytest.mark.slow)])
def test_cache_that_can_not_be_written(tmp_path, kind):
    """Kernels are compiled for this process alone."""
    place = tmp_path / "place"
    if kind == "file":
        place.write_text("no folder")
    else:
        place.symlink_to(tmp_path / "nowhere" / "at all")
    _, text = run_python("-c", ONE_KERNEL, XDG_CACHE_HOME=str(place), NUMBA_CACHE_DIR="")
    assert "compiling" in text
    assert text.count("compiled kernels are not cached") == 1


FULL_DISK = """
from numba.core import caching
def full(self, *args):
    raise OSError(28, "No space left on device")
caching.CompileResultCacheImpl.reduce = full
"""


@pytest.mark.slow
def test_a_disk_that_is_full(tmp_path):
    """A kernel that can't be kept is compiled for this process, and that is said."""
    home = {"XDG_CACHE_HOME": str(tmp_path), "NUMBA_CACHE_DIR": ""}
    _, text = run_python("-c", FULL_DISK + ONE_KERNEL, **home)
    assert text.count("No space left on device; compiled kernels are not cached") == 1


def test_a_cache_that_others_can_write_is_not_used(tmp_path, monkeypatch, capsys):
    """Its files are pickles, which run when they are read."""
    monkeypatch.setattr(jit, "cache_folder", lambda: tmp_path)
    tmp_path.chmod(0o770)
    for function in (jit.why_not_cached, jit._warn_not_cached):
        function.cache_clear()
    try:
        for _ in range(2):
            assert jit.why_not_cached() == (
                f"{tmp_path} (owner {owner(tmp_path)}, mode drwxrwx---) can be written by other users; "
                f"chmod go-w {tmp_path}"
            )
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert "; compiled kernels are not cached" in told
    finally:
        for function in (jit.why_not_cached, jit._warn_not_cached):
            function.cache_clear()


POISON = """
import os, pickle, sys
class Trace:
    def __reduce__(self):
        return open, (sys.argv[2], "w")
for folder, _, names in os.walk(sys.argv[1]):
    for name in (n for n in names if n.endswith((".nbi", ".nbc"))):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(pickle.dumps(Trace()))
"""


@pytest.mark.slow
def test_pickles_of_a_strangers_cache_are_not_run(tmp_path):
    """They are in a cache of one's own: the test is one of the folder's mode."""
    cache, trace = tmp_path / "cache", tmp_path / "trace"
    home = {"XDG_CACHE_HOME": str(cache), "NUMBA_CACHE_DIR": ""}
    run_python("-c", ONE_KERNEL, timeout=300, **home)
    run_python("-c", POISON, cache, trace)
    cache.chmod(0o777)
    _, text = run_python("-c", ONE_KERNEL, timeout=300, **home)
    assert not trace.exists()
    assert text.count("can be written by other users; chmod go-w") == 1
    cache.chmod(0o700)
    run_python("-c", ONE_KERNEL, timeout=300, **home)
    assert trace.exists()


@pytest.mark.slow
def test_damaged_cache(tmp_path):
    """A cache cut short, as by a full disk, is compiled anew."""
    home = {"XDG_CACHE_HOME": str(tmp_path), "NUMBA_CACHE_DIR": ""}
    run_python("-c", ONE_KERNEL, **home)
    files = [p for p in tmp_path.rglob("*.nb*") if p.is_file()]
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:20])
    run_python("-c", ONE_KERNEL, **home)

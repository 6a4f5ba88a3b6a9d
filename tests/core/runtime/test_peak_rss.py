"""Peak memory of a process."""

import subprocess
import sys

import numpy as np

from vlm_core.runtime import peak_rss

CHILD = "from vlm_core.runtime.peak_rss import peak_rss; import numpy as np\n"


def of_child(code):
    out = subprocess.run([sys.executable, "-c", CHILD + code], capture_output=True, text=True, check=True)
    return int(out.stdout)


def test_a_large_parent_does_not_count():
    block = np.ones(300 * 2**20, np.uint8)
    assert block.nbytes < peak_rss.peak_rss()
    assert of_child("print(peak_rss())") < 200 * 2**20


def test_freed_memory_counts():
    small, large = (of_child(f"a = np.ones({n}, np.uint8); del a; print(peak_rss())") for n in (1, 2**28))
    assert 0.9 * 2**28 < large - small < 1.2 * 2**28


def test_other_systems_say_it_by_resource(monkeypatch, tmp_path):
    exact = peak_rss.peak_rss()
    monkeypatch.setattr(peak_rss, "STATUS", tmp_path / "none")
    assert peak_rss.peak_rss() >= 0.9 * exact

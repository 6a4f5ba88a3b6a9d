"""DeepSpeed for the processes that a test starts, without having it in the environment that all tests share.

It comes as a source distribution, which every `uv sync` would have to build.
"""

import importlib.util
import os
import subprocess
import sys

import pytest

NEEDED = ["deepspeed>=0.19.8,<0.20", "einops", "hjson", "msgpack", "ninja", "py-cpuinfo"]


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """A folder with DeepSpeed and what of its needs nobody else has; nothing is compiled."""
    if importlib.util.find_spec("deepspeed"):
        return None
    folder = tmp_path_factory.mktemp("deepspeed")
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "--python",
        sys.executable,
        "--target",
        str(folder),
    ]
    environment = {**os.environ, "DS_BUILD_OPS": "0", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run([*command, "--no-deps", *NEEDED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def deepspeed_there(installed, monkeypatch):
    if installed:
        monkeypatch.setenv("PYTHONPATH", str(installed))

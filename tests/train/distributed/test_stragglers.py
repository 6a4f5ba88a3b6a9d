"""Processes that stay after one has told why the run ends, with stand-ins for torchrun and the run."""

import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, subprocess, sys, time
from pathlib import Path
from vlm_train.distributed import stragglers
stragglers.GRACE = 0.3
logs, code, attempt = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
env = {**os.environ, "TORCHELASTIC_ERROR_FILE": str(logs / "id" / attempt / "1" / "error.json")}
with stragglers.killing_stragglers(logs):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=env)
    child.send_signal(signal.SIGSTOP)
    (logs / "id" / "attempt_0" / "exit-code").write_text(code)
    end = time.monotonic() + 3
    while child.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
print(child.poll())
child.kill()
"""


@pytest.mark.parametrize(
    ("code", "attempt", "ends"),
    [("124", "attempt_0", "-9"), ("2", "attempt_0", "-9"), ("137", "attempt_0", "-9"), ("75", "attempt_0", "None"),
     ("2", "attempt_1", "None")],
)  # fmt: skip
def test_what_outlives_its_attempt_is_killed_unless_it_may_be_saving(tmp_path, code, attempt, ends):
    """And no process of a later attempt."""
    (tmp_path / "id" / "attempt_0").mkdir(parents=True)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), code, attempt]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == ends, done.stderr

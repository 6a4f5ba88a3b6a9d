"""A server that can't answer any more ends, with the reason and an exit code that has it started again."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

IMPATIENT = """
import sys
import vlm_serve.cli.main as main, vlm_serve.cli.watched as watched, vlm_serve.engine.worker as worker
watched.POLL_SECONDS, worker.FAILING_SECONDS = 0.2, 0.0
if __name__ == "__main__":
    sys.exit(main.main())
"""


@pytest.mark.slow
def test_a_deleted_folder_and_a_dead_worker_end_the_server(tiny_folder, tmp_path):
    folder, program = shutil.copytree(tiny_folder, tmp_path / "model"), tmp_path / "serve.py"
    program.write_text(IMPATIENT)
    command = [sys.executable, str(program), str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline().startswith("tiny on ")
            shutil.rmtree(folder)
            tasks = Path(f"/proc/{process.pid}/task").glob("*/children")  # a thread has started the worker
            for child in [child for task in tasks for child in task.read_text().split()]:
                os.kill(int(child), signal.SIGKILL)
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 2
    assert re.search(r"serve\S*: .*no worker could be started again: 3 starts in a row failed", errors), (
        errors
    )
    assert "Traceback" not in errors

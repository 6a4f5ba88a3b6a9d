"""A server that can't answer any more ends, with the reason and an exit code that has it started again."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_changed_folder_and_a_dead_worker_end_the_server(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    code = "import vlm_serve.cli.watched as w, vlm_serve.cli.main as m, sys; w.POLL_SECONDS = 0.2; sys.exit(m.main())"
    command = [sys.executable, "-c", code, str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("tiny on ")
        spec = folder / "spec.yaml"
        shutil.rmtree(folder)
        shutil.copytree(tiny_folder, folder)
        spec.write_text(spec.read_text().replace("template: vicuna", "template: plain"))
        tasks = Path(f"/proc/{process.pid}/task").glob("*/children")  # a thread has started the worker
        for child in [child for task in tasks for child in task.read_text().split()]:
            os.kill(int(child), signal.SIGKILL)
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 2
    assert re.search("vlm-serve: .*its content has changed since the server was started", errors), errors

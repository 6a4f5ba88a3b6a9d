"""Worker processes: the same answers, and clear failures when one ends."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import worker_faults
from engine_cases import answered, chat, image_file, outcome, request
from worker_faults import wait_for

from vlm_core.errors import UserError
from vlm_serve.engine.local import LocalEngine
from vlm_serve.engine.request import Failed, Finished, SamplingParams
from vlm_serve.engine.settings import EngineSettings
from vlm_serve.engine.worker import ENDED
from vlm_serve.engine.worker_process import WorkerPlan, load_engine
from vlm_serve.engine.workers import Workers

SETTINGS = EngineSettings()


@pytest.fixture(scope="module")
def workers(tiny_folder):
    workers = Workers(WorkerPlan(tiny_folder, SETTINGS, threads=1), ["cpu", "cpu"])
    yield workers
    asyncio.run(workers.close(0))


def test_answers_are_those_of_a_local_engine(workers, tiny_folder):
    local = LocalEngine.load(tiny_folder, SETTINGS)
    asked = [
        request(chat(text, image_file(n)), name=str(n))
        for n, text in enumerate(["red", "is there a circle?"])
    ]
    seen, expected = answered(workers, *asked), answered(local, *asked)
    assert [one.answer for one in seen] == [one.answer for one in expected]
    assert workers.facts() == local.facts()
    wait_for(lambda: workers.stats().get("requests_finished_total") == 2)
    assert workers.stats()["slots"] == 2 * SETTINGS.slots
    asyncio.run(local.close(0))


def test_a_killed_worker_fails_its_requests_and_is_started_again(workers):
    long = SamplingParams(max_tokens=10_000, temperature=1.0, logit_bias={0: -100.0})

    async def kill_one():
        asked = [
            asyncio.create_task(outcome(workers, request(chat("red"), long, name=str(n)))) for n in range(4)
        ]
        while sum(len(worker.tickets) for worker in workers.workers) < 4:
            await asyncio.sleep(0.01)
        assert [len(worker.tickets) for worker in workers.workers] == [2, 2]
        os.kill(workers.workers[0].process.pid, signal.SIGKILL)
        done, others = await asyncio.wait(asked, timeout=5)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        return [task.result() for task in done]

    failed = asyncio.run(kill_one())
    assert [one.last for one in failed] == [ENDED, ENDED]
    (seen,) = answered(workers, request(chat("red")))
    assert isinstance(seen.last, Finished)
    wait_for(lambda: all(worker.ready for worker in workers.workers))
    stats = workers.stats()
    assert stats["worker_restarts_total"] == 1
    assert stats["requests_finished_total"] >= 2
    wait_for(lambda: workers.stats().get("slots_in_use") == 0)


@pytest.mark.slow
def test_a_worker_is_started_until_it_can_load_its_folder_again(tiny_folder, tmp_path, caplog):
    """A folder that is being written, or whose disk is away for a while, must not end a server for ever."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    workers = Workers(WorkerPlan(folder, SETTINGS, threads=1))
    manifest = folder / "manifest.json"
    content = manifest.read_bytes()
    manifest.write_bytes(content[:100])
    os.kill(workers.workers[0].process.pid, signal.SIGKILL)
    wait_for(lambda: workers.stats()["worker_restarts_total"] >= 2)
    manifest.write_bytes(content)
    (seen,) = answered(workers, request(chat("red")))
    assert isinstance(seen.last, Finished)
    assert "manifest.json" in caplog.text
    asyncio.run(workers.close(0))


def test_requests_of_all_kinds_fail_alike(workers):
    (seen,) = answered(workers, request(chat("")))
    assert not isinstance(seen.last, Failed)
    (seen,) = answered(workers, request(chat("red"), SamplingParams(max_tokens=10**6)))
    assert seen.last.kind == "refused"


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(UserError, match=r"spec\.yaml"):
        Workers(WorkerPlan(tmp_path, SETTINGS))


def test_a_restarted_worker_serves_no_other_content(workers, monkeypatch, caplog):
    """The folder may have changed meanwhile: other weights under the same name would be a silent change."""
    worker = workers.workers[0]
    wait_for(lambda: worker.ready)
    killed = []
    monkeypatch.setattr(worker, "process", type("Process", (), {"kill": lambda self: killed.append(1)})())
    monkeypatch.setattr(worker, "is_outdated", False)
    monkeypatch.setattr(worker, "ready", False)
    worker._loaded(worker.facts)
    assert worker.ready
    worker.ready = False
    worker._loaded(replace(worker.facts, digest="another"))
    assert not worker.ready
    assert killed == [1]
    assert worker.is_outdated
    assert "has changed since the server was started: worker 0 on cpu stays ended" in caplog.text


@pytest.mark.slow
def test_a_worker_that_meets_a_full_disk_is_started_again(tiny_folder):
    """The digest of the tokenizer writes a temporary file; so do libraries when they are imported."""
    command = [sys.executable, worker_faults.__file__, str(tiny_folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(worker_faults.__file__).parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.stdout.split() == ["None", "length"], done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith(f"worker 0 on cpu ended (exit code {-signal.SIGKILL}); it is started again")
    refused = re.compile(r"the model can't be loaded: .*(File too large|No usable temporary directory).*")
    assert refused.fullmatch(lines[1])
    assert lines[2].startswith("worker 0 on cpu ended (exit code 1); it is started again")


def test_a_gpu_without_room_is_told_of(monkeypatch, tmp_path):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 5.00 GiB.")

    monkeypatch.setattr(LocalEngine, "load", fail)
    with pytest.raises(UserError, match="cuda:1 has no room for the model and its slots: CUDA out of memory"):
        load_engine(WorkerPlan(tmp_path, SETTINGS, device="cuda:1"))

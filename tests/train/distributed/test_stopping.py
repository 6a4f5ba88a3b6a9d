"""A signal stops a run of one process where it goes on from; a process without progress is ended by name."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from vlm_core.errors import UserError
from vlm_core.generation.answer import answer as ask_the_model
from vlm_core.spec.spec import load_spec
from vlm_train.checkpoint.run_dir import LOCK, RunDir
from vlm_train.distributed import preemption, process_group, watchdog
from vlm_train.distributed.exit_message import RESUMABLE
from vlm_train.engine.trainer import StageTrainer
from vlm_train.evaluation import held_out
from vlm_train.run import start

SHORT = ["train.stages.0.steps=4", "train.stages.1.steps=2"]


@pytest.fixture(autouse=True)
def nothing_to_compile(monkeypatch):
    monkeypatch.setenv("VLM_SCAN_BACKEND", "torch")


def go(path, *overrides):
    with preemption.install():
        return start(*load_spec(path, [*SHORT, *overrides]))[0]


def losses(folder):
    return [(m["stage"], m["step"], m["loss"]) for m in folder.metrics()]


def weights(folder):
    return [
        (folder.path / "model" / part / "weights.safetensors").read_bytes() for part in ("connector", "llm")
    ]


@pytest.fixture
def signal_at(monkeypatch):
    """`signal_at(number, step, which)`: this process gets a signal while that step is noted; once."""

    def arm(number, step, which, to=os.getpid):
        noted, sent = StageTrainer._record, []

        def record(self, position, *args):
            noted(self, position, *args)
            if (self.number, position.step) == (number, step) and not sent:
                sent.append(which)
                os.kill(to(), which)

        monkeypatch.setattr(StageTrainer, "_record", record)

    return arm


def test_a_signal_saves_at_the_end_of_the_step_and_the_run_goes_on_exactly(run_spec, signal_at):
    before = signal.getsignal(signal.SIGTERM)
    whole = go(run_spec("whole", held_out_qa=None))
    signal_at(0, 3, signal.SIGTERM)
    path = run_spec("part", held_out_qa=None, checkpoint_every=100)
    with pytest.raises(preemption.Stopped) as stopped:
        go(path)
    assert stopped.value.code == RESUMABLE
    assert stopped.value.text.startswith("SIGTERM stopped the run after step 3 of stage align;")
    assert signal.getsignal(signal.SIGTERM) is before
    newest = max((path.parent / "part" / "checkpoints").iterdir())
    assert newest.name == "00-align-00000003"
    part = go(path)
    assert losses(part) == losses(whole)
    assert weights(part) == weights(whole)


def test_a_second_ctrl_c_ends_the_process_at_once(run_spec, signal_at, monkeypatch, capfd):
    left = []

    def leave(code):
        left.append(code)
        raise SystemExit(code)

    monkeypatch.setattr("vlm_train.distributed.preemption.os._exit", leave)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    signal_at(0, 2, signal.SIGINT)
    path = run_spec("once", held_out_qa=None)
    with pytest.raises(preemption.Stopped) as stopped:
        go(path)
    assert stopped.value.text.startswith("SIGINT stopped the run after step 2 of stage align;")
    assert left == []
    assert "Ctrl-C again ends at once" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        press_twice()
    assert left == [130]


def press_twice():
    with preemption.install(), preemption.defer():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def failing_import():
    with preemption.install():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except preemption.Stopped:
            raise RuntimeError("import failed") from None


def failing_step():
    with preemption.install(), preemption.defer():
        os.kill(os.getpid(), signal.SIGTERM)  # only remembered: the error is one
        raise RuntimeError("not finite")


def test_an_error_that_a_signal_causes_in_a_library_is_none():
    with pytest.raises(preemption.Stopped, match="75"):
        failing_import()
    with pytest.raises(RuntimeError):
        failing_step()


EARLY = """
import os, signal, sys
class Trap:
    def find_spec(self, name, path=None, target=None):
        if name == "pydantic_core":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), int(sys.argv.pop()))
sys.meta_path.insert(0, Trap())
from vlm_train.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("command", "number", "code"),
    [
        ("run", signal.SIGTERM, 75),
        ("run", signal.SIGINT, 75),
        ("run", signal.SIGUSR1, 75),
        ("sweep", signal.SIGINT, 75),
        ("check", signal.SIGINT, 130),
        ("check", signal.SIGTERM, -15),
    ],
)
def test_a_signal_while_libraries_are_imported(command, number, code):
    """In the first of them: nothing is loaded before the handlers are there."""
    told = subprocess.run(
        [sys.executable, "-c", EARLY, command, "spec.yaml", str(int(number))], capture_output=True, text=True
    )
    assert told.returncode == code, told.stderr
    expected = (
        f"vlm-train: stopped by {number.name}; rerun the same command to resume\n" if code == 75 else ""
    )
    assert told.stderr == expected


def test_a_signal_ends_an_evaluation_at_once_and_it_is_done_anew(run_spec, monkeypatch):
    batches = []

    def answer(*args):
        batches.append(len(batches))
        if len(batches) == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
        return ask_the_model(*args)

    monkeypatch.setattr(held_out, "answer", answer)
    path = run_spec()
    with pytest.raises(preemption.Stopped, match="75"):
        go(path)
    assert len(batches) == 2
    folder = go(path)
    assert folder.evaluation("after align")["questions"] == 9
    assert len(folder.metrics()) == 6


@pytest.mark.slow
def test_reading_processes_work_on_after_a_signal_to_the_whole_group(run_spec, signal_at):
    """As launchers and clusters send it; readers are not to die before their run has saved."""
    signal_at(0, 2, signal.SIGTERM, to=lambda: multiprocessing.active_children()[0].pid)
    folder = go(run_spec(held_out_qa=None, num_workers=1))
    assert len(folder.metrics()) == 6


def test_the_lock_names_its_holder_and_dies_with_it(run_spec):
    spec, _ = load_spec(run_spec())
    first, second = RunDir(spec.train["output"]), RunDir(spec.train["output"])
    first.open()
    with pytest.raises(
        UserError, match=rf"another process is running in this folder: pid {os.getpid()} on \S+"
    ):
        second.open()
    reader = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    reader.start()  # what is forked holds no lock, or a killed run's readers would keep its folder
    first.close()
    (first.path / LOCK).write_text("pid 1 on a host that is gone")
    second.open()
    second.close()
    reader.kill()
    reader.join()


def test_no_progress_ends_the_process_with_its_stack(monkeypatch, capfd):
    left = []
    monkeypatch.setattr(
        watchdog, "leave", lambda code: (left.append(code), watchdog.Watchdog.current.done.set())
    )
    monkeypatch.setattr("sys.__stderr__", None)  # pytest's own has another number
    with watchdog.watching(0.3):
        for i in range(5):
            watchdog.beat(f"after step {i}")
            time.sleep(0.15)
        watchdog.beat("saving", patient=True)
        time.sleep(0.5)
        assert left == []
        watchdog.beat("after step 5")
        stuck_for_good()
    err = capfd.readouterr().err
    assert left == [124]
    assert "rank 0" in err
    assert "has made no progress for 0.3 s, after step 5:" in err
    assert "in stuck_for_good" in err


def stuck_for_good():
    time.sleep(0.6)


def test_what_ends_several_processes_is_told_by_the_first(monkeypatch, tmp_path, capsys):
    for i in (0, 1):
        (tmp_path / f"attempt_{i}" / "0").mkdir(parents=True)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "attempt_0" / "0" / "error.json"))

    def fails():
        raise UserError("no such thing")

    def lost():
        raise RuntimeError("connection closed by peer")

    assert [process_group.exit_code_of(part, debug=False) for part in (fails, fails, lost)] == [2, 2, 2]
    assert capsys.readouterr().err == "vlm-train: no such thing\n"
    with pytest.raises(RuntimeError):
        process_group.exit_code_of(lost, debug=True)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "attempt_1" / "0" / "error.json"))
    assert process_group.exit_code_of(lambda: pytest.fail("started again"), debug=False) == 2

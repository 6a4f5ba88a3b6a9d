"""What `vlm-train run` would start: how many processes, through which command, and what it refuses."""

import argparse
import os
import shlex
import sys

import pytest

from vlm_core.errors import UserError
from vlm_train.cli import main
from vlm_train.distributed import launch, process_group

LAUNCHED = {
    "RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in (*LAUNCHED, "OMP_NUM_THREADS", "SLURM_STEP_NUM_TASKS", "TORCHELASTIC_ERROR_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def devices(monkeypatch):
    """`devices(n)`: the machine has so many accelerators."""
    return lambda n: monkeypatch.setattr(launch, "_devices", lambda: n)


def parsed(*words):
    return main._parser().parse_args(["run", "s.yaml", *words])


def plan(*words):
    return launch.plan(parsed(*words))


def test_one_process_where_there_is_one_device_or_none(devices):
    for count in (0, 1):
        devices(count)
        assert plan().command == [sys.executable, "-m", "vlm_train", "run", "s.yaml"]


def test_one_process_for_each_accelerator(devices, monkeypatch):
    devices(4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(10), raising=False)
    todo = plan("--set", "train.seed=1 2", "--set", "name=x", "--debug")
    words = shlex.split(todo.line())
    assert words[0] == "OMP_NUM_THREADS=2"
    assert words[1:4] == [sys.executable, "-m", "torch.distributed.run"]
    at = words.index("vlm_train")
    assert words[at - 1 :] == [
        "-m",
        "vlm_train",
        "run",
        "s.yaml",
        "--set",
        "train.seed=1 2",
        "--set",
        "name=x",
        "--debug",
    ]
    assert {"--standalone", "--nproc-per-node=4"} <= set(words[4:at])
    assert "SIGUSR1" in next(word for word in words if word.startswith("--signals-to-handle="))


def test_threads_are_the_users_if_set(devices, monkeypatch):
    devices(4)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert plan().env == {}


def test_several_nodes_meet_as_torchrun_says(devices):
    devices(8)
    options = plan(
        *["--nnodes", "2", "--rdzv-endpoint", "n1:29500", "--rdzv-id", "42", "--max-restarts", "3"]
    ).torchrun
    assert options[:4] == ["--nnodes=2", "--rdzv-backend=c10d", "--rdzv-endpoint=n1:29500", "--rdzv-id=42"]
    assert {"--nproc-per-node=8", "--max-restarts=3"} <= set(options)
    assert "--standalone" not in options
    alone = plan(
        *["--nnodes", "1", "--rdzv-endpoint", "n1:29500"]
    )  # as a script for any number of nodes says it
    assert alone.torchrun[0] == "--nnodes=1"


def test_torchrun_takes_these_options(devices):
    from torch.distributed.run import config_from_args, parse_args

    devices(2)
    for words in ("--max-restarts 2", "--nnodes 1:4 --rdzv-endpoint n1:29500 --rdzv-id 42"):
        todo = plan(*words.split())
        os.environ.update(todo.env)
        config, command, arguments = config_from_args(parse_args([*todo.torchrun, *todo.words]))
        assert (config.nproc_per_node, config.shutdown_timeout) == (2, launch.SHUTDOWN)
        assert config.signals_to_handle == launch.SIGNALS
        assert command == sys.executable
        assert arguments[-4:] == ["-m", "vlm_train", "run", "s.yaml"]


def test_options_that_an_older_torchrun_lacks_are_left_out(devices, monkeypatch):
    from torch.distributed import run

    devices(2)
    assert f"--shutdown-timeout={launch.SHUTDOWN}" in plan().torchrun
    older = argparse.ArgumentParser()
    older.add_argument("--signals-to-handle")
    monkeypatch.setattr(run, "get_args_parser", lambda: older)
    assert not any("shutdown" in option for option in plan().torchrun)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--nproc 3", r"--nproc 3: 2 accelerators are visible"),
        ("--nproc 0", r"--nproc 0: expected a number from 1"),
        ("--nnodes two", r"--nnodes two: expected a number, or MIN:MAX"),
        ("--nnodes 2", r"--nnodes 2: add --rdzv-endpoint HOST:PORT"),
        ("--rdzv-id 7", r"--rdzv-endpoint and --rdzv-id are for several nodes"),
        ("--max-restarts -1", r"--max-restarts -1: expected a number from 0"),
    ],
)
def test_options_that_contradict(devices, words, says):
    devices(2)
    with pytest.raises(UserError, match=says):
        plan(*words.split())


def test_tasks_of_srun_that_nothing_joins_are_refused(devices, monkeypatch):
    devices(1)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    with pytest.raises(UserError, match=r"srun started 8 tasks, and nothing joins them.*train\.sbatch"):
        plan()
    assert plan(*["--nnodes", "8", "--rdzv-endpoint", "n1:29500"]).torchrun[0] == "--nnodes=8"


def set_launcher(monkeypatch, **changes):
    for name, value in (LAUNCHED | changes).items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)


def test_a_launchers_place(monkeypatch):
    assert process_group.place() is None
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert process_group.place() is None
    set_launcher(monkeypatch)
    assert process_group.place() == process_group.Place(rank=1, world=4, local_rank=1, local_world=2)


@pytest.mark.parametrize("missing", ["LOCAL_RANK", "MASTER_PORT", "WORLD_SIZE"])
def test_half_a_launcher_is_refused(monkeypatch, missing):
    set_launcher(monkeypatch, **{missing: ""})
    with pytest.raises(UserError, match=rf"as launchers do, but not {missing}; start through torchrun"):
        process_group.place()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--nproc 4", r"--nproc 4, but a launcher has started 2 processes on this node"),
        ("--nnodes 3", r"a launcher has started 4 processes on 2 nodes: leave out --nnodes"),
        ("--max-restarts 1", r"which are for the launcher"),
    ],
)
def test_options_against_the_launcher_are_refused(monkeypatch, words, says):
    set_launcher(monkeypatch)
    launch.refuse_to_contradict(parsed(*["--nproc", "2", "--nnodes", "2"]))
    with pytest.raises(UserError, match=says):
        launch.refuse_to_contradict(parsed(*words.split()))


def test_print_shows_the_command_and_starts_nothing(run_spec, devices, monkeypatch, capsys, tmp_path):
    devices(3)
    path = str(run_spec())
    monkeypatch.setattr(sys, "argv", ["vlm-train", "run", "--print", path, "--nproc", "2"])
    assert main.main() == 0
    out, err = capsys.readouterr()
    assert (out.count("\n"), err) == (1, "")
    assert shlex.split(out)[-4:] == ["-m", "vlm_train", "run", path]
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--set", "train.stages.0.steps=none"])
    assert main.main() == 2
    set_launcher(monkeypatch)
    assert main.main() == 2
    assert "a launcher has started this process already" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--print", "s.yaml", "--nproc", "2"], ["s.yaml", "--help"]])
def test_launch_names_run(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vlm-train", "launch", *words])
    assert main.main() == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "vlm-train launch is now vlm-train run; run --print shows the command" in err


def test_a_batch_that_cannot_be_shared_out_is_refused_before_anything_starts(run_spec, monkeypatch, tmp_path):
    from vlm_core.spec.spec import load_spec
    from vlm_train.run import start

    set_launcher(monkeypatch)
    with pytest.raises(UserError, match=r"stage instruct: batch_size 6 is not divisible by 4 processes"):
        start(*load_spec(run_spec(), ["train.stages.0.batch_size=8"]))
    assert not (tmp_path / "run").exists()


def test_the_outer_exit_code_is_that_of_whoever_was_first(tmp_path, capsys):
    from types import SimpleNamespace

    assert launch._recorded_code(tmp_path) is None
    for attempt, code in ((0, 2), (9, 75), (10, None)):
        (tmp_path / "id" / f"attempt_{attempt}").mkdir(parents=True)
        if code:
            (tmp_path / "id" / f"attempt_{attempt}" / "exit-code").write_text(str(code))
    assert launch._recorded_code(tmp_path) == 75
    ends = {0: (70, 5), 1: (-9, 5), 2: (-15, 5), 3: (-9, 40)}
    failures = {rank: SimpleNamespace(exitcode=code, timestamp=at) for rank, (code, at) in ends.items()}
    assert launch._report_killed(failures) == 137
    assert capsys.readouterr().err.startswith(
        "vlm-train: rank 1 was killed by SIGKILL; out of memory? use fewer train.num_workers"
    )
    del failures[1]
    assert launch._report_killed(failures) is None

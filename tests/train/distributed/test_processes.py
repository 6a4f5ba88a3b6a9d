"""Two processes started by `vlm-train run --nproc 2`: what ends one ends all, is told once, and can go on."""

import json
import signal
import time

import psutil
import pytest
import yaml
from launched import begin, end, gone, install_trap, living, wait_for_steps

STAGE = {"batch_size": 4, "lr": 3e-3, "steps": 4}


@pytest.fixture
def trap_spec(run_spec, tmp_path):
    """`trap_spec(output, **train)`: two stages over rows with pictures, read through the plugin of traps."""
    install_trap(tmp_path)

    def make(output="run", **changes):
        path = run_spec(output, held_out_qa=None)
        spec = yaml.safe_load(path.read_text())
        source = tmp_path / "data.json"
        rows = [row for row in json.loads(source.read_text()) if "image" in row]
        (tmp_path / "pictures.json").write_text(json.dumps(rows))
        data = [{"type": "trap", "path": str(tmp_path / "pictures.json")}]
        for stage in spec["train"]["stages"]:
            del stage["micro_batch_size"]
            stage |= {**STAGE, "data": data}
        spec["train"] |= {"checkpoint_every": 50, **changes}
        made = tmp_path / f"{output}.yaml"
        made.write_text(yaml.safe_dump(spec))
        return made

    return make


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [(m["stage"], m["step"], m["loss"]) for m in map(json.loads, lines)]


def files(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in (folder / "model").rglob("weights.safetensors")
    }


@pytest.mark.slow
def test_an_error_of_one_process_is_told_once_and_ends_all(trap_spec):
    spec = trap_spec()
    code, _, err = end(begin(spec, "--max-restarts", "1", trap="fault:1:2"))  # which can't mend it
    assert (code, err.count("the trap of a user")) == (2, 1), err
    assert len(err.splitlines()) == 1, err
    assert gone(spec)


@pytest.mark.slow
def test_a_killed_process_is_named_and_ends_all(trap_spec):
    spec = trap_spec()
    code, _, err = end(begin(spec, trap="kill:1:4"))
    assert code == 128 + signal.SIGKILL, err
    assert "rank 1 was killed by SIGKILL; out of memory?" in err
    assert "rank 1: " not in err
    assert gone(spec)


@pytest.mark.slow
def test_a_signal_however_it_comes_stops_all_and_the_command_goes_on_exactly(trap_spec):
    """To one process only; to the command itself; then to its end, as if nothing had been."""
    whole = trap_spec("whole")
    assert end(begin(whole))[0] == 0
    spec = trap_spec("part")
    code, _, err = end(begin(spec, trap="term:1:3"))  # rank 1 reads two rows a step: before its second
    assert code == 75, err
    assert err.count("stopped the run after step 1 of stage align; rerun the same command to resume") == 1
    assert gone(spec)
    running = begin(spec, trap="slow:0:500")
    wait_for_steps(spec.with_name("part"), 5)
    running.send_signal(signal.SIGUSR1)
    code, out, err = end(running)
    assert code == 75, err
    assert "resuming align at step 1" in out
    assert err.count("rerun the same command to resume") == 1
    assert gone(spec)
    assert end(begin(spec))[0] == 0
    assert losses(spec.with_name("part")) == losses(whole.with_name("whole"))
    assert files(spec.with_name("part")) == files(whole.with_name("whole"))


@pytest.mark.slow
def test_a_process_that_hangs_is_named_with_its_stack_and_ends_the_job(trap_spec):
    spec = trap_spec(timeout=3)
    running = begin(spec, trap="sleep:1:5")
    wait_for_steps(spec.with_name("run"), 2)
    began = time.monotonic()
    code, _, err = end(running)
    assert (
        time.monotonic() - began < 30
    )  # 3 + 5 where the machine isn't shared; gloo alone would wait an hour
    assert code == 124, err
    assert "rank 1" in err
    assert "has made no progress for 3 s, after step 2 of stage align" in err
    assert "in spring" in err
    assert "rank 0" not in err
    assert gone(spec)


@pytest.mark.slow
def test_a_stopped_process_is_named_and_killed_within_seconds(trap_spec):
    """SIGSTOP: it can answer nobody, and torchrun's SIGTERM waits for it to go on."""
    spec = trap_spec(timeout=3)
    running = begin(spec, trap="stop:1:5")
    wait_for_steps(spec.with_name("run"), 2)
    began = time.monotonic()
    code, _, err = end(running)
    assert time.monotonic() - began < 20, (
        "5 s after the timeout where the machine isn't shared; torchrun waits 30"
    )
    assert code == 124, err
    assert "no progress for 3 s, and rank 1 does not answer" in err
    assert "killed" not in err
    assert gone(spec)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0.1, "ranks", 0.05, 0.5, 2.0, "imports", "step"])
def test_a_launcher_that_is_killed_leaves_no_process(trap_spec, moment):
    """`moment` in seconds since its processes are there; `ranks` is as soon as one is."""
    spec = trap_spec()
    running = begin(spec, "--set", "train.num_workers=1", trap="slow:0:300")
    launcher = psutil.Process(running.pid)
    if moment == "step":
        wait_for_steps(spec.with_name("run"), 1)
    elif moment != 0.1:
        while not launcher.children():
            time.sleep(0.005)
    time.sleep({"ranks": 0, "imports": 5.0, "step": 0}.get(moment, moment))
    running.kill()
    running.communicate(timeout=60)
    assert gone(spec, within=5)


@pytest.mark.slow
def test_a_second_run_is_refused_and_no_lock_outlives_its_run(trap_spec):
    spec = trap_spec()
    first = begin(spec, "--set", "train.num_workers=1", trap="sleep:1:3")  # in its second step, for good
    wait_for_steps(spec.with_name("run"), 1)
    code, _, err = end(begin(spec, "--set", "train.num_workers=1"))
    assert code == 2
    assert err.count("another process is running in this folder: pid ") == 1, err
    for process in living(spec):
        process.kill()
    end(first)
    assert end(begin(spec, "--set", "train.num_workers=1"))[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("numbers", "code"),
    [([signal.SIGINT], 75), ([signal.SIGINT, signal.SIGINT], 130), ([signal.SIGKILL], -9)],
)
def test_the_command_leaves_nobody_behind(trap_spec, numbers, code):
    spec = trap_spec()
    running = begin(spec, trap="slow:0:300")
    wait_for_steps(spec.with_name("run"), 1)
    for number in numbers:
        running.send_signal(number)
        time.sleep(0.2)
    told, _, err = end(running)
    assert told == code
    assert "Traceback" not in err
    assert gone(spec)

"""Kills a run of two processes again and again, anywhere, and compares what comes of it with a run left alone.

    python kills_script.py SPEC FOLDER STRATEGY KILLS [SEED]

A process is killed after a random time, or in the middle of the files that it is about to write, flush, rename or
remove. The other one must then end by itself; one that still waits for its partner is ended, as a launcher would do it.
The same run is started again until it ends; then its weights must be those of the run left alone, bit for bit, and its
metrics the same lines. Prints one JSON object of counts.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import save, save_file

import vlm_train.run
from vlm_connectors.connectors import VSSL2
from vlm_core.spec.spec import load_spec
from vlm_train.checkpoint import sharded_safetensors

WORLD = 2
PATIENCE = 20


def drop_out(self, features, forward=VSSL2.forward):
    return torch.nn.functional.dropout(forward(self, features), 0.2, self.training)


VSSL2.forward = drop_out


class Deadline:
    """Kills this process at the n-th of the calls that change what is on the disk, before, after or amid it."""

    def __init__(self, count, when):
        self.left, self.when = count, when

    def around(self, call, half=None):
        def changed(*args, **kwargs):
            self.left -= 1
            if self.left == 0 and self.when == "before":
                self.die()
            if self.left == 0 and self.when == "amid" and half:
                half(*args)
                self.die()
            result = call(*args, **kwargs)
            if self.left == 0:
                self.die()
            return result

        return changed

    @staticmethod
    def die():
        os.kill(os.getpid(), signal.SIGKILL)


def half_written(tensors, path, *args):
    data = save(tensors)
    Path(path).write_bytes(data[: len(data) // 2])


def half_removed(path, *args, **options):
    """Of a folder that is there, the first file; what a save cleans up after itself is gone already."""
    for file in sorted(Path(path).glob("*"))[:1]:
        file.unlink()


def arm(deadline):
    """Everything that writes, flushes, renames or removes, wherever it is called from."""
    setattr(sharded_safetensors, "save_file", deadline.around(save_file, half_written))  # noqa: B010
    for module, name, half in (
        (os, "rename", None),
        (os, "replace", None),
        (os, "fsync", None),
        (shutil, "rmtree", half_removed),
    ):
        setattr(module, name, deadline.around(getattr(module, name), half))


def child(rank, port, spec, output, strategy, deadline, log):
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(WORLD),
        LOCAL_WORLD_SIZE=str(WORLD),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        CUDA_VISIBLE_DEVICES="",
    )
    handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    if deadline:
        arm(deadline)
    meet = torch.distributed.init_process_group
    torch.distributed.init_process_group = lambda *args, **kwargs: (
        meet(*args, **kwargs),
        Path(f"{log}.met").touch(),
    )
    try:
        vlm_train.run.start(*load_spec(spec, [f"train.output={output}", f"train.strategy={strategy}"]))
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def attempt(spec, output, strategy, dice=None):
    """Start the processes, maybe kill one or all; -> (how it was to end, exit codes)."""
    how = dice.choice(["time", "write", "write"]) if dice else "never"
    victim = dice.randrange(WORLD) if dice else -1
    if how == "write" and strategy == "ddp":
        victim = 0  # nobody else writes
    deadline = (
        Deadline(dice.randint(1, 60), dice.choice(["before", "amid", "after"])) if how == "write" else None
    )
    for rank in range(WORLD):
        Path(f"{output}.{rank}.log.met").unlink(missing_ok=True)
    port = random.SystemRandom().randrange(20000, 60000)
    started = []
    for rank in range(WORLD):
        pid = os.fork()
        if pid == 0:
            child(
                rank,
                port,
                spec,
                output,
                strategy,
                deadline if rank == victim else None,
                f"{output}.{rank}.log",
            )
        started.append(pid)
    if how == "time":
        time.sleep(dice.uniform(0.5, dice.choice([3, 6, 12])))
        for pid in started if dice.random() < 0.5 else [started[victim]]:
            os.kill(pid, signal.SIGKILL)
    return how, ended(started, output)


def ended(started, output):
    """Exit codes; a process that outlives a killed one by more than `PATIENCE` seconds is killed, and told of if
    both had met."""
    codes, since = {}, None
    while len(codes) < len(started):
        for pid in started:
            if pid not in codes:
                waited, status = os.waitpid(pid, os.WNOHANG)
                if waited:
                    codes[pid] = os.waitstatus_to_exitcode(status)
                    since = since or time.monotonic()
        if since and time.monotonic() - since > PATIENCE:
            for pid in started:
                if pid not in codes:
                    os.kill(pid, signal.SIGKILL)
                    if all(Path(f"{output}.{rank}.log.met").exists() for rank in range(WORLD)):
                        sys.stderr.write(
                            f"a process outlived the other by {PATIENCE} s, see {output}.*.log\n"
                        )
            since = None
        time.sleep(0.02)
    return [codes[pid] for pid in started]


def fingerprint(output):
    """sha256 of every weight file of the model, and the lines of metrics without those that tell of time."""
    files = sorted((output / "model").rglob("*.safetensors"))
    digests = [hashlib.sha256(f.read_bytes()).hexdigest() for f in files]
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    keys = ("stage", "step", "loss", "grad_norm", "targets", "lr", "skipped", "padding")
    return digests, [[line[key] for key in keys] for line in lines]


def main():
    spec, root, strategy, kills = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    dice = random.Random(int(sys.argv[5]) if len(sys.argv) > 5 else 0)
    torch.set_num_threads(1)
    _, codes = attempt(spec, root / "alone", strategy)
    assert codes == [0] * WORLD, (root / "alone.0.log").read_text()
    wanted = fingerprint(root / "alone")
    seen, runs = Counter(), 0
    while sum(seen.values()) < kills:
        output = root / f"killed-{strategy}"
        shutil.rmtree(output, ignore_errors=True)
        while True:
            how, codes = attempt(spec, output, strategy, dice)
            if codes == [0] * WORLD:
                break
            text = "".join(Path(f"{output}.{rank}.log").read_text() for rank in range(WORLD))
            assert -signal.SIGKILL in codes, text
            seen[how] += 1
        runs += 1
        assert fingerprint(output) == wanted, (
            f"run {runs} of {strategy} differs after {sum(seen.values())} kills"
        )
    report = {"strategy": strategy, "kills": sum(seen.values()), "by": seen, "runs": runs}
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()

"""Kill every command that writes, anywhere, and compare what comes of it with a run left alone.

    uv run python perf/kills.py --kills 100 --seed 0

A command is killed after a random time, or before or after a random one of its calls that change the disk (rename,
replace, unlink, fsync, write, truncate, mkdir). It is started again after each kill until it ends; then weights,
answers, grades or files must be equal to those of a run that nobody killed. A command that refuses to go on, or ends
differently, is printed with its seed, and the exit code is 1. `--only` names some of the commands. Prints one JSON
object: kills and runs by command.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(
    OMP_NUM_THREADS="1", VLM_SCAN_BACKEND="reference", CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1"
)

from kill_cases import Case, cases, spec

PRELOADED = (
    "torch",
    "timm",
    "matplotlib.figure",
    "openai",
    "vlm_core.cli.assemble",
    "vlm_core.export.hf_export",
    "vlm_train.run",
    "vlm_train.cli.console",
    "vlm_train.__main__",
    "vlm_bench.run.runner",
    "vlm_bench.cli.main",
    "vlm_serve.cli.predict",
    "vlm_serve.predict.predict",
)
"""Imported before the processes fork, so that kills meet work, not imports; a sweep's runs import for themselves."""


class Deadline:
    """Counts the calls of this process that change the disk, and kills it before or after the one that is the last."""

    names = ("rename", "replace", "unlink", "fsync", "write", "ftruncate", "mkdir")

    def __init__(self, last: int, before: bool) -> None:
        self.last, self.before, self.calls = last, before, 0
        for name in self.names:
            setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == self.last and self.before:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*args, **options)
            if self.calls == self.last:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counted


def started(case: Case, out: Path, last: int = 0, before: bool = False) -> int:
    """Start a command as a process of its own group; its output goes to a file beside `out`, as do its calls' number.

    With `last` it is killed before or after that call.
    """
    arguments = case.arguments(out)
    pid = os.fork()
    if pid:
        return pid
    code, deadline = 70, Deadline(last, before)
    try:
        os.setsid()
        handle = os.open(f"{out}.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.argv = [case.name, *arguments]
        code = importlib.import_module(case.main).main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        Path(f"{out}.calls").write_text(str(deadline.calls))
        os._exit(code)


def ended(pid: int, after: float | None = None, group: bool = True) -> int | None:
    """The exit code of a process, None if it was killed; with `after` it is, after so many seconds."""
    until = None if after is None else time.monotonic() + after
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            return None if code == -signal.SIGKILL else code
        if until and time.monotonic() > until:
            (os.killpg if group else os.kill)(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(0.002)


def alone(case: Case, out: Path) -> tuple[Any, float, int]:
    """What a command gives that nobody kills, the seconds that it takes, and its calls that change the disk."""
    out.mkdir()
    began = time.monotonic()
    code = ended(started(case, out))
    assert code == 0, Path(f"{out}.log").read_text()
    return case.result(out), time.monotonic() - began, int(Path(f"{out}.calls").read_text())


def killed(case: Case, out: Path, seconds: float, calls: int, dice: random.Random) -> tuple[int, str | None]:
    """Kill a command once or more and let it end -> (kills, how it ended if not as it should)."""
    kills, limit = 0, dice.choice([1, 1, 2, 4])
    shutil.rmtree(out, ignore_errors=True)
    Path(f"{out}.log").unlink(missing_ok=True)
    out.mkdir()
    while True:
        timed = dice.random() < 0.4
        after = dice.uniform(0.02, 1.0) * seconds if kills < limit and timed else None
        last = dice.randint(1, calls) if kills < limit and not timed else 0
        code = ended(started(case, out, last, dice.random() < 0.5), after, group=dice.random() < 0.5)
        if code is None:
            kills += 1
            if not (case.ends_with and (out / case.ends_with).exists()):
                continue
        elif code:
            return kills, f"exit code {code}: {Path(f'{out}.log').read_text()[-2000:]}"
        return kills, None


def measure(case: Case, root: Path, kills: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Kill one command so many times -> counts of kills and of runs that ended, and what went wrong."""
    wanted, seconds, calls = alone(case, root / f"{case.name}-alone")
    counts: Counter[str] = Counter()
    faults = []
    for trial in range(3 * kills):
        if counts["kills"] >= kills:
            break
        number = seed * 1000 + trial
        out = root / case.name
        done, fault = killed(case, out, seconds, calls, random.Random(number))
        counts["kills"] += done
        counts["runs"] += 1
        if fault is None and case.result(out) != wanted:
            fault = "the result differs"
        if fault:
            faults.append(f"{case.name}, seed {number}: {fault}")
            print(faults[-1], file=sys.stderr, flush=True)
    return counts, faults


def main() -> int:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--kills", type=int, default=100, help="in all; default 100")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--only", nargs="+", metavar="COMMAND", help="train, features, bench, judge, …")
    options = arguments.parse_args()
    for name in PRELOADED:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["VLM_CACHE"] = str(root / "cache")
        model = Case(
            "model", "vlm_core.cli.assemble", lambda out: [str(spec(root)), "--out", str(root / "model")], str
        )
        alone(model, root / "building")
        chosen = [case for case in cases(root) if not options.only or case.name in options.only]
        told: dict[str, Any] = {}
        faults: list[str] = []
        for case in chosen:
            counts, wrong = measure(case, root, max(1, options.kills // len(chosen)), options.seed)
            told[case.name] = dict(counts)
            faults += wrong
            print(f"{case.name}: {counts['kills']} kills, {counts['runs']} runs", file=sys.stderr, flush=True)
    print(json.dumps({"seed": options.seed, "faults": len(faults), **told}))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

"""Kill every command that writes, at random moments, and compare what comes of it with a run left alone.

    uv run python perf/kills.py --kills 100 --seed 0

A command is started again after each kill until it ends; then weights, answers, grades or files must be equal to those
of a run that nobody killed. A command that refuses to go on, or ends differently, is printed with its seed, and the
exit code is 1. `--only` names some of the commands. Prints one JSON object: kills and runs by command.
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
from pathlib import Path
from typing import Any

os.environ.update(
    OMP_NUM_THREADS="1", VLM_SCAN_BACKEND="reference", CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1"
)

from kill_cases import Case, cases, spec

PRELOADED = ("torch", "timm", "matplotlib.figure", "openai", "vlm_train.run", "vlm_train.show", "vlm_bench.runner",
             "vlm_core.cli.assemble", "vlm_core.export", "vlm_bench.cli", "vlm_train.__main__")  # fmt: skip
"""Imported before the processes fork, so that kills meet work, not imports; a sweep's runs import for themselves."""


def started(case: Case, out: Path) -> int:
    """Start a command as a process of its own group; its output goes to a file beside `out`."""
    arguments = case.arguments(out)
    pid = os.fork()
    if pid:
        return pid
    code = 70
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
        os._exit(code)


def ended(pid: int, after: float | None = None, group: bool = True) -> int | None:
    """The exit code of a process; with `after` it is killed after so many seconds -> None if that came first."""
    until = None if after is None else time.monotonic() + after
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if until and time.monotonic() > until:
            (os.killpg if group else os.kill)(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(0.002)


def alone(case: Case, out: Path) -> tuple[Any, float]:
    """What a command gives that nobody kills, and the seconds that it takes."""
    out.mkdir()
    began = time.monotonic()
    code = ended(started(case, out))
    assert code == 0, Path(f"{out}.log").read_text()
    return case.result(out), time.monotonic() - began


def killed(case: Case, out: Path, seconds: float, dice: random.Random) -> tuple[int, str | None]:
    """Kill a command once or more and let it end -> (kills, how it ended if not as it should)."""
    kills, limit = 0, dice.choice([1, 1, 2, 4])
    shutil.rmtree(out, ignore_errors=True)
    Path(f"{out}.log").unlink(missing_ok=True)
    out.mkdir()
    while True:
        after = dice.uniform(0.02, 1.0) * seconds if kills < limit else None
        code = ended(started(case, out), after, group=dice.random() < 0.5)
        if code is None:
            kills += 1
            if not (case.ends_with and (out / case.ends_with).exists()):
                continue
        elif code:
            return kills, f"exit code {code}: {Path(f'{out}.log').read_text()[-2000:]}"
        return kills, None


def measure(case: Case, root: Path, kills: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Kill one command so many times -> counts of kills and of runs that ended, and what went wrong."""
    wanted, seconds = alone(case, root / f"{case.name}-alone")
    counts: Counter[str] = Counter()
    faults = []
    for trial in range(kills + 1):
        if counts["kills"] >= kills:
            break
        number = seed * 1000 + trial
        out = root / case.name
        done, fault = killed(case, out, seconds, random.Random(number))
        counts["kills"] += done
        counts["runs"] += 1
        if fault is None and case.result(out) != wanted:
            fault = "the result differs"
        if fault:
            faults.append(f"{case.name}, seed {number}: {fault}")
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
    for fault in faults:
        print(fault, file=sys.stderr)
    print(json.dumps({"seed": options.seed, "faults": len(faults), **told}))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

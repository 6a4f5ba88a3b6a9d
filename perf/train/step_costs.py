"""Step time and peak memory by `--measure` beside those of a run, on the CPU, with the quickstart's spec.

    uv run python -m perf.train.step_costs [--rounds 3] [--steps 20]

Each round starts one process that measures and one that runs, one after the other; which is first alternates. Times are
means over steps of a stage, without the first ones: the CPU time of the process, which other processes lengthen less
than wall time, and wall time. A ratio is the median of the rounds' ratios: the two processes of a round have about the
same neighbours. Memory is the peak of the process at the end of each stage. The run has no evaluations, since
`--measure` leaves them out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from perf.lib.tables import table

SPEC = Path(__file__).parents[2] / "specs" / "quickstart.yaml"
SIDES = ("measured", "run")
COLUMNS = [
    "stage",
    "CPU s, measured",
    "CPU s, run",
    "ratio",
    "wall s, measured",
    "wall s, run",
    "ratio",
    "peak MB, measured",
    "peak MB, run",
    "ratio",
]


def changes(options: argparse.Namespace, output: str) -> list[str]:
    """Of the spec: no evaluation, few steps."""
    steps = [f"train.stages.{number}.steps={options.steps}" for number in range(3)]
    return ["train.held_out_qa=null", f"train.output={output}", *steps]


def measured(options: argparse.Namespace, output: str) -> dict[str, Any]:
    """`--measure` in this process: CPU seconds, wall seconds and peak memory by stage."""
    from vlm_core.diagnose.costs.measured_steps import MeasureOptions
    from vlm_core.spec.spec import load_spec
    from vlm_train.config.section import train_section
    from vlm_train.profiling.stage_profiles import profile_stages

    spec, document = load_spec(SPEC, changes(options, output))
    profiles = profile_stages(spec, train_section(spec, document), MeasureOptions(1, 256))
    return {p.stage: [p.cpu_seconds, p.seconds, p.peak_memory] for p in profiles}


def run(options: argparse.Namespace, output: str) -> dict[str, Any]:
    """A run in this process: the same of its steps."""
    from vlm_core.spec.spec import load_spec
    from vlm_train.engine.trainer import StageTrainer
    from vlm_train.monitoring.throughput import WARMUP_STEPS
    from vlm_train.run import start

    marks: dict[str, list[tuple[float, float, int]]] = {}
    record = StageTrainer._record

    def noting(self: Any, position: Any, outcome: Any, share: float, metrics: dict[str, Any]) -> None:
        mark = (time.process_time(), time.perf_counter(), metrics["peak_memory"])
        marks.setdefault(self.stage.name, []).append(mark)
        record(self, position, outcome, share, metrics)

    StageTrainer._record = noting
    start(*load_spec(SPEC, changes(options, output)))
    results = {}
    for stage, steps in marks.items():
        first, last = steps[WARMUP_STEPS - 1], steps[-1]
        count = len(steps) - WARMUP_STEPS
        results[stage] = [(last[0] - first[0]) / count, (last[1] - first[1]) / count, last[2]]
    return results


def child(side: str, options: argparse.Namespace) -> dict[str, Any]:
    """The results of one side in a process of its own."""
    words = [sys.executable, "-W", "ignore", "-m", "perf.train.step_costs", "--side", side]
    words += ["--steps", str(options.steps)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    out = subprocess.run(words, capture_output=True, text=True, check=True, env=env).stdout
    return json.loads(out.splitlines()[-1])


def rows(rounds: list[dict[str, dict[str, Any]]]) -> Iterator[list[str]]:
    """Medians over the rounds."""
    for stage in rounds[0]["run"]:
        cells = [stage]
        for column, scale in ((0, 1), (1, 1), (2, 1e-6)):
            pairs = [[each[side][stage][column] for side in SIDES] for each in rounds]
            cells += [f"{median(values) * scale:.4g}" for values in zip(*pairs, strict=True)]
            cells.append(f"{median(one / other for one, other in pairs):.2f}")
        yield cells


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--steps", type=int, default=20, help="of each stage of the run, above 3")
    arguments.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments.add_argument("--smoke", action="store_true", help="one round of few steps: does it run at all")
    options = arguments.parse_args()
    if options.smoke:
        options.rounds, options.steps = 1, 5
    if options.side:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps((measured if options.side == "measured" else run)(options, f"{folder}/run")))
        return
    orders = (SIDES, SIDES[::-1])
    rounds = [{side: child(side, options) for side in orders[n % 2]} for n in range(options.rounds)]
    table(f"Steps of the quickstart on one thread (median of {options.rounds} rounds)", COLUMNS, rows(rounds))


if __name__ == "__main__":
    main()

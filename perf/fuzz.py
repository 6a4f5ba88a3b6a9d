"""Feeds commands' readers with hostile files: each is read, or refused with a message, within seconds and a gigabyte.

    python perf/fuzz.py specs --examples 100000 --seed 1
    python perf/fuzz.py specs --seed 1 --only 4711

The inputs follow from kind, seed and number alone. `--only` repeats one of them in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from fuzzing.runner import KINDS, Report, run


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("kind", choices=KINDS)
    made.add_argument("--examples", type=int, default=2000)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--only", type=int, metavar="N", help="one example, with the traceback of its failure")
    made.add_argument(
        "--keep", type=Path, metavar="DIR", help="where the inputs that failed go; default: nowhere"
    )
    made.add_argument("--json", action="store_true", help="the report as JSON")
    return made


def _print(report: Report) -> None:
    for outcome, count in sorted(report.outcomes.items(), key=lambda item: -item[1]):
        print(f"  {outcome:<32} {count}")
    for cost in report.slowest:
        print(f"  slowest: {cost.seconds:.2f} s, example {cost.number}")
    print(
        f"  peak memory {report.peak_mb:.0f} MB, of which {report.start_mb:.0f} MB before the first example"
    )
    for failure in report.failures[:20]:
        print(f"  FAILED example {failure.number}: {failure.reason}")
        print(f"    python perf/fuzz.py {report.kind} --seed {report.seed} --only {failure.number}")


def main() -> int:
    options = _parser().parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # threads of OpenMP don't survive the fork of an example's process
    numbers = range(options.examples) if options.only is None else [options.only]
    report = run(options.kind, options.seed, numbers, options.keep, debug=options.only is not None)
    if options.json:
        print(json.dumps(report.as_data()))
    else:
        print(f"{options.kind}, seed {options.seed}: {len(numbers)} examples, {len(report.failures)} failed")
        _print(report)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""Damaged data files: what is read is as it was written, what is not is reported, and nothing else happens.

`VLM_FUZZ_EXAMPLES` sets how many files of each kind are damaged; `fuzz_files.py` is the same as a script.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_files import fuzz

GIVEN = os.environ.get("VLM_FUZZ_EXAMPLES")


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.tar"])
@pytest.mark.parametrize("seed", [0, 1])
def test_damaged_files_give_no_other_rows(tmp_path, name, seed):
    assert not fuzz(tmp_path, int(GIVEN or 330), seed, [name])


def test_damaged_parquet_files_give_no_other_rows_and_end_no_process(tmp_path):
    """In a process of its own, which has 4 GiB: pyarrow is C++."""
    script = Path(__file__).parents[1] / "helpers" / "data" / "fuzz_files.py"
    command = [sys.executable, "-W", "error", str(script), str(tmp_path), GIVEN or "400", "7"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "FUZZ_FILES": "x.parquet"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("0 problems")

"""Scoring, judging and comparing load nothing heavy, and no config of other components."""

import subprocess
import sys
from pathlib import Path

from commands import answers
from layout import gqa

PROBE = """
import sys
from vlm_bench.cli.main import main
flags = ["score", "gqa", "--data", sys.argv[1], "--answers", sys.argv[2], "--save", sys.argv[3]]
assert main(flags) == main(["diff", sys.argv[3], sys.argv[3]]) == 0
heavy = {"torch", "transformers", "timm", "PIL", "openai", "openpyxl"}
others = {"vlm_encoders.configs", "vlm_connectors.configs", "vlm_llms.configs", "vlm_train.config", "yaml"}
print(sorted((heavy | others) & set(sys.modules)))
"""
PLUGIN = """
import sys
import vlm_bench.plugin
heavy = {"torch", "numpy", "rich", "PIL", "openai", "openpyxl"}
print(len(vlm_bench.plugin.vlm_benchmarks()), sorted(heavy & set(sys.modules)))
"""


def test_scoring_and_comparing(tmp_path: Path) -> None:
    gqa(tmp_path)
    said = answers(tmp_path, {"10": "dog", "2": "red", "31": "yes"})
    command = [sys.executable, "-c", PROBE, tmp_path, said, tmp_path / "report.json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_plugin() -> None:
    done = subprocess.run([sys.executable, "-c", PLUGIN], capture_output=True, text=True, check=False)
    assert done.stdout == "18 []\n", done.stderr

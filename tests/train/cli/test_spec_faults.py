"""A spec's faults are found before anything heavy is loaded."""

import subprocess
import sys

import pytest

PROBE = """
import sys
from vlm_train.cli.main import main
sys.argv = ["vlm-train", *sys.argv[1:]]
assert main() == 2
print(sorted({"torch", "numpy", "transformers", "timm", "PIL", "accelerate"} & set(sys.modules)))
"""
PARTS = """
encoder: {type: timm, model: vit_tiny_patch16_224}
connector: {type: mlp}
llm: {type: mamba, d_model: 64, n_layer: 2}
"""
STAGE = "{name: a, trainable: [connector], data: [{type: llava, path: x.json}], lr: 1.0e-3}"
FAULTS = {
    "a key of a part": f"{PARTS.replace('model:', 'modell:')}train: {{output: x, stages: [{STAGE}]}}",
    "a key of a stage": f"{PARTS}train: {{output: x, stages: [{STAGE[:-1]}, batch_sze: 3}}]}}",
    "an untrained part": f"{PARTS}train: {{output: x, stages: [{STAGE}]}}",
    "no training": PARTS,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_spec_loads_nothing_heavy(tmp_path, fault):
    path = tmp_path / "spec.yaml"
    path.write_text(FAULTS[fault])
    command = [sys.executable, "-c", PROBE, "run", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert "spec.yaml" in done.stderr

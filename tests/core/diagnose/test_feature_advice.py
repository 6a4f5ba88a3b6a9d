"""`--check` says what a feature cache takes."""

import yaml

from vlm_core.cli.assemble import main


def test_the_check_tells_what_features_take(clean_spec, tmp_path, monkeypatch, capsys):
    stage = {"data": [{"type": "llava", "path": "none.json"}], "lr": 1e-3, "batch_size": 4}
    stages = [
        {"name": "align", "trainable": ["connector"], **stage},
        {"name": "tune", "trainable": ["encoder"], **stage},
    ]
    train = {"output": "run", "stages": stages, "precision": "bf16", "feature_cache": {"path": "features"}}
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({**clean_spec, "train": train, "keep_random": ["llm"]}))
    command = [
        "vlm-assemble",
        str(path),
        "--check",
        "--gpus",
        "1",
        "--samples",
        "align=1000",
        "--samples",
        "tune=9",
    ]
    monkeypatch.setattr("sys.argv", command)
    assert main() == 0
    out = capsys.readouterr().out
    assert (
        "align: feature_cache takes 512 B per image, at most 512.00 kB for 1000" in out
    )  # 4 × 4 × 16 × 2 bytes
    assert "tune: feature_cache" not in out

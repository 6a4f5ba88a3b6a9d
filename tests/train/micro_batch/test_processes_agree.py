"""Processes agree on one micro-batch size, that of the least memory, and none waits for one that ran out of it."""

from ranks import run_ranks


def test_two_processes_choose_what_fits_both(run_spec, tmp_path, monkeypatch):
    monkeypatch.setenv("VLM_SCAN_BACKEND", "torch")
    outputs = run_ranks("micro_batch_script.py", run_spec(), tmp_path, timeout=900)
    lines = [[line for line in output if line.startswith(("ddp", "fsdp2"))] for output in outputs]
    assert lines[0] == lines[1] == ["ddp [1, 4, 6] 3 True", "fsdp2 [1, 4, 6] 6 True"]

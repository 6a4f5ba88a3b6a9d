"""Processes agree on one micro-batch size, that of the least memory, and none waits for one that ran out of it."""

import pytest
from ranks import run_ranks

from vlm_core.errors import UserError
from vlm_core.spec.spec import load_spec
from vlm_train.config.section import train_section
from vlm_train.distributed import process_group
from vlm_train.distributed.accelerator import accelerator_of


@pytest.mark.slow
def test_two_processes_choose_what_fits_both(run_spec, tmp_path, monkeypatch):
    monkeypatch.setenv("VLM_SCAN_BACKEND", "torch")
    outputs = run_ranks("micro_batch_script.py", run_spec(), tmp_path, timeout=900)
    lines = [[line for line in output if line.startswith(("ddp", "fsdp2"))] for output in outputs]
    assert lines[0] == lines[1] == ["ddp [1, 4, 6] 3 True", "fsdp2 [1, 4, 6] 6 True"]


def test_a_batch_that_the_processes_do_not_divide_is_refused(run_spec, monkeypatch):
    """As with a number: `auto` never changes the batch."""
    train = train_section(*load_spec(run_spec(), ["train.stages.0.micro_batch_size=auto"]))
    monkeypatch.setattr(process_group, "place", lambda: process_group.Place(0, 4, 0, 4))
    with pytest.raises(UserError, match="stage align: batch_size 6 is not divisible by 4 processes"):
        accelerator_of(train)

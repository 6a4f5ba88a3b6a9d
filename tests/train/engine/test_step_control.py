"""What processes exchange in a step: one tensor at its start, the gradients, and one tensor at its end."""

import json

import pytest
from accelerate import Accelerator
from ranks import run_ranks

from vlm_core.text.batch import collate, empty_batch
from vlm_core.text.render import TokenizedConversation
from vlm_train.distributed.step_control import StepControl, exchange


@pytest.mark.slow
def test_a_step_has_two_collectives_and_a_signal_stops_all_processes(run_spec, tmp_path):
    """Dropped samples add a gather to their step alone; the peer of a stopped process stops after the same step."""
    data = json.loads(
        (
            path := run_spec(
                held_out_qa=None, checkpoint_every=100, on_bad_sample="skip", bad_sample_budget=1
            ).parent
            / "data.json"
        ).read_text()
    )
    data[4]["conversations"][0]["value"] = "<image> <image>"  # one image only: a bad row of the first epoch
    path.write_text(json.dumps(data))
    first, second = (
        [json.loads(line) for line in lines if line[:1] in '["']
        for lines in run_ranks("collectives_script.py", path.parent / "spec.yaml", tmp_path / "run")
    )
    *steps, end = first
    assert len(steps) == 4  # of six
    counts = [
        [step.count("all_reduce"), len(step)] for step in steps[1:]
    ]  # the first has the run's beginning
    assert [count for count, _ in counts] == [2, 2, 2]
    assert [everything == 2 for _, everything in counts].count(False) <= 1  # the step that dropped the row
    assert sum("gather" in name for step in steps[1:] for name in step) == sum(n - 2 for _, n in counts)
    assert end.startswith("another process stopped the run after step 4 of stage align;")
    assert second[-1].startswith("SIGTERM stopped the run after step 4 of stage align;")
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["00-align-00000004"]
    dropped = [json.loads(line) for line in (tmp_path / "run" / "left_out.jsonl").read_text().splitlines()]
    assert [record["row"] for record in dropped] == [4]


def test_one_process_exchanges_nothing():
    batch = collate([TokenizedConversation([1, 2, 3], [False] * 3, [True, False, True])])
    accelerator = Accelerator(cpu=True)
    assert exchange(accelerator, [batch, empty_batch(), batch], 2, True) == StepControl(
        targets=2, dropped=2, stops=1
    )
    assert exchange(accelerator, []) == StepControl(0, 0, 0)

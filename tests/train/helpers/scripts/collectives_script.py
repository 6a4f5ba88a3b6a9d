"""One of two processes: trains a spec and prints, a step, the collectives between its metrics and the last step's.

The second process gets SIGTERM while step 4 is recorded; the last line says how its peer ends. What DDP does itself, in
C++, is not counted.
"""

import json
import os
import signal
import sys

import torch.distributed as dist
from torch.distributed import distributed_c10d

from vlm_core.spec.spec import load_spec
from vlm_train.distributed import preemption
from vlm_train.engine.trainer import StageTrainer
from vlm_train.run import start

NAMES = (
    "all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_object", "gather", "gather_object", "broadcast",
    "broadcast_object_list", "reduce", "reduce_scatter_tensor", "scatter", "all_to_all", "send", "recv", "barrier",
)  # fmt: skip
calls = []


def count(name):
    collective = getattr(dist, name)

    def counted(*args, **kwargs):
        calls.append(name)
        return collective(*args, **kwargs)

    setattr(dist, name, counted)
    setattr(distributed_c10d, name, counted)


def main():
    spec, output = sys.argv[1:]
    for name in NAMES:
        count(name)
    record = StageTrainer._record

    def recorded(self, position, *args):
        record(self, position, *args)
        sys.stdout.write(json.dumps(calls) + "\n")
        calls.clear()
        if position.step == 4 and self.accelerator.process_index == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    StageTrainer._record = recorded
    try:
        with preemption.install():
            start(*load_spec(spec, [f"train.output={output}"]))
    except preemption.Stopped as stopped:
        sys.stdout.write(json.dumps(stopped.text) + "\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

"""One of two processes with unequal memory: trains `spec` into `output` with each strategy, by `auto` and by hand.

Prints, a strategy, the sizes that were tried and chosen, and whether losses and weights are equal to the bit.
"""

import json
import os
import sys
from functools import partial

import torch
from accelerate.state import AcceleratorState
from fake_memory import GB, FakeMemory
from resume_helpers import losses, weights

from vlm_core.spec.spec import load_spec
from vlm_train.micro_batch import auto
from vlm_train.run import start


def use(memory, *_):
    return memory


def main():
    spec, output = sys.argv[1:]
    for strategy, number in (("ddp", 3), ("fsdp2", 6)):
        # the second process has less memory; under ddp it runs out of it below the limit that it states
        second = os.environ["RANK"] == "1"
        capacity = 5 * GB if second and strategy == "ddp" else 20 * GB
        memory = FakeMemory(fixed=GB, sample=GB, capacity=capacity, most=(8 if second else 20) * GB)
        setattr(auto, "device_memory", partial(use, memory))  # noqa: B010
        folders = []
        for name, size in (("auto", "auto"), ("hand", number)):
            changes = [
                f"train.output={output}/{strategy}-{name}",
                f"train.strategy={strategy}",
                "train.stages.0.batch_size=12",
                f"train.stages.0.micro_batch_size={size}",
                "train.stages.0.steps=3",
                "train.stages.1.steps=1",
                "train.max_length=64",
                "train.held_out_qa=null",
            ]
            folders.append(start(*load_spec(spec, changes))[0])
            torch.distributed.barrier()  # the first process writes the model
            AcceleratorState._reset_state()
        record = json.loads((folders[0].path / "micro_batch_sizes.json").read_text())
        found, wanted = (weights(folder) for folder in folders)
        same = losses(folders[0]) == losses(folders[1]) and all(
            torch.equal(found[key], wanted[key]) for key in wanted
        )
        size = record["stages"]["align"]["micro_batch_size"]
        sys.stdout.write(f"{strategy} {memory.tried[:3]} {size} {same}\n")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()

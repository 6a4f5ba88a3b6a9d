"""One of several processes: trains a spec once for each `NAME:KEY=VALUE,…` given, into the folder of that name.

Runs named `half…` are broken off after step 3 of the second stage, the first time.
"""

import os
import sys
from contextlib import suppress

import torch
from accelerate.state import AcceleratorState, PartialState

from vlm_core.spec.spec import load_spec
from vlm_train.engine.trainer import StageTrainer
from vlm_train.run import start


def breaking_off(record=StageTrainer._record):
    def changed(self, position, *args):
        record(self, position, *args)
        mark = self.run.path / f"broken-off-{self.accelerator.process_index}"
        if "half" in self.run.path.name and (position.stage, position.step) == (1, 3) and not mark.exists():
            mark.touch()
            raise KeyboardInterrupt

    StageTrainer._record = changed


def main():
    breaking_off()
    spec, output, *cases = sys.argv[1:]
    for case in cases:
        name, _, changes = case.partition(":")
        overrides = [f"train.output={output}/{name}", *filter(None, changes.split(","))]
        with suppress(KeyboardInterrupt):
            start(*load_spec(spec, overrides))
        AcceleratorState._reset_state()
        if os.environ.get("WORLD_SIZE", "1") == "1":
            PartialState._reset_state()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()

"""A dataset like `llava` in which something happens: `VLM_TRAP=what:rank:read` springs at that process's read of a row.

`term` and `usr1` are signals to the process itself, `fault` is a user's error, `bug` another one, `sleep` never ends,
`kill` is SIGKILL, `stop` is SIGSTOP, and `slow` lets every read take `read` milliseconds.
"""

import os
import signal
import time
from typing import Literal

from vlm_core.errors import UserError
from vlm_core.plugins import DatasetConfig, hookimpl
from vlm_core.rows import Rows


class TrapRows(Rows):
    def __init__(self, rows):
        self.rows, self.reads = rows, 0

    def __len__(self):
        return len(self.rows)

    def row(self, index):
        what, rank, read = os.environ.get("VLM_TRAP", "none:0:0").split(":")
        self.reads += 1
        if what == "slow":
            time.sleep(int(read) / 1000)
        elif rank == os.environ.get("RANK", "0") and self.reads == int(read):
            spring(what)
        return self.rows[index]


def spring(what):
    if what == "fault":
        raise UserError("the trap of a user")
    if what == "bug":
        raise RuntimeError("the trap of a bug")
    if what == "sleep":
        time.sleep(10**6)
    numbers = {"term": "SIGTERM", "usr1": "SIGUSR1", "kill": "SIGKILL", "stop": "SIGSTOP"}
    os.kill(os.getpid(), signal.Signals[numbers[what]])


class TrapConfig(DatasetConfig):
    type: Literal["trap"] = "trap"
    path: str

    def rows(self):
        from vlm_train.data.llava import LlavaConfig

        return TrapRows(LlavaConfig(path=self.path).rows())


@hookimpl
def vlm_datasets():
    return [TrapConfig]

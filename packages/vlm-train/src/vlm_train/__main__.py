"""The command `vlm-train`, and `python -m vlm_train`, which a launcher starts: signals first, then what takes time."""

from __future__ import annotations

import os
import sys

from vlm_train.distributed import exit_message, preemption
from vlm_train.distributed.exit_message import RESUMABLE
from vlm_train.distributed.preemption import Stopped

_GO_ON = ("run", "sweep")
"""Commands that can be resumed. Ctrl-C and SIGTERM end all others as they end every program."""


def main() -> int:
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    if command in _GO_ON:
        preemption.install_handlers()
    try:
        from vlm_core.runtime.parent_death import end_with_launcher

        end_with_launcher()
        from vlm_train.cli.main import main

        return main()
    except Stopped as end:
        return exit_message.report(end.text, RESUMABLE)
    except KeyboardInterrupt:  # while a command that doesn't go on is still being imported
        os._exit(preemption.INTERRUPTED)


if __name__ == "__main__":
    raise SystemExit(main())

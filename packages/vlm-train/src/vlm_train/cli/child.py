"""One run of a sweep as a child process."""

from __future__ import annotations

import signal
import sys

from vlm_core.runtime.parent_death import end_with_parent


def child() -> int:
    """Run `vlm-train` as a process that ends with its parent; the first argument is the parent's process id."""
    end_with_parent(int(sys.argv.pop(1)), signal.SIGTERM)  # SIGTERM: the run saves a checkpoint
    from vlm_train.__main__ import main

    return main()

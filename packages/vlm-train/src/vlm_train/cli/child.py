"""A run of a sweep, as a process of its own."""

from __future__ import annotations

import signal
import sys

from vlm_core.runtime.parent_death import end_with_parent


def child() -> int:
    """The command line of one run, as a process that ends with its parent, whose id is the first argument."""
    end_with_parent(int(sys.argv.pop(1)), signal.SIGTERM)  # which lets it save
    from vlm_train.__main__ import main

    return main()

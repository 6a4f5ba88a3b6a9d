"""`vlm-chat --watch`: a stream of frames, and questions about it."""

from vlm_core.cli.watch.options import add_watch, check_watch, watch_source
from vlm_core.cli.watch.questions import watch

__all__ = ["add_watch", "check_watch", "watch", "watch_source"]

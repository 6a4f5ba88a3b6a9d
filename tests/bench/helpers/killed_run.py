"""`vlm-bench run` whose process is killed while it writes a line: ARGUMENTS = lines before that, then the command's."""

import os
import signal
import sys
from pathlib import Path

from vlm_bench.cli.main import main
from vlm_bench.run import runner
from vlm_bench.run.answer_log import answer_line

left = int(sys.argv[1])
out = Path(sys.argv[sys.argv.index("--out") + 1])


def line(*args):
    global left
    if left:
        left -= 1
        return answer_line(*args)
    (part,) = out.glob("*.part-*")
    with part.open("a") as file:
        file.write(answer_line(*args)[:40])
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


setattr(runner, "answer_line", line)  # noqa: B010, where the runner looks for it
main(sys.argv[2:])

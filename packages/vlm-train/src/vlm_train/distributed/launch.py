"""Starts the processes of a run through torchrun.

torchrun gives the processes, the rendezvous of nodes, restarts and the forwarding of signals. Added here: one process
for each accelerator, a check of the options, the machine's cores divided among the processes (torchrun: one thread
each), and the exit code and message of the process that ended the run (torchrun: 1, and its own log).
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_core.errors import UserError, shown
from vlm_core.plugins.local_code import OPTION
from vlm_core.runtime.parent_death import LAUNCHER
from vlm_core.runtime.system_faults import killed
from vlm_train.distributed import exit_message, preemption, process_group
from vlm_train.distributed.exit_message import RESUMABLE
from vlm_train.distributed.stragglers import killing_stragglers

SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
"""Signals that torchrun forwards; by default it dies of SIGUSR1, and its processes go on."""
MAX_NPROC = 1024
"""Most processes of one node."""
SHUTDOWN = 600
"""Seconds that the processes have after a signal to finish a step and save, before torchrun kills them."""

_LESS_MEMORY = "use fewer train.num_workers, fewer processes, or a smaller micro_batch_size"


@dataclass(frozen=True)
class Plan:
    """A command to start: options of torchrun, none for a single process, words of each process, and variables."""

    torchrun: list[str]
    words: list[str]
    env: dict[str, str]

    @property
    def command(self) -> list[str]:
        """The whole command as words."""
        launcher = ["-m", "torch.distributed.run", *self.torchrun] if self.torchrun else []
        return [sys.executable, *launcher, *self.words]

    def line(self) -> str:
        """The command for a shell."""
        settings = [f"{name}={shlex.quote(value)}" for name, value in self.env.items()]
        return " ".join([*settings, shlex.join(self.command)])


def _integer(text: str) -> int:
    """The type of an argument that is a whole number; `plan` checks its range."""
    if not re.fullmatch("-?[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"expected a whole number, got {shown(text)}")
    return int(text)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add those of torchrun's options that a run needs, by torchrun's names."""
    group = parser.add_argument_group("distributed training", "options of torchrun, with the same meaning")
    group.add_argument(
        "--nproc",
        "--nproc-per-node",
        type=_integer,
        metavar="N",
        help="processes on this node; default: one per accelerator",
    )
    group.add_argument(
        "--nnodes", metavar="N", help="nodes, or MIN:MAX; run the same command on each; default: 1"
    )
    group.add_argument(
        "--rdzv-endpoint", metavar="HOST:PORT", help="rendezvous: a node that all others reach"
    )
    group.add_argument("--rdzv-id", metavar="ID", help="job id, the same on all nodes")
    group.add_argument(
        "--max-restarts", type=_integer, metavar="N", help="restarts after a failure; default: 0"
    )


def plan(args: argparse.Namespace) -> Plan:
    """The command for these options of `vlm-train run`; `UserError` if they contradict one another or the machine."""
    nodes = _nodes(args)
    devices = _devices() if args.nproc is None or args.nproc > 1 else 0
    nproc = _nproc(args.nproc, devices)
    _refuse_tasks_of_srun(args)
    words = ["-m", "vlm_train", "run", args.spec]
    words += [word for text in args.set for word in ("--set", text)]
    words += [OPTION] if args.trust_remote_code else []
    words += ["--debug"] if getattr(args, "debug", False) else []
    if nproc == 1 and nodes == "1" and not args.max_restarts:
        return Plan([], words, {})
    options = [
        f"--nproc-per-node={nproc}",
        f"--signals-to-handle={SIGNALS}",
        *_shutdown_option(),
    ]
    if args.max_restarts:
        options.append(f"--max-restarts={args.max_restarts}")
    return Plan([*_rendezvous(args, nodes), *options], words, _threads(nproc))


def _shutdown_option() -> list[str]:
    """torchrun's option for `SHUTDOWN`; none where torchrun lacks it, as in torch 2.11: it then waits 30 seconds."""
    from torch.distributed.run import get_args_parser

    known = "--shutdown-timeout" in get_args_parser().format_usage().replace("_", "-")
    return [f"--shutdown-timeout={SHUTDOWN}"] if known else []


def _nodes(args: argparse.Namespace) -> str:
    nodes = args.nnodes or "1"
    if not re.fullmatch("[1-9][0-9]*(:[1-9][0-9]*)?", nodes):
        raise UserError(f"--nnodes {nodes}: expected a number, or MIN:MAX")
    if args.nnodes is None and (args.rdzv_endpoint or args.rdzv_id):
        raise UserError(
            "--rdzv-endpoint and --rdzv-id are for several nodes: add --nnodes, or leave them out"
        )
    if nodes != "1" and not args.rdzv_endpoint:
        raise UserError(f"--nnodes {nodes}: add --rdzv-endpoint HOST:PORT, a node that all others reach")
    if args.max_restarts is not None and args.max_restarts < 0:
        raise UserError(f"--max-restarts {args.max_restarts}: expected a number from 0")
    return nodes


def _nproc(asked: int | None, devices: int) -> int:
    if asked is None:
        return max(1, devices)
    if not 1 <= asked <= MAX_NPROC:
        raise UserError(f"--nproc {asked}: expected a number from 1 to {MAX_NPROC}")
    if devices and asked > devices:
        raise UserError(
            f"--nproc {asked}: {devices} accelerators are visible, and each process needs its own; "
            "CUDA_VISIBLE_DEVICES= hides them and trains on the CPU"
        )
    return asked


def _refuse_tasks_of_srun(args: argparse.Namespace) -> None:
    """Raise `UserError` for several tasks of srun: each would be a run of its own in the same folder."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks != "1" and not args.nnodes:
        raise UserError(
            f"srun started {tasks} tasks, and nothing joins them: start one on each node, with --nnodes and "
            "--rdzv-endpoint, as examples/slurm/train.sbatch does"
        )


def _devices() -> int:
    import torch

    return torch.accelerator.device_count()


def _rendezvous(args: argparse.Namespace, nodes: str) -> list[str]:
    if not args.rdzv_endpoint:
        return ["--standalone"]
    options = [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={args.rdzv_endpoint}"]
    return options + ([f"--rdzv-id={args.rdzv_id}"] if args.rdzv_id else [])


def _threads(nproc: int) -> dict[str, str]:
    """The usable cores divided by the processes, unless the user has set OMP_NUM_THREADS."""
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    usable = getattr(os, "sched_getaffinity", None)
    cores = len(usable(0)) if usable else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(1, cores // nproc))}


def refuse_to_contradict(args: argparse.Namespace) -> None:
    """Raise `UserError` for options that differ from what a launcher has started."""
    here = process_group.place()
    assert here is not None
    nodes = here.world // max(1, here.local_world)
    if args.nproc not in (None, here.local_world):
        raise UserError(
            f"--nproc {args.nproc}, but a launcher has started {here.local_world} processes on this node: "
            "leave --nproc out, or start without that launcher"
        )
    if args.nnodes not in (None, str(nodes)) or args.rdzv_endpoint or args.rdzv_id or args.max_restarts:
        raise UserError(
            f"a launcher has started {here.world} processes on {nodes} nodes: leave out --nnodes, "
            "--rdzv-endpoint, --rdzv-id and --max-restarts, which are for the launcher"
        )


def start(todo: Plan, debug: bool) -> int:
    """Run torchrun in this process until its processes have ended; -> exit code of the one that ended the run."""
    os.environ.update(todo.env)
    os.environ[LAUNCHER] = str(os.getpid())
    without_ctrl_c = (
        f"--signals-to-handle={SIGNALS.replace('SIGINT,', '')}"  # the last of equal options counts
    )
    with tempfile.TemporaryDirectory(prefix="vlm-train-") as logs:
        return _agent([*todo.torchrun, without_ctrl_c, f"--log-dir={logs}", *todo.words], Path(logs), debug)


def _agent(words: list[str], logs: Path, debug: bool) -> int:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import parse_args, run

    def forwarded(name: str) -> SignalException:
        return SignalException(
            name, sigval=signal.SIGTERM
        )  # SIGINT would be a traceback during their imports

    try:
        with _without_torchrun_log(debug), preemption.raising(forwarded), killing_stragglers(logs):
            run(parse_args(words))
    except ChildFailedError as error:
        return _report_killed(error.failures) or _recorded_code(logs) or 70
    except SignalException as error:
        return _recorded_code(logs) or _report_signal(str(error), error.sigval)
    except RendezvousError as error:
        raise UserError(
            f"the nodes did not meet: {error}; is --rdzv-endpoint one of them, and its port free?"
        ) from None
    return 0


def _report_signal(text: str, number: int) -> int:
    """Report a signal that came before any process could; -> the exit code. `text` may be the signal's name."""
    if number not in preemption.SIGNALS:
        return 128 + number
    name = text if text in signal.Signals.__members__ else signal.Signals(number).name
    return exit_message.report(preemption.stopped_by(name).text, RESUMABLE)


def _recorded_code(logs: Path) -> int | None:
    """The exit code that a process recorded and reported, of the last attempt in which one did."""
    attempts = sorted(logs.glob("*/attempt_*"), key=lambda folder: int(folder.name.split("_")[1]))
    codes = [exit_message.recorded_code(folder) for folder in reversed(attempts)]
    return next((code for code in codes if code is not None), None)


def _report_killed(failures: Mapping[int, Any]) -> int | None:
    """Report the processes that were killed first; torchrun ends the others with SIGTERM. -> the exit code, if any."""
    first = min(failure.timestamp for failure in failures.values())
    code = None
    for rank, failure in sorted(failures.items()):
        number = -failure.exitcode
        if number > 0 and number != signal.SIGTERM and failure.timestamp == first:
            fault = killed(f"rank {rank}", number, _LESS_MEMORY)
            exit_message.log_error(str(fault))
            code = fault.code
    return code


@contextmanager
def _without_torchrun_log(debug: bool) -> Iterator[None]:
    """Inside, torchrun logs nothing, unless `debug`: the processes report their errors themselves."""
    logger = logging.getLogger("torch.distributed")  # torch has given it a handler of its own
    handlers, propagate = logger.handlers, logger.propagate
    if not debug:
        logger.handlers, logger.propagate = [logging.NullHandler()], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate

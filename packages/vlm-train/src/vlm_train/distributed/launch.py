"""How many processes a run takes, and starting them through torchrun."""

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
"""What torchrun hands on to its processes; by itself it dies of SIGUSR1 and leaves them behind."""
MOST = 1024
"""Processes of one node."""
SHUTDOWN = 600
"""Seconds that the processes have to finish a step and save, before torchrun kills them."""

_LESS_MEMORY = "use fewer train.num_workers, fewer processes, or a smaller micro_batch_size"


@dataclass(frozen=True)
class Plan:
    """Processes to start: options of torchrun, or none where one process is enough, and what each runs."""

    nproc: int
    torchrun: list[str]
    part: list[str]
    env: dict[str, str]

    @property
    def command(self) -> list[str]:
        """The whole command as words."""
        begin = ["-m", "torch.distributed.run", *self.torchrun] if self.torchrun else []
        return [sys.executable, *begin, *self.part]

    def line(self) -> str:
        """The command for a shell."""
        settings = [f"{name}={shlex.quote(value)}" for name, value in self.env.items()]
        return " ".join([*settings, shlex.join(self.command)])


def _integer(text: str) -> int:
    """The type of an argument that is a whole number, whose range `plan` checks."""
    if not re.fullmatch("-?[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"expected a whole number, got {shown(text)}")
    return int(text)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Torchrun's own names, for what a run needs of them."""
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
    """What to start for these options of `vlm-train run`; `UserError` if they contradict one another or the machine."""
    nodes = _nodes(args)
    devices = _devices() if args.nproc is None or args.nproc > 1 else 0
    nproc = _nproc(args.nproc, devices)
    _refuse_tasks_of_srun(args)
    part = ["-m", "vlm_train", "run", args.spec]
    part += [word for text in args.set for word in ("--set", text)]
    part += [OPTION] if args.trust_remote_code else []
    part += ["--debug"] if getattr(args, "debug", False) else []
    if nproc == 1 and nodes == "1" and not args.max_restarts:
        return Plan(1, [], part, {})
    options = [
        f"--nproc-per-node={nproc}",
        f"--signals-to-handle={SIGNALS}",
        f"--shutdown-timeout={SHUTDOWN}",
    ]
    if args.max_restarts:
        options.append(f"--max-restarts={args.max_restarts}")
    return Plan(nproc, [*_meeting(args, nodes), *options], part, _threads(nproc))


def _nodes(args: argparse.Namespace) -> str:
    nodes = args.nnodes or "1"
    if not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", nodes):
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
    if not 1 <= asked <= MOST:
        raise UserError(f"--nproc {asked}: expected a number from 1 to {MOST}")
    if devices and asked > devices:
        raise UserError(
            f"--nproc {asked}: {devices} accelerators are visible, and each process needs its own; "
            "CUDA_VISIBLE_DEVICES= hides them and trains on the CPU"
        )
    return asked


def _refuse_tasks_of_srun(args: argparse.Namespace) -> None:
    """Tasks that srun starts know nothing of one another: each would be a run of its own in the same folder."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks != "1" and not args.nnodes:
        raise UserError(
            f"srun started {tasks} tasks, and nothing joins them: start one on each node, with --nnodes and "
            "--rdzv-endpoint, as examples/slurm/train.sbatch does"
        )


def _devices() -> int:
    import torch

    return torch.accelerator.device_count()


def _meeting(args: argparse.Namespace, nodes: str) -> list[str]:
    if not args.rdzv_endpoint:
        return ["--standalone"]
    found = [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={args.rdzv_endpoint}"]
    return found + ([f"--rdzv-id={args.rdzv_id}"] if args.rdzv_id else [])


def _threads(nproc: int) -> dict[str, str]:
    """The cores that this process may use, shared out, unless the user has decided."""
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    usable = getattr(os, "sched_getaffinity", None)
    cores = len(usable(0)) if usable else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(1, cores // nproc))}


def refuse_to_contradict(args: argparse.Namespace) -> None:
    """Under a launcher, options that say otherwise than it has done are an error."""
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
    ctrl_c_is_ours = f"--signals-to-handle={SIGNALS.replace('SIGINT,', '')}"  # the last one counts
    with tempfile.TemporaryDirectory(prefix="vlm-train-") as logs, _quiet(debug):
        return _agent([*todo.torchrun, ctrl_c_is_ours, f"--log-dir={logs}", *todo.part], Path(logs))


def _agent(words: list[str], logs: Path) -> int:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import parse_args, run

    def handed_on(name: str) -> SignalException:
        return SignalException(
            name, sigval=signal.SIGTERM
        )  # the same for them, and no traceback if they just begin

    try:
        with preemption.meeting(handed_on), killing_stragglers(logs):
            run(parse_args(words))
    except ChildFailedError as error:
        return _tell_killed(error.failures) or _told(logs) or 70
    except SignalException as error:
        return _told(logs) or _ended_by(str(error), error.sigval)
    except RendezvousError as error:
        raise UserError(
            f"the nodes did not meet: {error}; is --rdzv-endpoint one of them, and its port free?"
        ) from None
    return 0


def _ended_by(text: str, number: int) -> int:
    """The exit code after a signal that came before any process could say something; `text` may be its name."""
    if number not in preemption.SIGNALS:
        return 128 + number
    name = text if text in signal.Signals.__members__ else signal.Signals(number).name
    return exit_message.say(preemption.left(name).text, RESUMABLE)


def _told(logs: Path) -> int | None:
    """The exit code of the process that was the first to leave, in the last attempt that told one; it has said why."""
    attempts = sorted(logs.glob("*/attempt_*"), key=lambda folder: int(folder.name.split("_")[1]))
    codes = [exit_message.claimed(folder) for folder in reversed(attempts)]
    return next((code for code in codes if code is not None), None)


def _tell_killed(failures: Mapping[int, Any]) -> int | None:
    """Name the processes that were killed, for they couldn't speak; torchrun itself ends the others with SIGTERM."""
    began = min(failure.timestamp for failure in failures.values())
    code = None
    for rank, failure in sorted(failures.items()):
        number = -failure.exitcode
        if number > 0 and number != signal.SIGTERM and failure.timestamp == began:
            fault = killed(f"rank {rank}", number, _LESS_MEMORY)
            exit_message.write(str(fault))
            code = fault.code
    return code


@contextmanager
def _quiet(debug: bool) -> Iterator[None]:
    """Without torchrun's own account of what its processes have said already."""
    if not debug:
        logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)

"""`vlm-train`: train the stages of a spec in order, and report their results."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from vlm_core.cli.common import Parser, add_debug, add_trust, count, local_path, path_text, run
from vlm_core.cli.output import say
from vlm_core.errors import UserError
from vlm_core.io.atomic import write_file
from vlm_core.io.yaml_loader import Document
from vlm_core.spec.spec import Spec, load_spec, locate_template_errors
from vlm_core.units import duration
from vlm_train.data import data_workers
from vlm_train.distributed import launch, preemption, process_group, watchdog

_up_to_256 = partial(count, most=256)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="vlm-train", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], short: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=short, description=run.__doc__)
        made.set_defaults(command=run)
        return made

    made = command("run", run_spec, "train; rerun the same command to resume")
    _add_spec(made)
    launch.add_options(made)
    made.add_argument("--print", action="store_true", help="print the command for a shell, and start nothing")
    _add_launch(commands)
    _add_looks(command)
    shown = command("report", report, "write one HTML page about a run")
    shown.add_argument("run", type=local_path, help="the run's folder: train.output of its spec")
    shown.add_argument("--out", type=local_path, metavar="FILE", help="default: report.html in the folder")
    add_debug(shown)
    swept = command("sweep", sweep, "run a grid of variants and seeds, and write its table")
    _add_spec(swept, "a YAML file with base, output, seeds, and rows or axes")
    swept.add_argument("--jobs", type=_up_to_256, default=1, metavar="N", help="runs at a time; default 1")
    swept.add_argument("--dry-run", action="store_true", help="only list what would run")
    return parser


def _add_launch(commands: argparse._SubParsersAction[Parser]) -> None:
    """The former command `launch`, with whatever words follow it; `--help` does not list it."""
    renamed = commands.add_parser("launch", add_help=False, prefix_chars=" ")
    renamed.add_argument("words", nargs="*")
    renamed.set_defaults(command=launch_renamed)


def _add_looks(command: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands that look ahead: at data, samples and memory."""
    made = command("check", check_data, "read all data as training would; exit code 1 if it would stop")
    _add_spec(made)
    made.add_argument("--rows", type=count, metavar="N", help="only N rows of each stage, at even distances")
    made.add_argument(
        "--num-workers", type=_up_to_256, metavar="N", help="processes; default: train.num_workers"
    )
    made.add_argument(
        "--report",
        type=path_text,
        metavar="FILE",
        help="write every row that would be left out, as JSON lines",
    )
    made = command("preview", preview, "show samples as the model gets them")
    _add_spec(made)
    made.add_argument("--rows", type=count, default=4, metavar="N", help="rows of each stage; default 4")
    made.add_argument(
        "--html",
        type=path_text,
        metavar="FILE",
        default="preview.html",
        help="the page; default preview.html",
    )
    made = command("plan", plan, "what each of N processes would hold")
    _add_spec(made)
    made.add_argument(
        "--nproc", type=partial(count, most=2**16), default=1, metavar="N", help="processes in all; default 1"
    )


def _add_spec(parser: argparse.ArgumentParser, what: str = "a YAML spec with a train section") -> None:
    parser.add_argument("spec", type=path_text, help=what)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the spec"
    )
    add_trust(parser)
    add_debug(parser)


def _spec(args: argparse.Namespace) -> tuple[Spec, Document]:
    return load_spec(args.spec, args.set, trust_remote_code=args.trust_remote_code)


def run_spec(args: argparse.Namespace) -> int:
    """Train on every accelerator of this machine; rerun the same command to resume."""
    debug = getattr(args, "debug", False)
    if args.print:
        return _print_command(args)
    if process_group.place():
        code = process_group.as_one(lambda: _join(args), debug)
        return watchdog.leave(code) if code else 0  # at once: its peers may be waiting for it in vain
    _validate(args)  # needs no torch, which counting devices does
    todo = launch.plan(args)
    return launch.start(todo, debug) if todo.torchrun else _train(args)


def launch_renamed(args: argparse.Namespace) -> int:
    raise UserError(
        "vlm-train launch is now vlm-train run; run --print shows the command that it would start"
    )


def _print_command(args: argparse.Namespace) -> int:
    """Print the command that `run` would start."""
    if process_group.place():
        raise UserError("a launcher has started this process already: leave out --print to join its group")
    _validate(args)
    say(launch.plan(args).line())
    return 0


def _validate(args: argparse.Namespace) -> None:
    """Find a spec's faults once, before anything is started."""
    from vlm_core.model_folder.initial_weights import refuse_untrained
    from vlm_train.config.section import train_section

    spec, document = _spec(args)
    train_section(spec, document)
    refuse_untrained(spec, document)


def _join(args: argparse.Namespace) -> int:
    launch.refuse_to_contradict(args)
    return _train(args)


def _train(args: argparse.Namespace) -> int:
    """This process's part of a run, or all of it."""
    began = time.monotonic()
    spec, document = _spec(args)
    from vlm_train.cli.console import show
    from vlm_train.run import start

    with preemption.unwinding(), data_workers.naming_killed_readers():
        folder, table = start(spec, document)
    here = process_group.place()
    if here is None or here.rank == 0:
        show(spec, folder, table)
        print(f"done in {duration(time.monotonic() - began)}")
    return 0


def report(args: argparse.Namespace) -> int:
    """Write one HTML page about a run, finished or not."""
    from vlm_train.report.html import write

    say(write(args.run, args.out))
    return 0


def check_data(args: argparse.Namespace) -> int:
    """Read the data of every stage as training would and say what would be left out."""
    spec, document = _spec(args)
    from vlm_train.cli.check_data import check_data, write_report
    from vlm_train.config.section import train_section
    from vlm_train.evaluation.benchmarks import benchmark_tasks
    from vlm_train.monitoring.progress import Counting

    train = train_section(spec, document)
    for task in benchmark_tasks(train.benchmarks):
        say(f"{task.name}: {len(task.asked)} of {task.benchmark.expected} questions would be asked")
    workers = train.num_workers if args.num_workers is None else args.num_workers
    with locate_template_errors(document), data_workers.naming_killed_readers():
        findings = check_data(spec, train, workers, args.rows, Counting)
    for found in findings:
        say(*found.lines())
        for item in found.left_out[:10]:
            say(f"  {item.reason}: {item.message}")
        if len(found.left_out) > 10:
            print(f"  and {len(found.left_out) - 10} more; --report FILE lists all")
    if args.report:
        write_report(findings, Path(args.report))
    failed = [found.name for found in findings if not found.passes]
    say(f"training would stop: {', '.join(failed)}" if failed else "training would go through all of it")
    return 1 if failed else 0


def plan(args: argparse.Namespace) -> int:
    """Lay the model of every stage on N pretended processes and tell what each would hold; needs no GPU."""
    spec, document = _spec(args)
    from vlm_train.cli.plan import lines, plan
    from vlm_train.config.section import train_section

    say(*lines(plan(spec, train_section(spec, document), args.nproc), args.nproc))
    return 0


def preview(args: argparse.Namespace) -> int:
    """Show the first rows of each stage as the model gets them, in the terminal and as an HTML page."""
    spec, document = _spec(args)
    from rich.console import Console

    from vlm_train.cli.preview import page, samples, terminal
    from vlm_train.config.section import train_section

    with locate_template_errors(document):
        found = samples(spec, train_section(spec, document), args.rows)
    console = Console(highlight=False)
    for shown, spans in found:
        console.print(terminal(shown, spans, color=console.is_terminal and not console.no_color))
    write_file(args.html, page(spec.name, found))
    say(f"page {args.html}")
    return 0


def sweep(args: argparse.Namespace) -> int:
    """Run every row with every seed and write the table; rerun the same command to resume."""
    from vlm_train.cli.console import show_plan, show_table
    from vlm_train.sweep import table
    from vlm_train.sweep.grid import load
    from vlm_train.sweep.jobs import jobs, run, sizes
    from vlm_train.sweep.process_pool import Pool

    grid = load(args.spec, args.set, trust_remote_code=args.trust_remote_code)
    found, parameters = jobs(grid), sizes(grid)
    show_plan(grid, found, parameters)
    if args.dry_run:
        return 0
    todo = [job for job in found if not job.done]
    with preemption.unwinding():
        failures = run(todo, Pool(grid.output, args.jobs), say)
    lines = table.lines(found, parameters)
    paths = table.write(grid, lines, [str(failure) for failure in failures])
    show_table(grid, lines, paths)
    if failures:
        say(
            f"{len(failures)} of {len(found)} runs failed:",
            *(f"  {failure}" for failure in failures),
            file=sys.stderr,
        )
    return 1 if failures else 0


def main() -> int:
    return run(_parser(), lambda args: args.command(args), package="vlm-train")

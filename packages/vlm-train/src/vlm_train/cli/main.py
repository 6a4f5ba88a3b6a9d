"""`vlm-train`: train, check and report vision-language models described by one YAML spec."""

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
from vlm_core.spec.spec import Spec, load_spec, located
from vlm_core.units import duration
from vlm_train.data import data_workers
from vlm_train.distributed import launch, preemption, process_group, watchdog

Command = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]
"""(name, function, help) -> the parser of a new subcommand."""
_up_to_256 = partial(count, most=256)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="vlm-train",
        description="Train a vision-language model. One YAML spec describes model, data and training stages.",
        epilog="vlm-train COMMAND --help shows the options of a command.",
    )
    commands = parser.add_subparsers(title="commands", dest="name", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], short: str) -> argparse.ArgumentParser:
        subparser = commands.add_parser(name, help=short, description=run.__doc__)
        subparser.set_defaults(command=run)
        return subparser

    _add_run(command)
    _add_launch(commands)
    _add_check(command)
    _add_preview(command)
    _add_plan(command)
    _add_report(command)
    _add_sweep(command)
    return parser


def _add_run(command: Command) -> None:
    parser = command("run", run_spec, "train all stages; run the same command again to resume")
    _add_spec(parser)
    parser.add_argument("--print", action="store_true", help="print the torchrun command and exit")
    _add_common(parser)
    launch.add_options(parser)


def _add_launch(commands: argparse._SubParsersAction[Parser]) -> None:
    """The former command `launch`, with whatever words follow it; `--help` does not list it."""
    parser = commands.add_parser("launch", add_help=False, prefix_chars=" ")
    parser.add_argument("words", nargs="*")
    parser.set_defaults(command=launch_renamed)


def _add_check(command: Command) -> None:
    parser = command("check", check_data, "read all training data ahead of time and list bad rows")
    _add_spec(parser)
    parser.add_argument("--rows", type=count, metavar="N", help="evenly spaced rows per stage; default: all")
    parser.add_argument(
        "--num-workers",
        type=_up_to_256,
        metavar="N",
        help="data-loading processes; default: train.num_workers of the spec",
    )
    parser.add_argument(
        "--report", type=path_text, metavar="FILE", help="write all bad rows to FILE as JSON lines"
    )
    _add_common(parser)


def _add_preview(command: Command) -> None:
    parser = command("preview", preview, "show samples as the model gets them, with the loss mask")
    _add_spec(parser)
    parser.add_argument("--rows", type=count, default=4, metavar="N", help="rows per stage; default: 4")
    parser.add_argument(
        "--html",
        type=path_text,
        metavar="FILE",
        default="preview.html",
        help="HTML page to write; default: preview.html",
    )
    _add_common(parser)


def _add_plan(command: Command) -> None:
    parser = command("plan", plan, "print the memory per process for each stage; needs no GPU")
    _add_spec(parser)
    parser.add_argument(
        "--nproc",
        type=partial(count, most=2**16),
        default=1,
        metavar="N",
        help="processes over all nodes; default: 1",
    )
    _add_common(parser)


def _add_report(command: Command) -> None:
    parser = command("report", report, "write an HTML page about a run")
    parser.add_argument("run", type=local_path, help="run folder (train.output of the spec)")
    parser.add_argument(
        "--out", type=local_path, metavar="FILE", help="page to write; default: report.html in the run folder"
    )
    add_debug(parser)


def _add_sweep(command: Command) -> None:
    parser = command("sweep", sweep, "train variants of a spec with several seeds and write a table")
    _add_spec(parser, "YAML file of the sweep: base, output, seeds, and rows or axes")
    parser.add_argument("--jobs", type=_up_to_256, default=1, metavar="N", help="parallel runs; default: 1")
    parser.add_argument("--dry-run", action="store_true", help="list the runs and exit")
    _add_common(parser)


def _add_spec(parser: argparse.ArgumentParser, what: str = "YAML spec with a train section") -> None:
    parser.add_argument("spec", type=path_text, help=what)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the file, such as train.seed=1; repeatable",
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    add_trust(parser)
    add_debug(parser)


def _spec(args: argparse.Namespace) -> tuple[Spec, Document]:
    return load_spec(args.spec, args.set, trust_remote_code=args.trust_remote_code)


def run_spec(args: argparse.Namespace) -> int:
    """Train all stages of a spec, on all accelerators of this machine by default.

    The run folder is train.output. After an interruption, run the same command again to resume.
    """
    debug = getattr(args, "debug", False)
    if args.print:
        return _print_command(args)
    if process_group.place():
        code = process_group.as_one(lambda: _join(args), debug)
        return watchdog.leave(code) if code else 0  # exit at once: other ranks may block in a collective
    _validate(args)  # before counting devices, which imports torch
    launch_plan = launch.plan(args)
    return launch.start(launch_plan, debug) if launch_plan.torchrun else _train(args)


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
    """Raise the errors of a spec once, before any process is started."""
    from vlm_core.model_folder.initial_weights import refuse_untrained
    from vlm_train.config.section import train_section

    spec, document = _spec(args)
    train_section(spec, document)
    refuse_untrained(spec, document)


def _join(args: argparse.Namespace) -> int:
    launch.refuse_to_contradict(args)
    return _train(args)


def _train(args: argparse.Namespace) -> int:
    """Train in this process, alone or as one rank."""
    start_time = time.monotonic()
    spec, document = _spec(args)
    from vlm_train.cli.console import show
    from vlm_train.run import start

    with preemption.unwinding(), data_workers.naming_killed_workers():
        folder, table = start(spec, document)
    here = process_group.place()
    if here is None or here.rank == 0:
        show(spec, folder, table)
        print(f"done in {duration(time.monotonic() - start_time)}")
    return 0


def report(args: argparse.Namespace) -> int:
    """Write an HTML page about a run, finished or not: results, curves, samples, spec and versions."""
    from vlm_train.report.html import write

    say(write(args.run, args.out))
    return 0


def check_data(args: argparse.Namespace) -> int:
    """Read the data of every stage as training would, and list bad rows, token counts and truncation.

    Exit code 1: training would stop at these rows.
    """
    spec, document = _spec(args)
    from vlm_train.cli.check_data import check_data, write_report
    from vlm_train.config.section import train_section
    from vlm_train.evaluation.benchmarks import benchmark_tasks
    from vlm_train.monitoring.progress import Counting

    train = train_section(spec, document)
    for task in benchmark_tasks(train.benchmarks):
        say(f"{task.name}: {len(task.questions)} of {task.benchmark.expected} questions would be asked")
    num_workers = train.num_workers if args.num_workers is None else args.num_workers
    with located(document), data_workers.naming_killed_workers():
        checks = check_data(spec, train, num_workers, args.rows, Counting)
    for check in checks:
        say(*check.lines())
        for item in check.dropped[:10]:
            say(f"  {item.reason}: {item.message}")
        if len(check.dropped) > 10:
            print(f"  and {len(check.dropped) - 10} more; --report FILE lists all")
    if args.report:
        write_report(checks, Path(args.report))
    failed = [check.name for check in checks if not check.passes]
    say(f"training would stop in: {', '.join(failed)}" if failed else "training would use all stages' data")
    return 1 if failed else 0


def plan(args: argparse.Namespace) -> int:
    """Print the memory that each of N processes needs in every stage: weights, gradients, optimizer, activations.

    Nothing is computed; no GPU is needed.
    """
    spec, document = _spec(args)
    from vlm_train.cli.plan import lines, plan
    from vlm_train.config.section import train_section

    say(*lines(plan(spec, train_section(spec, document), args.nproc), args.nproc))
    return 0


def preview(args: argparse.Namespace) -> int:
    """Show the first rows of each stage as the model gets them: images, tokens, and which tokens have loss.

    The samples are printed in the terminal and written as an HTML page.
    """
    spec, document = _spec(args)
    from rich.console import Console

    from vlm_train.cli.preview import page, samples, terminal
    from vlm_train.config.section import train_section

    with located(document):
        previews = samples(spec, train_section(spec, document), args.rows)
    console = Console(highlight=False)
    for preview in previews:
        console.print(terminal(preview, color=console.is_terminal and not console.no_color))
    write_file(args.html, page(spec.name, previews))
    say(f"page {args.html}")
    return 0


def sweep(args: argparse.Namespace) -> int:
    """Train every row of a sweep with every seed and write a table of means.

    Run the same command again to resume.
    """
    from vlm_train.cli.console import show_plan, show_table
    from vlm_train.sweep import table
    from vlm_train.sweep.grid import load
    from vlm_train.sweep.jobs import jobs, run, sizes
    from vlm_train.sweep.process_pool import Pool

    grid = load(args.spec, args.set, trust_remote_code=args.trust_remote_code)
    all_jobs, parameters = jobs(grid), sizes(grid)
    show_plan(grid, all_jobs, parameters)
    if args.dry_run:
        return 0
    pending = [job for job in all_jobs if not job.done]
    with preemption.unwinding():
        failures = run(pending, Pool(grid.output, args.jobs), say)
    lines = table.lines(all_jobs, parameters)
    paths = table.write(grid, lines, [str(failure) for failure in failures])
    show_table(grid, lines, paths)
    if failures:
        say(
            f"{len(failures)} of {len(all_jobs)} runs failed:",
            *(f"  {failure}" for failure in failures),
            file=sys.stderr,
        )
    return 1 if failures else 0


def main() -> int:
    return run(_parser(), lambda args: args.command(args), package="vlm-train")

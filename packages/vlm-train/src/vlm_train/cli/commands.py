"""The functions of the `vlm-train` subcommands: parsed arguments -> exit code. Their docstrings are the help texts."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from vlm_core.cli.output import say
from vlm_core.errors import UserError
from vlm_core.io.atomic import write_file
from vlm_core.io.yaml_loader import Document
from vlm_core.spec.spec import Spec, load_spec, locate_template_errors
from vlm_core.units import duration
from vlm_train.data import data_workers
from vlm_train.distributed import launch, preemption, process_group, watchdog


def _spec(args: argparse.Namespace) -> tuple[Spec, Document]:
    return load_spec(args.spec, args.set, trust_remote_code=args.trust_remote_code)


def init(args: argparse.Namespace) -> int:
    """Write a spec for your own data: a commented YAML file, with some of the images held out for an evaluation.

    Questions are asked on a terminal only, for what the options leave open.
    """
    from vlm_train.cli.init import new_spec

    return new_spec(args)


def run_spec(args: argparse.Namespace) -> int:
    """Train all stages of a spec, on all accelerators of this machine by default.

    The run folder is train.output. After an interruption, run the same command again to resume.
    """
    debug = getattr(args, "debug", False)
    if args.print:
        return _print_command(args)
    if process_group.place():
        code = process_group.exit_code_of(lambda: _join(args), debug)
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

    train = train_section(spec, document)
    for task in benchmark_tasks(train.benchmarks):
        say(f"{task.name}: {len(task.questions)} of {task.benchmark.expected} questions would be asked")
    in_spec = 0 if train.num_workers == "auto" else train.num_workers
    num_workers = in_spec if args.num_workers is None else args.num_workers
    with locate_template_errors(document), data_workers.naming_killed_workers():
        checks = check_data(spec, train, num_workers, args.rows)
    for check in checks:
        say(*check.lines(), *check.fault_lines(10, "--report FILE lists all"))
    if args.report:
        write_report(checks, Path(args.report))
    failed = [check.name for check in checks if not check.passes]
    say(f"training would stop in: {', '.join(failed)}" if failed else "no bad rows would stop training")
    return 1 if failed else 0


def plan(args: argparse.Namespace) -> int:
    """Print the memory that each of N processes needs in every stage: weights, gradients, optimizer, activations.

    Nothing is computed and no GPU is needed, except with --measure, which times steps on this machine.
    """
    spec, document = _spec(args)
    from vlm_core.diagnose.costs.gpus import find_gpu
    from vlm_train.cli.plan import lines, plan, warnings
    from vlm_train.config.section import train_section

    gpu, train = find_gpu(args.gpu) if args.gpu else None, train_section(spec, document)
    planned = plan(spec, train, args.nproc, gpu)
    say(*lines(planned, args.nproc), *warnings(spec, train, planned, args.nproc, gpu))
    if args.measure:
        from vlm_core.cli.check_measured import print_measured
        from vlm_core.diagnose.costs.measured_steps import MeasureOptions
        from vlm_train.profiling.stage_profiles import profile_stages

        options = MeasureOptions(args.nproc, args.text_tokens)
        with locate_template_errors(document), data_workers.naming_killed_workers():
            print_measured(profile_stages(spec, train, options))
    return 0


def preview(args: argparse.Namespace) -> int:
    """Show the first rows of each stage as the model gets them: images, tokens, and which tokens have loss.

    The samples are printed in the terminal and written as an HTML page.
    """
    spec, document = _spec(args)
    from rich.console import Console

    from vlm_train.cli.preview import page, samples, terminal
    from vlm_train.config.section import train_section

    with locate_template_errors(document):
        previews = samples(spec, train_section(spec, document), args.rows)
    console = Console(highlight=False)
    for sample in previews:
        console.print(terminal(sample, color=console.is_terminal and not console.no_color))
    write_file(args.html, page(spec.name, previews))
    say(f"page {args.html}")
    return 0


def sweep(args: argparse.Namespace) -> int:
    """Train every row of a sweep with every seed and write a table of means, updated after each run.

    Run the same command again to resume.
    """
    from vlm_train.cli.console import show_plan, show_tables
    from vlm_train.sweep import comparison, table
    from vlm_train.sweep.grid import load
    from vlm_train.sweep.jobs import jobs, run, sizes
    from vlm_train.sweep.process_pool import Pool

    grid = load(args.spec, args.set, trust_remote_code=args.trust_remote_code)
    all_jobs, parameters = jobs(grid), sizes(grid)
    show_plan(grid, all_jobs, parameters)
    if args.dry_run:
        return 0
    pending = [job for job in all_jobs if not job.done]

    def write_so_far() -> None:
        table.write(grid, table.lines(all_jobs, parameters), [], draw=False)

    with preemption.unwinding():
        failures = run(pending, Pool(grid.output, args.jobs), say, write_so_far)
    lines = table.lines(all_jobs, parameters)
    paths = table.write(grid, lines, [str(failure) for failure in failures])
    paths += comparison.write(grid.output, lines, all_jobs)
    show_tables(grid, lines, paths)
    if failures:
        say(
            f"{len(failures)} of {len(all_jobs)} runs failed:",
            *(f"  {failure}" for failure in failures),
            file=sys.stderr,
        )
    return 1 if failures else 0

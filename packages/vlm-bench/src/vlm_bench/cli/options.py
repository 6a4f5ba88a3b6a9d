"""A benchmark's config as command-line options, one a field."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from vlm_core.cli.common import local_path
from vlm_core.errors import UserError
from vlm_core.plugins.config import BenchmarkConfig


def add_options(parser: argparse.ArgumentParser, config: type[BenchmarkConfig]) -> None:
    """An option `--field` for each field but `type`; an absent option leaves the config's default."""
    for name, field in config.model_fields.items():
        if name != "type":
            parser.add_argument(
                f"--{name.replace('_', '-')}",
                dest=f"field_{name}",
                required=field.is_required(),
                default=argparse.SUPPRESS,
                help=field.description,
                **_kind(name, field.annotation),
            )


def _kind(name: str, annotation: Any) -> dict[str, Any]:
    plain = _plain(annotation)
    if get_origin(plain) is Literal:
        return {"choices": get_args(plain)}
    if plain is bool:
        return {"action": argparse.BooleanOptionalAction}
    return {
        "type": local_path if plain is Path else plain if plain in (int, float) else str,
        "metavar": "PATH" if plain is Path else name.upper(),
    }


def _plain(annotation: Any) -> Any:
    """The type without `None` and without metadata."""
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(option for option in get_args(annotation) if option is not NoneType)
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def config_of(args: argparse.Namespace, config: type[BenchmarkConfig]) -> BenchmarkConfig:
    """The config that the options describe."""
    from pydantic import ValidationError

    fields = {
        name.removeprefix("field_"): value for name, value in vars(args).items() if name.startswith("field_")
    }
    try:
        return config(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"--{'-'.join(map(str, first['loc']))}: {first['msg']}") from None

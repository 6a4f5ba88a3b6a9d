"""`vlm-predict`: answers to the rows of a file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_core.cli.common import DTYPES, Parser, add_trust, count, local_path, run
from vlm_core.cli.output import say
from vlm_core.cli.remote import add_server, check_server, client_of
from vlm_core.cli.sampling import add_sampling, check_sampling
from vlm_core.errors import UserError
from vlm_core.io.manifest import require_model_folder

if TYPE_CHECKING:
    from vlm_serve.predict.models import RowModel

_ABOUT = """Answer the rows of a JSON lines file, by a model folder or a server. A row has an id, a question or
messages, and optionally image or images. Rerun the same command to resume."""
_LOCAL_OPTIONS = ("device", "dtype", "trust_remote_code")


class _Parser(Parser):
    """Options may stand between MODEL and ROWS."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.parse_intermixed_args(args, namespace)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="vlm-predict", description=_ABOUT)
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", type=local_path, help="a model folder; none with --url"
    )
    parser.add_argument("rows", metavar="ROWS", type=local_path, help="JSON lines: one row a line")
    parser.add_argument("--out", required=True, type=local_path, metavar="FILE", help="file for the answers")
    parser.add_argument(
        "--images", type=local_path, metavar="DIR", help="folder of the rows' images (default: that of ROWS)"
    )
    add_sampling(parser)
    parser.add_argument(
        "--concurrency",
        type=partial(count, most=1024),
        default=8,
        metavar="N",
        help="rows that are answered at the same time (default: 8)",
    )
    parser.add_argument("--device", help="cpu, cuda, … (default: the GPU if there is one)")
    parser.add_argument("--dtype", choices=DTYPES, help="dtype of the weights (default: as saved)")
    add_server(parser)
    add_trust(parser)
    return parser


def predict(args: argparse.Namespace) -> int:
    """Answer the rows; returns 1 if some have no answer."""
    from vlm_core.remote import Decoding
    from vlm_serve.predict.answer_file import AnswerFile
    from vlm_serve.predict.predict import predict as answer_rows
    from vlm_serve.predict.rows import read_rows

    _check(args)
    file = AnswerFile(args.out)
    file.check_target()
    rows, faults = read_rows(args.rows, args.images)
    decoding = Decoding(args.max_new_tokens, args.temperature, args.top_p, args.seed)
    with _model(args) as model:
        err = partial(say, file=sys.stderr)
        done = answer_rows(rows, faults, model, file, decoding, args.concurrency, err)
    say(f"{args.out}: {done.answered} rows answered, {done.earlier} earlier, {done.failed} failed")
    return int(done.failed > 0)


def _check(args: argparse.Namespace) -> None:
    check_server(args, _LOCAL_OPTIONS)
    check_sampling(args)
    if args.images is not None and not args.images.is_dir():
        raise UserError(f"--images {args.images}: no such folder")
    if args.url is None:
        require_model_folder(args.model)


@contextmanager
def _model(args: argparse.Namespace) -> Iterator[RowModel]:
    from vlm_core.remote import RemoteModel
    from vlm_serve.predict.models import LocalRows, ServedRows

    if args.url is not None:
        yield ServedRows(RemoteModel.at(client_of(args), args.served_model))
        return
    model = LocalRows(
        Path(args.model),
        args.concurrency,
        dtype=args.dtype,
        device=args.device,
        trust=args.trust_remote_code,
    )
    try:
        yield model
    finally:
        model.close()


def main() -> int:
    return run(_parser(), predict, package="vlm-serve")

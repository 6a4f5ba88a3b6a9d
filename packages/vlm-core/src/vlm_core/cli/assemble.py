"""`vlm-assemble`: check a spec, list components, build a model folder."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_core.cli.common import amount, run, size
from vlm_core.errors import UserError
from vlm_core.registry import KINDS, installed
from vlm_core.spec import json_schema, load_spec

if TYPE_CHECKING:
    from vlm_core.check import Arithmetic
    from vlm_core.spec import Spec


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vlm-assemble", description=__doc__)
    parser.add_argument("spec", nargs="?", help="a YAML spec")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write the model folder")
    parser.add_argument("--check", action="store_true", help="only the arithmetic; touches no weights")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the spec"
    )
    parser.add_argument("--list", action="store_true", help="every installed component and its package")
    parser.add_argument("--schema", action="store_true", help="the JSON schema of a spec, for editors")
    return parser


def list_components() -> int:
    """Print every component; 1 if a plugin is broken or a name is claimed twice."""
    registry = installed()
    entries = list(registry.all())
    width = max((len(e.name) for e in entries), default=0)
    for kind in KINDS:
        for e in entries:
            if e.kind == kind:
                clash = len(registry.entries[(e.kind, e.name)]) > 1
                mark = "   claimed by two packages: neither can be used" if clash else ""
                print(f"{kind:<10} {e.name:<{width}}  {e.distribution} {e.version}{mark}")
    for distribution, error in registry.broken.items():
        print(f"broken plugin: {distribution}: {error}", file=sys.stderr)
    return int(bool(registry.broken) or any(len(found) > 1 for found in registry.entries.values()))


def _print_check(spec: Spec, sums: Arithmetic) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=spec.name, title_justify="left", box=None, header_style="dim")
    for column in ("part", "component", "output an image", "parameters", "fp32", "bf16"):
        table.add_column(column, justify="right" if column in ("parameters", "fp32", "bf16") else "left")
    for row in sums.rows:
        count = row.parameters
        table.add_row(row.part, row.component, row.output, amount(count), size(4 * count), size(2 * count))
    table.add_row("total", "", "", amount(sums.total), size(4 * sums.total), size(2 * sums.total))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    (ph, pw), (h, w) = sums.image_size, sums.grid
    print(
        f"\nimage {ph}×{pw} px → {h}×{w} = {h * w} patches of width {sums.d_in} → {sums.tokens} visual tokens of "
        f"width {sums.d_out} → language model with {sums.vocab_size} logits"
    )


def assemble(args: argparse.Namespace) -> int:
    if args.list:
        return list_components()
    if args.schema:
        print(json.dumps(json_schema(), indent=1))
        return 0
    if not args.spec:
        raise UserError("name a spec, or use --list or --schema; --help shows all options")
    spec, _ = load_spec(args.spec, args.set)
    if args.out and args.out.exists():
        raise UserError(f"{args.out} exists already; name another folder, or remove this one")
    from vlm_core.check import check

    _print_check(spec, check(spec))
    if args.check:
        return 0
    from vlm_core.assemble import build, save

    out = args.out or Path("models") / spec.name
    save(build(spec), spec, out)
    print(f"\nmodel folder: {out}")
    return 0


def main() -> int:
    return run(_parser(), assemble)

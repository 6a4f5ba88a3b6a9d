"""`vlm-assemble`: check a spec, build or export a model folder, list components, print diagnostics."""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_core.cli import check_measured, check_tables
from vlm_core.cli.common import DTYPES, Parser, add_trust, local_path, path_text, run
from vlm_core.cli.output import say
from vlm_core.cli.tables import add, show, table
from vlm_core.errors import UserError
from vlm_core.model_folder.initial_weights import refuse_untrained
from vlm_core.plugins.local_code import how_to_load
from vlm_core.plugins.registry import KINDS, installed
from vlm_core.spec.spec import json_schema, load_spec, locate_template_errors
from vlm_core.units import amount, size

if TYPE_CHECKING:
    from vlm_core.diagnose.model_summary import ModelSummary
    from vlm_core.spec.spec import Spec


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="vlm-assemble", description=__doc__)
    parser.add_argument(
        "spec",
        nargs="?",
        type=path_text,
        metavar="SPEC",
        help="a YAML spec; with --export-hf a model folder",
    )
    parser.add_argument(
        "--out",
        type=local_path,
        metavar="DIR",
        help="output folder; default models/NAME, with --new-plugin the package's name",
    )
    parser.add_argument("--dtype", choices=DTYPES, help="convert weights to this dtype; default: as built")
    parser.add_argument(
        "--random-weights",
        action="store_true",
        help="initialise all weights randomly and download none, to measure size and speed",
    )
    parser.add_argument(
        "--export-hf",
        type=local_path,
        metavar="DIR",
        help="export a model folder, given instead of a spec, for transformers",
    )
    parser.add_argument(
        "--with-code",
        action="store_true",
        help="with --export-hf: include the model code, for use without vlm-core",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="print shapes, parameters, bytes and downloads; needs no weights and no network, writes nothing",
    )
    check_tables.add_arguments(parser)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the spec, such as connector.type=mlp; may be repeated",
    )
    add_trust(parser)
    _add_commands(parser)
    return parser


def _add_commands(parser: argparse.ArgumentParser) -> None:
    """Options that need no spec."""
    parser.add_argument("--list", action="store_true", help="list installed components with their packages")
    parser.add_argument(
        "--new-plugin",
        nargs=2,
        metavar=("KIND", "NAME"),
        help="write a plugin package; KIND is encoder, connector, llm, scan, dataset or benchmark",
    )
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of specs, for editors")
    parser.add_argument(
        "--doctor",
        action="store_true",
        help="print versions, devices, scan backends, kernels, plugins and their problems",
    )


def list_components() -> int:
    """Print every component with package and location; 1 if a plugin is broken or two packages use one name."""
    from vlm_core.plugins.distribution import origin

    registry = installed()
    entries = list(registry.all())
    width = max((len(e.name) for e in entries), default=0)
    package_width = max((len(f"{e.distribution} {e.version}") for e in entries), default=0)
    for kind in KINDS:
        for e in entries:
            if e.kind == kind:
                clash = len(registry.entries[(e.kind, e.name)]) > 1
                mark = "   claimed by two packages: neither can be used" if clash else ""
                package = f"{e.distribution} {e.version}"
                say(
                    f"{kind:<10} {e.name:<{width}}  {package:<{package_width}}  {origin(e.distribution)}{mark}"
                )
    for distribution, error in registry.broken.items():
        say(f"broken plugin: {distribution}: {error}", file=sys.stderr)
    return int(bool(registry.broken) or any(len(group) > 1 for group in registry.entries.values()))


def doctor() -> int:
    """Print diagnostics of this machine for bug reports; 1 if there are problems."""
    from vlm_core.diagnose.doctor import report

    sections, problems = report()
    width = max(len(name) for _, rows in sections for name, _ in rows)
    for title, rows in sections:
        print(title)
        for name, value in rows:
            say(f"  {name:<{width}}  {value}")
        print()
    print("problems" if problems else "no problems found")
    for problem in problems:
        first, *others = problem.split("\n")
        say(f"  - {first}", *(f"    {line}" for line in others))
    return int(bool(problems))


def new_plugin(kind_and_name: list[str], out: Path | None) -> int:
    """Write a plugin package and print how to install and test it."""
    from vlm_core.plugins import scaffold

    kind, name = kind_and_name
    folder = scaffold.new_plugin(kind, name, out)
    pip = "pip" if find_spec("pip") else "uv pip"  # environments of uv have none
    say(f"package: {folder}", f"try it:  {pip} install -e '{folder}[test]' && pytest {folder}")
    return 0


def _print_check(spec: Spec, summary: ModelSummary) -> None:
    lines = table(spec.name, "part", "component", "output per image", "parameters", "fp32", "bf16", right=3)
    for row in summary.rows:
        count = row.parameters
        add(lines, row.part, row.component, row.output, amount(count), size(4 * count), size(2 * count))
    total = summary.total
    add(lines, "total", "", "", amount(total), size(4 * total), size(2 * total))
    show(lines)
    (height, width), (h, w) = summary.image_size, summary.grid
    print(
        f"\n{'image' if spec.views is None else 'view'} {height}×{width} px → {h}×{w} = {h * w} patches of width "
        f"{summary.d_in} → {summary.tokens} visual tokens of width {summary.d_out} → language model with "
        f"{summary.vocab_size} logits"
    )
    frames = summary.sampling.limit
    most = "" if summary.sampling.fps is None else "at most "
    print(
        f"video, {summary.sampling} → {most}{frames} × {summary.tokens} = {frames * summary.tokens} visual tokens"
    )


def _refuse_unused(args: argparse.Namespace) -> None:
    """Raise `UserError` for options that have no effect with the others."""
    writing = {"--out": args.out, "--dtype": args.dtype, "--random-weights": args.random_weights}
    if args.with_code and not args.export_hf:
        raise UserError("--with-code needs --export-hf DIR")
    if args.export_hf:
        unused = {**writing, "--set": args.set, "--check": args.check}
        option = "--export-hf, which copies a model folder"
    else:
        unused, option = writing if args.check else {}, "--check, which writes nothing"
    if names := [name for name, value in unused.items() if value]:
        raise UserError(f"{' and '.join(names)} has no effect with {option}; leave it out")


def assemble(args: argparse.Namespace) -> int:
    if args.list:
        return list_components()
    if args.schema:
        print(json.dumps(json_schema(), indent=1))
        return 0
    if args.doctor:
        return doctor()
    if args.new_plugin:
        return new_plugin(args.new_plugin, args.out)
    if not args.spec:
        raise UserError("name a spec, or use --list, --schema or --doctor; --help shows all options")
    _refuse_unused(args)
    if args.export_hf:
        from vlm_core.export.hf_export import export_hf

        export_hf(
            Path(args.spec),
            args.export_hf,
            with_code=args.with_code,
            trust_remote_code=args.trust_remote_code,
        )
        say(f"model folder: {args.export_hf}{how_to_load(args.export_hf)}")
        return 0
    spec, document = load_spec(args.spec, args.set, trust_remote_code=args.trust_remote_code)
    if not args.random_weights:
        refuse_untrained(spec, document)
    if args.out and os.path.lexists(args.out):
        raise UserError(f"{args.out} exists already; name another folder, or remove this one")
    assumptions, gpu = check_tables.cost_options(args)
    measure = check_measured.measurement(spec, args) if args.measure else None
    from vlm_core.diagnose.model_summary import build_on_meta, summarize

    with locate_template_errors(document):
        model = build_on_meta(spec)
    _print_check(spec, summarize(spec, model))
    check_tables.print_views(model)
    check_tables.print_sources(spec, model, random_weights=args.random_weights)
    if args.check:
        check_tables.print_all(spec, document, model, assumptions, gpu)
        if measure:
            measure()
        return 0
    out = args.out or Path("models") / spec.name
    with locate_template_errors(document):
        write_model(spec, out, args.dtype, args.random_weights)
    say("", f"model folder: {out}{how_to_load(out)}")
    return 0


def write_model(spec: Spec, out: Path, dtype: str | None, random_weights: bool) -> None:
    import torch

    from vlm_core.model_folder.assemble import build, save
    from vlm_core.text.template import check_template

    model = build(spec, weights=not random_weights, dtype=getattr(torch, dtype) if dtype else None)
    check_template(spec.template, model.llm.tokenizer)  # the folder contains the tokenizer in any case
    save(model, spec, out, {"random_weights": True, "initial_weights": []} if random_weights else None)


def main() -> int:
    return run(_parser(), assemble)

"""Runs all measurements, one after the other, and writes their tables into docs/measurements.md.

    uv run python -m perf.report [NAME …] [--threads N] [--rounds N]

Each section between the two marker comments is replaced as soon as it is measured; sections not named and the rest of
the page stay. The plot goes to docs/img/scan-length.png.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from perf.lib.common import need_mambapy

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "measurements.md"
PLOT = ROOT / "docs" / "img" / "scan-length.png"
OPEN, CLOSE = "<!-- measured -->", "<!-- /measured -->"
SECTIONS = {
    "scan": "Selective scan",
    "accuracy": "Accuracy",
    "mixer": "Training step of a layer",
    "prefill": "Prefill",
    "decode": "Decoding",
    "prefix_reuse": "Questions about one image",
    "connectors": "Connectors",
    "length": "Length",
    "full_size": "Full size",
    "feature_cache": "Feature cache",
    "loader": "Loader",
}


def divided(page: Path) -> tuple[str, dict[str, str], str]:
    """The page up to the opening marker, its measured sections by title, and from the closing marker on."""
    if not page.exists():
        raise SystemExit(f"{page}: missing; write the page first, with {OPEN} and {CLOSE} where tables go")
    text = page.read_text(encoding="utf-8")
    before, opened, rest = text.partition(OPEN)
    measured, closed, after = rest.partition(CLOSE)
    if not opened or not closed:
        raise SystemExit(f"{page}: has no {OPEN} followed by {CLOSE}")
    sections = [part.strip() for part in measured.split("### ")[1:]]
    return before + opened, {part.split("\n", 1)[0]: part for part in sections}, closed + after


def replace(page: Path, name: str, text: str) -> None:
    """Put one section in its place."""
    before, sections, after = divided(page)
    sections[SECTIONS[name]] = text
    ordered = [f"### {sections[title]}" for title in SECTIONS.values() if title in sections]
    page.write_text("\n\n".join([before, *ordered, after]), encoding="utf-8")


def section(name: str, options: argparse.Namespace) -> str:
    """Title, command, machine and tables of one script."""
    command = [sys.executable, "-m", f"perf.cpu.{name}", "--threads", str(options.threads)]
    command += ["--rounds", str(options.rounds)] if options.rounds else []
    command += ["--smoke"] if options.smoke else []
    command += ["--plot", str(options.plot.resolve())] if name == "length" else []
    command += ["--whole-2.8b"] if name == "prefill" else []
    print(f"perf/cpu/{name}.py", file=sys.stderr, flush=True)
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    if done.returncode:
        raise SystemExit(
            f"perf/cpu/{name}.py failed with exit status {done.returncode}; the page is unchanged"
        )
    return f"{SECTIONS[name]}\n\n`perf/cpu/{name}.py` on {done.stdout.strip()}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", choices=[*SECTIONS, []], metavar="NAME", help=", ".join(SECTIONS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, help="of every script, instead of its own default")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, to see that everything runs")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--plot", type=Path, default=PLOT)
    options = parser.parse_args()
    need_mambapy()
    divided(options.page)  # a page that can't take the tables is better known before
    for name in options.names or SECTIONS:
        replace(options.page, name, section(name, options))


if __name__ == "__main__":
    main()

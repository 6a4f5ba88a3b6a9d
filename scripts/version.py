"""The version of all packages stands once, in the root's pyproject.toml: `python scripts/version.py 0.2.0` sets it.

Without a version it copies the root's into every package; `--check` compares. Packages of one minor version belong
together, so their requirements on one another follow.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSION = re.compile(r'^version = "[^"]*"$', re.MULTILINE)
SIBLING = re.compile(
    r'"(vlm-(?:ssm|core|encoders|connectors|llms|train|bench)(?:\[[\w,-]+\])?)>=[\d.]+,<[\d.]+"'
)


def root_version() -> str:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["project"]["version"]


def with_version(text: str, version: str) -> str:
    """A pyproject.toml that has `version`, and requires siblings of its minor version."""
    major, minor = (int(part) for part in version.split(".")[:2])
    text = VERSION.sub(f'version = "{version}"', text, count=1)
    return SIBLING.sub(rf'"\1>={major}.{minor},<{major}.{minor + 1}"', text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version", nargs="?", help="MAJOR.MINOR.PATCH")
    parser.add_argument("--check", action="store_true", help="compare only")
    args = parser.parse_args()
    version = args.version or root_version()
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", version):
        parser.error(f"{version!r} is no version; expected MAJOR.MINOR.PATCH, perhaps with a1, b1 or rc1")
    files = [ROOT / "pyproject.toml", *sorted(ROOT.glob("packages/*/pyproject.toml"))]
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    stale = {path: with_version(text, version) for path, text in texts.items()}
    stale = {path: text for path, text in stale.items() if text != texts[path]}
    if args.check:
        for path in stale:
            print(f"{path.relative_to(ROOT)}: not of version {version}", file=sys.stderr)
        return 1 if stale else 0
    for path, text in stale.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

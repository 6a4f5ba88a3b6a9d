"""Exact versions of the root environment, as constraints in pyproject.toml: no lock file, since that names hosts.

`python scripts/pin.py` writes what `uv sync` resolved, `--upgrade` resolves the newest first, `--check` compares.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement
from uv import find_uv_bin

ROOT = Path(__file__).parents[1]
PYPROJECT = ROOT / "pyproject.toml"
BLOCK = re.compile(r"^constraint-dependencies = \[\n(?:    .*\n)*\]\n", re.MULTILINE)
OF_TORCH = re.compile(r"nvidia-.*|cuda-.*|triton")
"""What torch's own metadata asks for on a machine with CUDA: each build of torch has versions of its own."""


def without_pins(text: str) -> str:
    """pyproject.toml that leaves every version to the resolver."""
    return BLOCK.sub("constraint-dependencies = [\n]\n", text)


def resolved() -> dict[str, list[Requirement]]:
    """name -> its version, or its versions with the markers that choose one, as uv.lock holds them."""
    command = ("export", "--frozen", "--no-hashes", "--no-emit-workspace", "--no-header", "--no-annotate")
    found: dict[str, list[Requirement]] = {}
    for line in _uv(*command).splitlines():
        requirement = Requirement(line)
        if requirement.url:
            raise SystemExit(f"{requirement.name}: comes from an address; a pin names versions only")
        if not OF_TORCH.fullmatch(requirement.name):
            found.setdefault(requirement.name, []).append(requirement)
    return found


def pins(found: dict[str, list[Requirement]]) -> list[str]:
    """One line a version; a package with a single version needs no marker. Builds (`+cpu`) are left open."""
    lines = []
    for name, requirements in sorted(found.items()):
        for requirement in requirements:
            version = str(requirement.specifier).partition("+")[0]
            marker = str(requirement.marker).replace('"', "'") if len(requirements) > 1 else ""
            lines.append(f"{name}{version}" + (f" ; {marker}" if marker else ""))
    return lines


def with_pins(text: str, lines: list[str]) -> str:
    """pyproject.toml with `lines` as its constraints."""
    block = "".join(f'    "{line}",\n' for line in lines)
    changed, count = BLOCK.subn(lambda _: f"constraint-dependencies = [\n{block}]\n", text)
    if count != 1:
        raise SystemExit("pyproject.toml: expected one block `constraint-dependencies = [`")
    return changed


def _uv(*arguments: str) -> str:
    done = subprocess.run([find_uv_bin(), *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def _upgrade(text: str) -> None:
    """Resolve without pins; the file is as before if that fails."""
    PYPROJECT.write_text(without_pins(text), encoding="utf-8")
    try:
        _uv("lock", "--upgrade")
    except BaseException:
        PYPROJECT.write_text(text, encoding="utf-8")
        raise


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    parser.add_argument("--upgrade", action="store_true", help="resolve the newest versions first")
    args = parser.parse_args()
    text = PYPROJECT.read_text(encoding="utf-8")
    if args.upgrade:
        _upgrade(text)
    else:
        _uv("lock")
    wanted = with_pins(text, pins(resolved()))
    if not args.check:
        PYPROJECT.write_text(wanted, encoding="utf-8")
    elif wanted != text:
        print(
            "pyproject.toml pins other versions than uv resolves: run python scripts/pin.py", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

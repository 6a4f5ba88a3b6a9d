"""Exact versions of the root environment, as constraints in pyproject.toml: no lock file, since that names hosts.

`python scripts/pin.py` pins what uv resolves from the present pins, `--upgrade` resolves the newest versions first,
`--upgrade NAME …` only those of some packages, `--check` compares. A pre-release is pinned only by `--upgrade` of all
packages, if no final release satisfies their requirements; standard error lists it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Collection
from pathlib import Path

from packaging.requirements import Requirement
from uv import find_uv_bin

ROOT = Path(__file__).parents[1]
PYPROJECT = ROOT / "pyproject.toml"
BLOCK = re.compile(r"^constraint-dependencies = \[\n(?:    .*\n)*\]\n", re.MULTILINE)
OF_TORCH = re.compile(r"nvidia-.*|cuda-.*|triton")
"""What torch's own metadata asks for on a machine with CUDA: each build of torch has versions of its own."""


def without_pins(text: str, names: Collection[str] = ()) -> str:
    """pyproject.toml that leaves the versions of `names`, or of all packages, to the resolver."""
    if not names:
        return BLOCK.sub("constraint-dependencies = [\n]\n", text)
    lines = tomllib.loads(text)["tool"]["uv"]["constraint-dependencies"]
    if unknown := sorted(set(names) - {Requirement(line).name for line in lines}):
        raise SystemExit(f"--upgrade: no pin of {', '.join(unknown)}")
    return with_pins(text, [line for line in lines if Requirement(line).name not in names])


def resolved() -> dict[str, list[Requirement]]:
    """name -> its version, or its versions with the markers that choose one, as uv.lock holds them."""
    command = ("export", "--frozen", "--no-hashes", "--no-emit-workspace", "--no-header", "--no-annotate")
    versions: dict[str, list[Requirement]] = {}
    for line in _uv(*command).splitlines():
        requirement = Requirement(line)
        if requirement.url:
            raise SystemExit(f"{requirement.name}: requires an address; a pin names versions only")
        if not OF_TORCH.fullmatch(requirement.name):
            versions.setdefault(requirement.name, []).append(requirement)
    return versions


def pins(versions: dict[str, list[Requirement]]) -> list[str]:
    """One line a version; a package with a single version needs no marker. Builds (`+cpu`) are left open."""
    lines = []
    for name, requirements in sorted(versions.items()):
        for requirement in requirements:
            version = str(requirement.specifier).partition("+")[0]
            marker = str(requirement.marker).replace('"', "'") if len(requirements) > 1 else ""
            lines.append(f"{name}{version}" + (f" ; {marker}" if marker else ""))
    return lines


def prereleases(lines: list[str]) -> list[str]:
    """Those of `lines` that pin an alpha, beta, candidate or development version."""
    return [line for line in lines if Requirement(line).specifier.prereleases]


def with_pins(text: str, lines: list[str]) -> str:
    """pyproject.toml with `lines` as its constraints."""
    block = "".join(f'    "{line}",\n' for line in lines)
    changed, count = BLOCK.subn(lambda _: f"constraint-dependencies = [\n{block}]\n", text)
    if count != 1:
        raise SystemExit("pyproject.toml: expected one block `constraint-dependencies = [`")
    return changed


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [find_uv_bin(), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def _uv(*arguments: str) -> str:
    done = _run(*arguments)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def _lock(*options: str) -> None:
    """Resolve into uv.lock. Pre-releases are allowed only if there is no solution without them: by default uv takes
    one as soon as another version that it has chosen, or a pin, excludes the final releases.
    """
    if _run("lock", "--prerelease", "disallow", *options).returncode:
        _uv("lock", "--prerelease", "if-necessary-or-explicit", *options)


def _resolve(text: str, upgrade: Collection[str] | None) -> list[str]:
    """The pins of `text`, newest for the packages `upgrade`: no package if None, all if empty. Changes uv.lock only."""
    if upgrade is not None:
        PYPROJECT.write_text(without_pins(text, upgrade), encoding="utf-8")
    try:
        every = [] if upgrade is None else ["--upgrade"]
        _lock(*[f"--upgrade-package={name}" for name in upgrade or ()] or every)
        lines = pins(resolved())
    finally:
        PYPROJECT.write_text(text, encoding="utf-8")
    new = [line for line in prereleases(lines) if f'"{line}"' not in text]
    if new and upgrade != []:
        raise SystemExit(
            f"{', '.join(new)}: a pre-release; the pins exclude all final releases. `--upgrade NAME …` releases pins"
        )
    for line in new:
        print(f"{line}: a pre-release; no final release satisfies all requirements", file=sys.stderr)
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare only")
    parser.add_argument(
        "--upgrade", nargs="*", metavar="NAME", help="resolve the newest versions first, of NAME or of all"
    )
    args = parser.parse_args()
    text = PYPROJECT.read_text(encoding="utf-8")
    wanted = with_pins(text, _resolve(text, args.upgrade))
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

"""Everything that must hold before packages are published: `python scripts/release_check.py [--out DIST]`.

Wheels and sdists are built twice and compared, checked by twine and check-wheel-contents, searched for what they must
hold, and installed alone and together in empty environments. pip-audit reports vulnerabilities where it has a network.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path

from uv import find_uv_bin

from wheel_content import faults_of_wheel

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
EPOCH = "315532800"  # 1980-01-01, the first day that a zip file can name
UNREACHABLE = (
    "ConnectionError",
    "Max retries",
    "NameResolution",
    "ServiceError",
    "timed out",
    "SSLError",
    "HTTPError",
)


class Failed(Exception):
    """A check that does not hold; the message says why."""


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """The output of a command that must succeed."""
    arguments = [str(part) for part in command]
    full = os.environ | {"SOURCE_DATE_EPOCH": EPOCH} | (env or {})
    done = subprocess.run(arguments, cwd=ROOT, env=full, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(arguments[:4])} …\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def uv(*arguments: str | Path) -> str:
    return run(find_uv_bin(), *arguments)


def build(folder: Path) -> dict[str, str]:
    """File name -> sha256 of the wheels and sdists of all packages, built into `folder`."""
    for package in PACKAGES:
        uv("build", "--quiet", "--out-dir", folder, package)
    archives = sorted([*folder.glob("*.whl"), *folder.glob("*.tar.gz")])
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in archives}


def check_builds(out: Path) -> str:
    first = build(out)
    with tempfile.TemporaryDirectory() as folder:
        second = build(Path(folder))
    differ = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    if differ or len(first) != 2 * len(PACKAGES):
        raise Failed(f"built twice, not the same bytes: {', '.join(differ) or first.keys()}")
    return f"{len(first)} archives, the same bytes twice"


def check_twine(out: Path) -> str:
    uv("tool", "run", "twine", "check", "--strict", *sorted(out.glob("*.whl")), *sorted(out.glob("*.tar.gz")))
    return "twine check --strict"


def check_contents(out: Path) -> str:
    uv("tool", "run", "check-wheel-contents", *sorted(out.glob("*.whl")))
    return "check-wheel-contents"


def check_files(out: Path) -> str:
    faults = [fault for wheel in sorted(out.glob("*.whl")) for fault in faults_of_wheel(wheel)]
    if faults:
        raise Failed("\n".join(faults))
    return "license, py.typed, metadata and bill of materials in each wheel"


def check_vulnerabilities(out: Path) -> str:
    """Of the pinned versions, by pip-audit; what its service does not know is told and is no failure."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        pins, report = Path(folder) / "pins.txt", Path(folder) / "report.json"
        pins.write_text("\n".join(tomllib.loads(text)["tool"]["uv"]["constraint-dependencies"]))
        options = ("--no-deps", "--disable-pip", "--progress-spinner", "off", "-f", "json", "-o", report)
        try:
            uv("tool", "run", "pip-audit", *options, "-r", pins)
        except Failed as error:
            if any(word in str(error) for word in UNREACHABLE):
                return "pip-audit: NOT CHECKED, its service can't be reached from here"
            raise
        entries = json.loads(report.read_text(encoding="utf-8"))["dependencies"]
    skipped = [entry["name"] for entry in entries if "skip_reason" in entry]
    if len(skipped) == len(entries):
        return (
            f"pip-audit: NOT CHECKED, its service knows none of the {len(entries)} pinned versions from here"
        )
    unknown = f"; not checked: {', '.join(skipped)}" if skipped else ""
    return f"pip-audit: no known vulnerability in {len(entries) - len(skipped)} pinned versions{unknown}"


def check_installs(out: Path) -> str:
    tests = ("-q", "-n", "0", "-m", "slow", "tests/packaging/test_wheels.py")
    run(sys.executable, "-m", "pytest", *tests, env={"VLM_WHEELS": str(out)})
    return "each wheel alone and all together in empty environments"


CHECKS: dict[str, Callable[[Path], str]] = {
    "builds": check_builds,
    "twine": check_twine,
    "contents": check_contents,
    "files": check_files,
    "vulnerabilities": check_vulnerabilities,
    "installs": check_installs,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "dist", help="folder for the archives, default dist"
    )
    parser.add_argument(
        "--skip", action="append", default=[], choices=list(CHECKS)[1:], help="leave a check out"
    )
    args = parser.parse_args()
    out = args.out.resolve()
    if out.exists() and any(out.iterdir()):
        parser.error(f"{out}: exists and is not empty")
    out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name, check in CHECKS.items():
        if name in args.skip:
            print(f"skipped  {name}", flush=True)
            continue
        try:
            print(f"ok       {check(out)}", flush=True)
        except Failed as error:
            failed += 1
            print(f"FAILED   {name}: {error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())

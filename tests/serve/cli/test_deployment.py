"""The Dockerfile and the systemd unit: they are built elsewhere, so what they name is looked up here."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from vlm_serve.api.guard.settings import ServerSettings
from vlm_serve.cli.options import build_parser, settings_of

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "packages/vlm-serve/deploy"
UNIT = DEPLOY / "vlm-serve.service"


def instructions():
    """(keyword, rest) of the Dockerfile, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def service():
    parser = configparser.ConfigParser(interpolation=None, delimiters="=", strict=True)
    parser.optionxform = str
    parser.read_string(UNIT.read_text())
    return parser


def test_the_dockerfile_has_known_instructions():
    known = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "RUN"}
    known |= {"STOPSIGNAL", "USER", "WORKDIR"}
    words = [word for word, _ in instructions()]
    assert set(words) <= known
    assert words.count("FROM") == 2
    assert words[-2:] == ["ENTRYPOINT", "CMD"]


def test_the_image_copies_what_exists():
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    copies = [rest.split() for word, rest in instructions() if word == "COPY"]
    for *sources, _ in [words for words in copies if not words[0].startswith("--from")]:
        for source in sources:
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored, "the build's context holds it"


def test_the_image_installs_packages_and_extras_of_the_repository():
    text = " ".join(rest for word, rest in instructions() if word == "RUN")
    wanted = re.findall(r"\./packages/([\w-]+)(?:\[([\w,-]+)\])?", text)
    assert {name for name, _ in wanted} >= {
        "vlm-serve",
        "vlm-core",
        "vlm-llms",
        "vlm-encoders",
        "vlm-connectors",
    }
    for name, extras in wanted:
        project = tomllib.loads((ROOT / "packages" / name / "pyproject.toml").read_text())["project"]
        assert set(filter(None, extras.split(","))) <= set(project.get("optional-dependencies", {}))


def test_the_pins_of_the_image_are_those_of_the_repository():
    [code] = [rest for word, rest in instructions() if word == "RUN" and "constraint-dependencies" in rest]
    program = shlex.split(code.partition(" > ")[0])
    done = subprocess.run(program, cwd=ROOT, check=True, capture_output=True, text=True)
    names = {Requirement(line).name for line in done.stdout.splitlines()}
    assert {"torch", "uvicorn", "starlette"} <= names


def test_the_image_starts_the_command_as_another_user():
    values = dict(instructions())
    assert values["USER"] == "10001"
    assert json.loads(values["ENTRYPOINT"]) == ["vlm-serve"]
    settings = settings_of(build_parser().parse_args(json.loads(values["CMD"])))
    assert (settings.host, settings.port) == ("0.0.0.0", int(values["EXPOSE"]))
    assert settings.needs_key
    check = json.loads(values["HEALTHCHECK"].partition("CMD ")[2])
    compile(check[2], "health check", "exec")


def test_the_unit_starts_the_command():
    words = shlex.split(service()["Service"]["ExecStart"])
    assert Path(words[0]).name == "vlm-serve"
    settings = settings_of(build_parser().parse_args(words[1:]))
    assert settings.needs_key
    assert settings.host == ServerSettings.model_fields["host"].default
    assert int(service()["Service"]["TimeoutStopSec"]) > settings.grace + 5, "systemd waits for the answers"


def test_systemd_accepts_the_unit(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    text = (
        UNIT.read_text().replace("/opt/vlm/bin/vlm-serve", "/bin/true").replace("User=vlm-serve", "User=root")
    )
    copy = tmp_path / UNIT.name
    copy.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert str(copy) not in done.stderr, done.stderr

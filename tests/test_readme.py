"""The root README: every block runs, and what it shows is what the tools print.

The blocks `train` and `test` are run by `.ci/run` as they stand; the model that `use` talks to is assembled
here without training, and trained there.
"""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from blocks import Block, blocks, check_fragment, run_bash

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
MARK = re.compile(r"<!-- run: (\w+) -->\n```bash\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a clone holds besides code."""
    path = tmp_path_factory.mktemp("clone")
    for name in ("specs", "docs/img", "examples/own-data"):
        shutil.copytree(ROOT / name, path / name)
    return path


@pytest.fixture(scope="module")
def assembled(folder):
    """The same with the quickstart's model, not trained."""
    assemble = "vlm-assemble specs/quickstart.yaml --out runs/quickstart/model"
    run_bash(Block("bash", "", assemble, 0), folder)
    return folder


def marked():
    return dict(MARK.findall(README.read_text(encoding="utf-8")))


def run(name, folder):
    """A marked block in `folder`; `uv run` would make a second environment, so this one's commands stand in."""
    block = next(b for b in blocks(README) if b.text == marked()[name])
    text = re.sub(r"^uv run ", "", block.text, flags=re.MULTILINE)
    return run_bash(replace(block, text=text), folder)


def test_every_command_is_marked_and_run():
    """No block stands in the README that neither `.ci/run` nor this file runs."""
    commands = [b.text for b in blocks(README) if b.language == "bash"]
    assert commands == list(marked().values())
    script = (ROOT / ".ci/run").read_text()
    assert set(marked()) == {"train", "test", "use", "state", "serve", "own"}
    assert all(f"$(block {name})" in script for name in ("train", "test", "use", "state", "serve"))


def test_the_main_job_is_the_quickstart():
    assert marked()["train"] == "pip install uv\nuv run vlm-train run specs/quickstart.yaml\n"
    assert marked()["test"] == "uv run pytest\n"


@pytest.mark.slow
def test_state(assembled):
    run("state", assembled)
    assert (assembled / "runs/talk.state").stat().st_size < 2**20, "a few hundred kilobytes"


@pytest.mark.slow
def test_serve(assembled):
    """The command line's request, and the official client's while the server runs."""
    python = next(b for b in blocks(README) if b.language == "python" and "openai" in b.text)
    (assembled / "ask.py").write_text(python.text)
    block = marked()["serve"].replace("kill %1;", "python ask.py; kill %1;")
    assert block != marked()["serve"]
    out = run_bash(Block("bash", "", re.sub(r"^uv run ", "", block, flags=re.MULTILINE), 0), assembled)
    assert '"object":"chat.completion"' in out.replace(" ", "")


@pytest.mark.slow
def test_use(assembled):
    out = run("use", assembled)
    assert "vss-l2" in out
    assert "27×27 = 729 patches of width 1152" in out
    shown = [b.text for b in blocks(README) if b.language == "" and "parameters" in b.text]
    assert shown, "the README shows the arithmetic"
    for line in shown[0].splitlines():
        assert " ".join(line.split()) in " ".join(out.split()), line


@pytest.mark.slow
def test_own_pictures(folder):
    out = run("own", folder)
    assert "held-out accuracy" in out
    assert (folder / "runs/own-data/samples.png").stat().st_size > 1000


def test_fragments_of_specs_are_valid(tmp_path):
    for block in blocks(README):
        if block.language == "yaml":
            check_fragment(block, tmp_path)


def test_the_error_it_shows_is_the_real_one(tmp_path):
    from vlm_core.errors import SpecError
    from vlm_core.spec.spec import load_spec

    (shown,) = [b.text.strip() for b in blocks(README) if b.text.startswith("specs/mine.yaml:")]
    file = tmp_path / "mine.yaml"
    file.write_text(
        "encoder: {type: timm, model: x}\nconnector: {type: vss-l2, scan: bms}\nllm: {type: mamba, weights: x}\n"
    )
    with pytest.raises(SpecError) as caught:
        load_spec(file)
    assert str(caught.value).replace(str(file), "specs/mine.yaml") == shown


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target

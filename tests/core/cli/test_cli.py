"""The command lines as people type them: output, exit codes, one short message for each mistake."""

import argparse
import io
import json
import os
import signal
import subprocess
import sys

import pytest
import yaml
from PIL import Image

from vlm_core.cli import assemble, chat
from vlm_core.cli.common import count


@pytest.fixture
def spec_file(tiny_spec, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_spec))
    return path


def test_check_prints_the_arithmetic_and_writes_nothing(cli, spec_file):
    code, out, err = cli(assemble.main, spec_file, "--check")
    assert (code, err) == (0, "")
    assert "2×2 = 4 patches of width 16 → 4 visual tokens of width 16" in out
    assert [p.name for p in spec_file.parent.iterdir()] == ["tiny.yaml"]


def test_assemble_writes_a_model_that_chats(cli, spec_file, tmp_path):
    Image.radial_gradient("L").save(tmp_path / "x.png")
    code, out, _ = cli(assemble.main, spec_file, "--out", tmp_path / "m")
    assert code == 0
    assert f"model folder: {tmp_path / 'm'}" in out
    asked = ["--image", tmp_path / "x.png", "--ask", "is there a circle?", "--max-new-tokens", 5]
    code, out, err = cli(chat.main, tmp_path / "m", *asked)
    told = [line for line in err.splitlines() if not line.startswith("vlm-core: compiling the kernel")]
    assert (code, told) == (0, [])
    assert out.endswith("\n")


def test_interactive_chat(cli, tiny_folder, tmp_path, monkeypatch):
    Image.radial_gradient("L").save(tmp_path / "x.png")
    typed = ["is there a circle?", "/image none.png", "/help", "/nwe", "/new", "red?", "/quit"]
    typed = [f"/image {tmp_path}/x.png", *typed]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in typed)))
    code, out, err = cli(chat.main, tiny_folder, "--max-new-tokens", 3)
    assert code == 0
    assert "none.png: no such image file" in err, "a wrong path does not end the conversation"
    assert out.count("/image FILE … and /video FILE … add images and videos") == 3
    assert "/nwe: unknown command or wrong arguments" in out


def test_end_of_input_ends_the_chat(cli, tiny_folder, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert cli(chat.main, tiny_folder)[0] == 0


def test_schema_and_list(cli):
    code, out, _ = cli(assemble.main, "--schema")
    assert code == 0
    assert "connector" in json.loads(out)["properties"]
    code, out, _ = cli(assemble.main, "--list")
    assert code == 0
    rows = {tuple(line.split()[:4]): line.split()[4:] for line in out.splitlines()}
    assert ("scan", "csm", "vlm-connectors", "0.1.0") in rows
    folder, editable = rows["connector", "vss-l2", "vlm-connectors", "0.1.0"]
    assert (folder.rsplit("/", 2)[1:], editable) == (["packages", "vlm-connectors"], "(editable)")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "name a spec"),
        (["none.yaml"], "none.yaml: cannot read this spec"),
        (["{spec}", "--out", "{dir}"], "exists already"),
        (["{spec}", "--set", "connector.scan=bms"], "did you mean 'bsm'?"),
        (["{spec}", "--set", "llm.d_model=99999999"], "llm.d_model: got 99999999"),
        (["{spec}", "--set", "encoder.model=vit_tinny_patch16_224"], "nearest: vit_tiny_patch16_224"),
        (["{spec}", "--set", "llm.tokenizer.dataset.path=none.json"], "none.json: no such data file"),
        (["{spec}", "--check", "--out", "x"], "--out has no effect with --check"),
        (["{spec}", "--with-code"], "--with-code needs --export-hf"),
        (
            ["{spec}", "--export-hf", "x", "--dtype", "bfloat16", "--set", "a=1"],
            "--dtype and --set has no effect",
        ),
    ],
)
def test_assemble_mistakes(cli, spec_file, tmp_path, args, message):
    code, _, err = cli(assemble.main, *(a.format(spec=spec_file, dir=tmp_path) for a in args))
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["none"], "no such model folder"),
        (["{dir}"], "not a model folder"),
        (["{model}", "--image", "none.png", "--ask", "x"], "none.png: no such image file"),
        (["{model}", "--image", "{dir}/text.png", "--ask", "x"], "not an image"),
        (["{model}", "--top-p", "0"], "--top-p 0.0: expected"),
        (["{model}", "--temperature", "nan"], "--temperature nan: expected"),
        (
            ["{model}", "--max-new-tokens", "0"],
            "--max-new-tokens: expected a whole number from 1 to 2147483647, got '0'",
        ),
        (
            ["{model}", "--max-new-tokens", "9" * 30],
            "--max-new-tokens: expected a whole number from 1 to 2147483647",
        ),
        (["{model}", "--seed", "9" * 30], "--seed: expected a whole number from 0 to 9223372036854775807"),
        (["{model}", "--device", "warp", "--ask", "x"], "device 'warp' cannot be used"),
    ],
)
def test_chat_mistakes(cli, tiny_folder, tmp_path, args, message):
    (tmp_path / "text.png").write_text("no image")
    code, _, err = cli(chat.main, *(a.format(model=tiny_folder, dir=tmp_path) for a in args))
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_a_connector_of_the_wrong_width_is_refused(tiny_spec):
    from vlm_connectors.configs import MLPConfig
    from vlm_core.diagnose.model_summary import summarize
    from vlm_core.errors import UserError
    from vlm_core.spec.spec import Spec

    class Narrow(MLPConfig):
        def build(self, d_in, d_out):
            return super().build(d_in, d_out - 1)

    spec = Spec.model_validate(tiny_spec).model_copy(update={"connector": Narrow()})
    with pytest.raises(UserError, match=r"gives \(4, 15\) .* of the language model's width 16"):
        summarize(spec)


def test_debug_shows_the_traceback(spec_file):
    code = (
        "import sys; from vlm_core.cli.assemble import main; sys.argv[1:] = ['none.yaml', '--debug']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Traceback" in done.stderr


def test_an_unforeseen_error_is_short_and_says_so(cli, monkeypatch):
    monkeypatch.setattr("vlm_core.cli.assemble.list_components", lambda: 1 / 0)
    code, _, err = cli(assemble.main, "--list")
    assert code == 70
    assert "internal error: ZeroDivisionError" in err
    assert "Traceback" not in err


def test_a_file_that_fails_is_no_bug(cli, monkeypatch):
    monkeypatch.setattr("vlm_core.cli.assemble.list_components", lambda: os.listdir("/proc/self/mem/x"))
    code, _, err = cli(assemble.main, "--list")
    assert (code, err) == (2, "vlm-assemble: /proc/self/mem/x: Not a directory\n")


@pytest.mark.parametrize("text", ["0", "²", "-1", "1.0", "", "2147483648", "9" * 5000])
def test_counts_on_a_command_line(text):
    assert count("2147483647") == 2**31 - 1
    with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number from 1 to"):
        count(text)


SET = [
    "a.².b=1",
    "name=" + "9" * 5000,
    'name="\\U00110000"',
    "name=\ud800",
    "llm.n_layer=1e400",
    "llm.d_model=.inf",
    "llm=!!python/object:os.system",
    "encoder.image_size=" + "9" * 400,
    "name={a: &a [*a]}",
    "llm." * 500 + "x=1",
    "encoder.model=~nobody-here/x",
    "encoder.model=" + "x" * 5000,
    "train.output=~nobody-here",
    "=",
    "name",
    ".=1",
]


@pytest.mark.parametrize("text", SET, ids=lambda text: text[:20].encode("ascii", "backslashreplace").decode())
def test_hostile_overrides_are_short_errors(cli, spec_file, text):
    code, out, err = cli(assemble.main, spec_file, "--check", "--set", text)
    assert (code, out) == (2, "")
    assert err.startswith("vlm-assemble: --set ") or "--set" in err
    assert len(err) < 1500


def test_a_closed_pipe_is_no_bug_and_no_success():
    """The reader is gone before the first byte is written, so nothing depends on who is quicker."""
    code = "import sys; from vlm_core.cli.assemble import main; sys.argv[1:] = ['--schema']; sys.exit(main())"
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="a signal of POSIX")
def test_a_crash_below_python_says_its_signal_and_place():
    """As when a file that a library has mapped is cut short."""
    code = (
        "import os, signal; from vlm_core.cli.common import Parser, run\n"
        "run(Parser(), lambda args: os.kill(os.getpid(), signal.SIGBUS), [])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGBUS
    assert done.stderr.startswith("Fatal Python error: Bus error")
    assert 'File "<string>", line 2' in done.stderr


def test_an_unknown_name_of_ours_has_its_package():
    """The hint `pip install …` covers every component of our packages."""
    from vlm_core.plugins.registry import _PACKAGES, installed

    ours = {"vlm-encoders", "vlm-connectors", "vlm-llms", "vlm-train", "vlm-bench"}
    listed = {(e.kind, e.name, e.distribution) for e in installed().all() if e.distribution in ours}
    assert listed == {(kind, name, package) for kind, of in _PACKAGES.items() for name, package in of.items()}

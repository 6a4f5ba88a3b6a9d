"""`vlm-bench run --url`: the answers of a server, equal to those of the same model in this process."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_stub import Stub, running
from commands import FAST, Out, refused, rows, said
from live_server import live_server
from lively_model import save_lively
from PIL import Image
from starlette.responses import JSONResponse, Response

from vlm_bench.cli.main import main
from vlm_bench.run import served_model
from vlm_core.remote import Retries
from vlm_serve.api.app import create_app
from vlm_serve.api.guard.settings import ServerSettings
from vlm_serve.engine.local import LocalEngine
from vlm_serve.engine.settings import EngineSettings

pytestmark = pytest.mark.usefixtures("one_thread")
Runner = Callable[..., list[str]]


@pytest.fixture
def stub() -> Stub:
    return Stub(answer=lambda body: " Yes ")


@pytest.fixture
def url(stub: Stub) -> Iterator[str]:
    with running(stub.app) as address:
        yield address


@pytest.fixture
def ask(url: str, data: Path, tmp_path: Path) -> Runner:
    def made(names: str = "pope", *flags: str, out: str = "out") -> list[str]:
        where = ["--data", str(data), "--out", str(tmp_path / out)]
        return ["run", "--url", url, "--benchmarks", names, *where, *FAST, *flags]

    return made


def failed(capsys: Out, command: list[str]) -> str:
    """What a command prints on stderr that fails after its first message."""
    assert main(command) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return err


def metadata(folder: Path, name: str = "pope") -> dict[str, Any]:
    return json.loads((folder / f"{name}.jsonl.run.json").read_text())


def test_questions_are_asked_greedily_with_the_files_of_the_images(
    ask: Runner, stub: Stub, data: Path, tmp_path: Path, capsys: Out
) -> None:
    assert main(ask()) == 0
    assert set(said(tmp_path / "out", "pope").values()) == {"Yes"}
    assert len(stub.requests) == 6
    body = stub.requests[0]
    assert {k: v for k, v in body.items() if k != "messages"} == {
        "model": "tiny",
        "temperature": 0,
        "max_tokens": 3,
    }
    assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url", "text"]
    assert str(data) not in json.dumps(stub.requests), "no path leaves the machine"
    assert stub.most_at_once <= served_model.CONCURRENCY
    about = metadata(tmp_path / "out")
    assert about["model"] == about["model name"] == about["served model"] == "tiny"
    assert about["model sha256"] == "ab" * 32
    assert "dtype" not in about
    assert "weights" not in capsys.readouterr().err
    assert main(ask()) == 0
    assert len(stub.requests) == 6, "all answers exist already"


def test_a_server_gives_the_answers_of_the_same_model_in_this_process(
    data: Path, tiny_spec: dict[str, Any], tmp_path: Path
) -> None:
    """Greedy, with and without images, several at once: nothing is silently different."""
    folder = save_lively(tiny_spec, tmp_path / "lively")
    for number, path in enumerate(sorted([*data.rglob("*.png"), *data.rglob("*.jpg")])):
        Image.new("RGB", (48, 32), (15 * number % 256, 200, 90)).save(path)
    settings = ServerSettings(model=folder)
    engine = LocalEngine.load(folder, EngineSettings(slots=3))
    names = ["gqa", "mmbench", "scienceqa", "textvqa"]
    common = [
        "--benchmarks",
        ",".join(names),
        "--data",
        str(data),
        "--max-new-tokens",
        "6",
        "--baselines",
        "question-alone",
    ]
    assert main(["run", str(folder), *common, "--out", str(tmp_path / "here")]) == 0
    with live_server(create_app(engine, settings), settings) as (host, port):
        command = ["run", "--url", f"http://{host}:{port}", *common, "--out", str(tmp_path / "there")]
        assert main(command) == 0
    files = [name + baseline for name in names for baseline in ("", ".question-alone")]
    for name in files:
        assert said(tmp_path / "here", name) == said(tmp_path / "there", name), name
    assert len({text for name in files for text in said(tmp_path / "here", name).values()}) > 5
    assert metadata(tmp_path / "there", "gqa")["model sha256"] == engine.facts().digest


def test_weights_that_are_not_known_are_told(
    ask: Runner, stub: Stub, url: str, tmp_path: Path, capsys: Out
) -> None:
    """In the output, in the report, and in what a resumed run must have in common."""
    stub.models = [{"id": "someone/model"}]
    assert main(ask()) == 0
    warning = "the weights are not known: the server gives no digest of them"
    out, err = capsys.readouterr()
    assert warning in err
    assert warning in out
    assert warning in json.loads((tmp_path / "out/pope.json").read_text())["warnings"]
    assert metadata(tmp_path / "out")["served model"] == f"someone/model at {url}/v1"
    with running(stub.app) as other:
        command = [other if part == url else part for part in ask()]
        assert f"served model: someone/model at {url}/v1 before, someone/model at {other}/v1 now" in refused(
            capsys, *command
        )
    stub.models = [{"id": "someone/model", "digest": "cd" * 32}]
    assert "model sha256: None before, cdcdcdcdcdcd now" in refused(capsys, *ask())


def test_a_model_that_changes_meanwhile_is_an_error(
    ask: Runner, stub: Stub, tmp_path: Path, capsys: Out
) -> None:
    def answer(body: dict[str, Any]) -> str:
        stub.models = [{"id": "tiny", "digest": "cd" * 32}]
        return "yes"

    stub.answer = answer
    assert (
        "the model tiny has changed while it was asked: digest abababababab before, cdcdcdcdcdcd now"
        in failed(capsys, ask())
    )
    assert not (tmp_path / "out/pope.jsonl").exists()


def test_a_run_resumes_after_the_server_has_gone(
    ask: Runner, stub: Stub, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Retries, "__call__", lambda self, request: request())

    def answer(body: dict[str, Any]) -> str | Response:
        return "yes" if len(stub.requests) < 4 else JSONResponse({"error": "starting"}, 503)

    stub.answer = answer
    err = failed(capsys, ask("pope", "--concurrency", "1"))
    assert "is overloaded, or starts or ends (503): starting" in err
    assert "rerun the same command to resume: all answers so far are kept" in err
    assert len(rows(tmp_path / "out/pope.part-0.jsonl")) == 3
    stub.answer = lambda body: "yes"
    assert main(ask()) == 0, "another concurrency gives the same answers"
    assert "pope: 3 of 6 answers exist already" in capsys.readouterr().err
    assert len(stub.requests) == 4 + 3


def test_refused_questions(ask: Runner, stub: Stub, tmp_path: Path, capsys: Out) -> None:
    """As an image that can't be read: an error, or with --allow-partial left out and counted."""

    def answer(body: dict[str, Any]) -> str | Response:
        refused_now = len(stub.requests) == next_refusal[0]
        return JSONResponse({"error": {"message": "too long"}}, 400) if refused_now else "yes"

    next_refusal = [1]
    stub.answer = answer
    err = failed(capsys, ask("pope", "--concurrency", "1"))
    assert "question" in err
    assert "the server refuses this request (400): too long" in err
    next_refusal[0] = len(stub.requests) + 1
    assert main(ask("pope", "--concurrency", "1", "--allow-partial")) == 0
    assert metadata(tmp_path / "out")["left out"] == {"refused by the server": 1}
    assert len(said(tmp_path / "out", "pope")) == 5


def test_baselines_are_asked_too(ask: Runner, stub: Stub, data: Path, tmp_path: Path) -> None:
    assert main(ask("pope", "--baselines", "question-alone")) == 0
    alone = stub.requests[6:]
    assert len(alone) == 6
    assert all(isinstance(body["messages"][0]["content"], str) for body in alone)
    assert len(said(tmp_path / "out", "pope.question-alone")) == 6
    assert json.loads((tmp_path / "out/pope.json").read_text())["baselines"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--device", "cpu"], "--device: it is for a model in this process, not for --url"),
        (["--batch-size", "1"], "--batch-size: it is for a model in this process"),
        (["--no-prefix-reuse"], "--no-prefix-reuse: it is for a model"),
        (["--state-cache", "x"], "--state-cache: it is for a model"),
        (["--model", "other"], "no such model or address (404): no model 'other'"),
        (["model"], "model: a model folder, and --url names a server"),
    ],
)
def test_refused_options(ask: Runner, capsys: Out, flags: list[str], message: str) -> None:
    assert message in failed(capsys, ask("pope", *flags))


def test_options_for_a_server_alone(tiny_folder: Path, data: Path, capsys: Out) -> None:
    command = ["run", str(tiny_folder), "--benchmarks", "pope", "--data", str(data)]
    assert "--concurrency is for --url" in refused(capsys, *command, "--concurrency", "2")
    assert "--model is for --url, which is not given" in refused(capsys, *command, "--model", "x")


def test_several_processes_are_refused(ask: Runner, capsys: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "RANK": 0,
        "WORLD_SIZE": 2,
        "LOCAL_RANK": 0,
        "MASTER_ADDR": "x",
        "MASTER_PORT": 1,
    }.items():
        monkeypatch.setenv(name, str(value))
    assert "--url: one process asks a server" in refused(capsys, *ask())


def test_any_name_of_a_server_is_a_folder(
    url: str, stub: Stub, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stub.models = [{"id": "../some one/model"}]
    assert main(["run", "--url", url, "--benchmarks", "pope", "--data", str(data), *FAST]) == 0
    assert (tmp_path / "bench/-some-one-model/pope.json").is_file()

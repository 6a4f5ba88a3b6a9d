"""MM-Vet's judge against an OpenAI-compatible server that this test runs: grades, failures, resuming."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from commands import Out, answers, printed, refused, scored

SAID = {0: "x = -1", 1: "a dog", 2: "on the left"}


class Judge(ThreadingHTTPServer):
    """Answers by `replies`: part of a prompt -> replies one after the other; a number is a status, bytes a body."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[dict[str, Any]] = []
        self.replies: dict[str, list[Any]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def reply(self, prompt: str) -> Any:
        last = prompt.split("\n\n")[-1]
        queue = next((q for part, q in self.replies.items() if part in last), [])
        return (queue.pop(0) if len(queue) > 1 else queue[0]) if queue else "1.0"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        judge = self.server
        assert isinstance(judge, Judge)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        judge.asked.append(body)
        reply = judge.reply(body["messages"][0]["content"])
        failed, whole = isinstance(reply, int), isinstance(reply, bytes)
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": reply}}
        done = {"id": "1", "object": "chat.completion", "created": 0, "model": "judge-1", "choices": [choice]}
        content = reply if whole else json.dumps({"error": {"message": "no"}} if failed else done).encode()
        self.send_response(reply if failed else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("x-should-retry", "false")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Judge]:
    for name in ("OPENAI_API_KEY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Judge()
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def command(data: Path, judge: Judge, grades: Path, *more: str, said: dict[int, str] = SAID) -> list[Any]:
    prompt = grades.parent / "prompt.txt"
    prompt.write_text("Grade from 0 to 1, as here: q | a | a | 1.0\n")
    flags = [
        "--data",
        data,
        "--answers",
        answers(grades.parent, said),
        "--grades",
        grades,
        "--prompt",
        prompt,
    ]
    return ["judge", "mm-vet", *flags, "--base-url", judge.url, "--judge-model", "judge", *more]


def test_grades_and_their_score(data: Path, tmp_path: Path, capsys: Out, judge: Judge) -> None:
    judge.replies = {"a dog": ["0.5"], "left": ["0.0 of it"]}
    file = tmp_path / "g.json"
    assert "3 grades by judge, 0 reused, 0 failed" in printed(capsys, *command(data, judge, file))
    first = judge.asked[0]
    assert (first["model"], first["temperature"], first["max_tokens"]) == ("judge", 0.0, 3)
    assert first["messages"][0]["content"].endswith("\nWhat is x? | -1 <AND> -5 | x = -1 | ")
    report = scored(capsys, "score", "mm-vet", "--data", data, "--grades", file)
    assert report["score"] == pytest.approx(0.5)
    assert report["notes"]["judge"] == "judge-1"  # who answered, as it names itself


def test_only_what_is_missing_is_asked_again(data: Path, tmp_path: Path, capsys: Out, judge: Judge) -> None:
    file = tmp_path / "g.json"
    judge.replies = {"a dog": [400]}
    out = printed(capsys, *command(data, judge, file), code=1)
    assert "2 grades by judge, 0 reused, 1 failed (unscored)" in out
    assert "v1_1: BadRequestError" in out
    assert set(json.loads(file.read_text())) == {"v1_0", "v1_2"}  # a failed call is no grade of 0
    err = refused(capsys, "score", "mm-vet", "--data", data, "--grades", file)
    assert "1 question of 3 without an answer, first id v1_1" in err
    judge.replies, judge.asked = {}, []
    assert "1 grades by judge, 2 reused" in printed(capsys, *command(data, judge, file))
    assert len(judge.asked) == 1
    assert "3 grades by judge, 3 reused" in printed(capsys, *command(data, judge, file, "--runs", "2"))
    assert {len(grade["score"]) for grade in json.loads(file.read_text()).values()} == {2}


def test_a_reply_that_is_no_grade_is_asked_again(
    data: Path, tmp_path: Path, capsys: Out, judge: Judge
) -> None:
    judge.replies = {"a dog": ["Well", "hm", "0.7"], "left": ["never"]}
    file = tmp_path / "g.json"
    out = printed(capsys, *command(data, judge, file), code=1)
    assert "v1_2: no reply was a grade from 0 to 1, the last was 'never'" in out
    assert json.loads(file.read_text())["v1_1"]["score"] == [0.7]
    hot = [
        body["temperature"]
        for body in judge.asked
        if "left" in body["messages"][0]["content"].split("\n\n")[-1]
    ]
    assert hot == [0.0, 0.0, 0.5, 1.0, 1.5]
    again = judge.asked[2]["messages"][0]["content"]
    assert again.endswith("\nPredict the correctness of the answer (digit): ")


def test_grades_of_other_answers_are_refused(data: Path, tmp_path: Path, capsys: Out, judge: Judge) -> None:
    file = tmp_path / "g.json"
    printed(capsys, *command(data, judge, file))
    err = refused(capsys, *command(data, judge, file, said=SAID | {1: "a cat"}))
    assert "1 of 3 grades are of other answers, first v1_1" in err


def test_grades_that_cannot_be_read_are_not_asked_for_again_unasked(
    data: Path, tmp_path: Path, capsys: Out, judge: Judge
) -> None:
    """They cost money; an empty file has none."""
    file = tmp_path / "g.json"
    file.touch()
    assert "3 grades by judge, 0 reused" in printed(capsys, *command(data, judge, file))
    whole = file.read_bytes()
    for damaged in (whole[:-40], whole.replace(b'"score"', b'"scorf"', 1), b"\xff", b"{}", b"[]"):
        file.write_bytes(damaged)
        err = refused(capsys, *command(data, judge, file))
        assert "g.json" in err
        assert "restore it from a copy, or remove it to have all answers graded again" in err
    file.unlink()
    file.mkdir()
    assert "g.json: a folder; name the file of the grades" in refused(capsys, *command(data, judge, file))
    assert len(judge.asked) == 3


def test_a_judge_that_refuses_stops_at_once(data: Path, tmp_path: Path, capsys: Out, judge: Judge) -> None:
    judge.replies = {"": [401]}
    err = refused(capsys, *command(data, judge, tmp_path / "g.json"))
    assert "the judge 'judge' refuses" in err
    assert len(judge.asked) == 1
    assert not (tmp_path / "g.json").exists()


def test_what_a_judge_needs(data: Path, tmp_path: Path, capsys: Out, judge: Judge) -> None:
    said = answers(tmp_path, SAID)
    prompt = tmp_path / "prompt.txt"
    flags = ["judge", "mm-vet", "--data", data, "--answers", said, "--prompt", prompt]
    assert "--grades is needed" in refused(capsys, *flags)
    flags += ["--grades", tmp_path / "g.json"]
    assert "prompt.txt: cannot read this file" in refused(capsys, *flags)
    prompt.write_text("Grade from 0 to 1.\n")
    assert "OPENAI_API_KEY is not set" in refused(capsys, *flags)
    (data / "mm-vet/mm-vet.json").unlink()
    assert "a judge needs the right answers" in refused(capsys, *flags)


def graded(data: Path, folder: Path, capsys: Out, judge: Judge) -> list[Any]:
    """The command that scores three graded answers."""
    printed(capsys, *command(data, judge, folder / "g.json"))
    return ["score", "mm-vet", "--data", data, "--grades", folder / "g.json", "--answers"]


def test_a_score_refuses_grades_of_other_answers(
    data: Path, tmp_path: Path, capsys: Out, judge: Judge
) -> None:
    flags = graded(data, tmp_path, capsys, judge)
    assert scored(capsys, *flags, answers(tmp_path, SAID))["warnings"] == []
    err = refused(capsys, *flags, answers(tmp_path, SAID | {1: "a cat"}), "--allow-partial")
    assert "g.json: 1 of 3 grades are of other answers, first v1_1" in err
    grades = json.loads((tmp_path / "g.json").read_text())
    for grade in grades.values():  # as the official script writes them
        del grade["answer"], grade["asked"], grade["judge"]
    (tmp_path / "g.json").write_text(json.dumps(grades))
    (warning,) = scored(capsys, *flags, answers(tmp_path, SAID))["warnings"]
    assert "3 of 3 grades have no digest of the graded answer" in warning
    grades["v1_0"]["Answer"] = "0"
    (tmp_path / "g.json").write_text(json.dumps(grades))
    assert "unknown key 'Answer'; did you mean 'answer'?" in refused(capsys, *flags, answers(tmp_path, SAID))
    grades["v1_0"] = {"model": ["a", "b"], "content": ["1"], "score": [1]}
    (tmp_path / "g.json").write_text(json.dumps(grades))
    err = refused(capsys, *flags, answers(tmp_path, SAID))
    assert "v1_0: 1 grades in 'score', but 2 judges in 'model'" in err


def test_grades_are_kept_by_all_that_they_depend_on(
    data: Path, tmp_path: Path, capsys: Out, judge: Judge
) -> None:
    file = tmp_path / "g.json"
    printed(capsys, *command(data, judge, file))
    other = command(data, judge, file, "--judge-model", "another")
    assert "3 of 3 grades are by another judge, first v1_0" in refused(capsys, *other)
    again = command(data, judge, file)
    (tmp_path / "prompt.txt").write_text("Other examples\n")
    assert "3 of 3 grades were made with other examples, questions or right answers" in refused(
        capsys, *again
    )
    (tmp_path / "prompt.txt").write_bytes(b"\xef\xbb\xbfGrade from 0 to 1, as here: q | a | a | 1.0\r\n")
    assert "0 grades by judge, 3 reused" in printed(capsys, *again)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_judge_that_is_gone_is_given_up(
    status: int, data: Path, tmp_path: Path, capsys: Out, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlm_bench.run.judge.OUTAGES", 2)
    file = tmp_path / "g.json"
    judge.replies = {"a dog": [status], "left": [status]}
    err = refused_after_progress(capsys, *command(data, judge, file))
    assert f"the judge did not reply to 2 answers in a row: {judge.url}/: " in err
    assert f"1 graded now, 0 graded earlier in {file}; rerun the same command to resume" in err
    assert len(json.loads(file.read_text())) == 1
    judge.replies = {}
    assert "2 grades by judge, 1 reused, 0 failed" in printed(capsys, *command(data, judge, file))


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b"[" * 10**5,
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"choices": [1]}',
        b'{"model": "m", "choices": "ab"}',
        b'{"model": "m", "choices": [{"message": null}]}',
        b'{"model": "m", "choices": [{"message": {"content": 1}}]}',
    ],
    ids=range(11),
)
def test_what_is_no_reply_of_a_judge(
    data: Path, tmp_path: Path, capsys: Out, judge: Judge, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr("vlm_bench.run.judge.OUTAGES", 2)
    judge.replies = {"a dog": [body], "left": [body]}
    err = refused_after_progress(capsys, *command(data, judge, tmp_path / "g.json"))
    assert "the reply is no chat completion; is --base-url right?" in err
    assert f"1 graded now, 0 graded earlier in {tmp_path / 'g.json'}" in err


def refused_after_progress(capsys: Out, *argv: Any) -> str:
    from vlm_bench.cli.main import main

    assert main([*map(str, argv)]) == 2
    return capsys.readouterr().err


def test_no_judge_at_all(data: Path, tmp_path: Path, capsys: Out, judge: Judge) -> None:
    import openai

    flags = command(data, judge, tmp_path / "g.json")
    flags[flags.index("--base-url") + 1] = "http://127.0.0.1:9/v1"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openai, "OpenAI", lambda **kw: openai_client(**kw, max_retries=0))
        err = refused_after_progress(capsys, *flags)
    assert "did not reply to 3 answers in a row: http://127.0.0.1:9/v1/: APIConnectionError" in err
    assert "0 graded now, 0 graded earlier; rerun the same command to resume" in err
    assert not (tmp_path / "g.json").exists()


def openai_client(**kwargs: Any) -> Any:
    from openai._client import OpenAI

    return OpenAI(**kwargs)


def test_progress(data: Path, tmp_path: Path, capsys: Out, judge: Judge) -> None:
    from vlm_bench.cli.main import main

    assert main([*map(str, command(data, judge, tmp_path / "g.json"))]) == 0
    assert capsys.readouterr().err == "mm-vet 3/3  left 0:00\n"
    with pytest.raises(SystemExit):
        main([*map(str, command(data, judge, tmp_path / "g.json", "--runs", "0"))])
    assert "expected a whole number from 1 to" in capsys.readouterr().err

"""`vlm-predict --url`: answers in the rows' order, resumed, with bad rows counted and nothing lost."""

import base64
import json
import time

import pytest
from predictions import answers, question_of, read_lines, write_rows
from starlette.responses import JSONResponse

from vlm_core.remote import Retries


def test_rows_are_answered_in_their_order(command, url, echo, folder):
    """The images' files are sent as they are; no path leaves the machine."""
    delays = iter([0.2, 0, 0, 0.1])
    whole = echo.answer
    echo.answer = lambda body: time.sleep(next(delays, 0)) or whole(body)
    code, out, err = command("--url", url, "--concurrency", "4", "--max-new-tokens", "5")
    assert (code, out) == (0, f"{folder}/answers.jsonl: 9 rows answered, 0 earlier, 0 failed\n")
    assert "predict 9/9 rows  left 0:00" in err
    lines = read_lines(folder / "answers.jsonl")
    assert [line["id"] for line in lines] == [row["id"] for row in read_lines(folder / "rows.jsonl")]
    assert lines[0] == {
        "id": "red-0",
        "answer": "question 0",
        "finish_reason": "stop",
        "prompt_tokens": 7,
        "completion_tokens": 2,
        "row": lines[0]["row"],
    }
    assert not (folder / "answers.jsonl.part").exists()
    assert 1 < echo.most_at_once <= 4
    body = next(b for b in echo.requests if question_of(b).startswith("question 2"))
    assert {k: v for k, v in body.items() if k != "messages"} == {
        "model": "tiny",
        "temperature": 0,
        "max_tokens": 5,
    }
    sent = body["messages"][0]["content"][0]["image_url"]["url"].removeprefix("data:image/png;base64,")
    assert base64.b64decode(sent) in [path.read_bytes() for path in folder.glob("*.png")]
    assert str(folder) not in json.dumps(echo.requests)
    run = json.loads((folder / "answers.jsonl.run.json").read_text())
    assert run == {
        "model": "tiny",
        "digest": "ab" * 32,
        "decoding": {"temperature": 0.0, "max_tokens": 5},
    }


def test_messages_of_all_kinds(command, url, echo, folder):
    image, text = {"type": "image"}, {"type": "text", "text": "what?"}
    inside = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    talk = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    rows = [
        {"id": 1, "question": "no image"},
        {"id": "1", "images": ["red.png", "blue.png"], "question": "which?"},
        {"id": 2, "image": "red.png", "messages": [*talk, {"role": "user", "content": "three"}]},
        {
            "id": 3,
            "images": ["red.png", "red.png"],
            "messages": [{"role": "user", "content": [text, image, image]}],
        },
        {
            "id": 4,
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": [inside, text]},
            ],
        },
        {"id": 5, "image": f"{folder}/red.png", "question": ""},
    ]
    write_rows(folder / "rows.jsonl", ["\n", *rows, "  \n"])
    echo.answer = lambda body: "yes"
    code, out, err = command("--url", url, "--concurrency", "1")
    assert (code, out.partition(": ")[2]) == (0, "6 rows answered, 0 earlier, 0 failed\n"), err
    kinds = [
        [
            m["content"] if isinstance(m["content"], str) else [p["type"] for p in m["content"]]
            for m in b["messages"]
        ]
        for b in echo.requests
    ]
    assert kinds == [
        ["no image"],
        [["image_url", "image_url", "text"]],
        [["image_url", "text"], "two", "three"],
        [["text", "image_url", "image_url"]],
        ["be brief", ["image_url", "text"]],
        [["image_url"]],
    ]
    assert list(answers(folder / "answers.jsonl")) == [1, "1", 2, 3, 4, 5]


BAD_ROWS = {
    "not JSON": ("{\n", "rows.jsonl:1: not valid JSON"),
    "not an object": ("[]\n", "rows.jsonl:1: expected a JSON object, got []"),
    "no id": ({"question": "?"}, "rows.jsonl:1: expected an id, a text or a whole number, got None"),
    "id": ({"id": True, "question": "?"}, "expected an id, a text or a whole number, got True"),
    "key": ({"id": 1, "question": "?", "label": 3}, "the key 'label' is not understood; possible: id, image"),
    "both": ({"id": 1, "question": "?", "messages": []}, "expected either a question or messages"),
    "neither": ({"id": 1}, "expected either a question or messages"),
    "empty": ({"id": 1, "question": ""}, "question: expected a text, got ''"),
    "no messages": ({"id": 1, "messages": []}, "messages: expected a list that is not empty, got []"),
    "message": ({"id": 1, "messages": ["x"]}, "expected messages of role and content, got 'x'"),
    "role": ({"id": 1, "messages": [{"role": "tool", "content": "x"}]}, "role 'tool'; expected system, user"),
    "part": (
        {
            "id": 1,
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///x"}}]}
            ],
        },
        'expected text, or {"type": "image"} for each file',
    ),
    "slots": (
        {"id": 1, "image": "red.png", "messages": [{"role": "user", "content": [{"type": "image"}] * 2}]},
        "1 images, but 2 parts",
    ),
    "twice": (
        {"id": 1, "image": "red.png", "images": [], "question": "?"},
        "image and images name the images twice",
    ),
    "list": (
        {"id": 1, "images": "red.png", "question": "?"},
        "images: expected a list of files, got 'red.png'",
    ),
    "outside": ({"id": 1, "image": "../x.png", "question": "?"}, "must be a name inside"),
    "URL": ({"id": 1, "image": "https://a.b/c.png", "question": "?"}, "must be a name inside"),
    "missing": ({"id": 1, "image": "none.png", "question": "?"}, "none.png: no such file"),
    "no image": ({"id": 1, "image": "rows.jsonl", "question": "?"}, "not an image of a kind that is read"),
    "second": ({"id": "good", "question": "?"}, "rows.jsonl:2: a second row with the id 'good'"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_told_with_its_line_and_the_others_are_answered(command, url, echo, folder, name):
    row, message = BAD_ROWS[name]
    write_rows(folder / "rows.jsonl", [row, {"id": "good", "question": "fine?"}])
    code, out, err = command("--url", url)
    assert (code, out.partition(": ")[2]) == (1, "1 rows answered, 0 earlier, 1 failed\n")
    assert message in err
    assert f"{folder}/rows.jsonl:" in err
    assert "Traceback" not in err
    assert len(answers(folder / "answers.jsonl")) == 1
    assert len(echo.requests) == 1


def test_many_bad_rows_are_counted(command, url, echo, folder):
    write_rows(
        folder / "rows.jsonl", [*["{}\n"] * 50, b"\xff".decode("latin-1") + "\n", {"id": 1, "question": "?"}]
    )
    code, out, err = command("--url", url)
    assert (code, out.partition(": ")[2]) == (1, "1 rows answered, 0 earlier, 51 failed\n")
    assert err.count("rows.jsonl:") == 20
    assert "further faults are only counted, after these 20" in err


def test_a_finished_file_is_not_asked_again_and_a_changed_row_is(command, url, echo, folder):
    """Also a row whose image has other bytes now. A new row is added in its place."""
    assert command("--url", url)[0] == 0
    before = answers(folder / "answers.jsonl")
    code, out, err = command("--url", url)
    assert (code, out.partition(": ")[2]) == (0, "0 rows answered, 9 earlier, 0 failed\n")
    assert "9 of 9 rows have an answer already" in err
    assert len(echo.requests) == 9
    rows = read_lines(folder / "rows.jsonl")
    rows[4]["question"] = "another question"
    (folder / "red.png").write_bytes((folder / "blue.png").read_bytes())
    write_rows(folder / "rows.jsonl", [{"id": "new", "question": "new?"}, *rows])
    echo.answer = lambda body: "again"
    code, out, err = command("--url", url)
    assert (code, out.partition(": ")[2]) == (0, "5 rows answered, 5 earlier, 0 failed\n")
    assert "4 rows have changed since they were asked; asked again" in err
    asked = {"new", "red-0", "red-1", "red-2", rows[4]["id"]}
    assert answers(folder / "answers.jsonl") == {
        key: "again" if key in asked else before[key] for key in ["new", *before]
    }
    assert next(iter(answers(folder / "answers.jsonl"))) == "new"


def test_answers_of_other_settings_models_and_programs_are_refused(command, url, stub, echo, folder):
    assert command("--url", url)[0] == 0
    before = (folder / "answers.jsonl").read_bytes()
    code, out, err = command("--url", url, "--max-new-tokens", "7")
    assert (code, out) == (2, "")
    assert "holds answers of another model, or with other settings:" in err
    assert (
        "  decoding: {'temperature': 0.0, 'max_tokens': 256} before, {'temperature': 0.0, 'max_tokens': 7} now"
        in err
    )
    stub.models = [{"id": "tiny", "digest": "cd" * 32}]
    assert "  digest: 'abab" in command("--url", url)[2]
    stub.models = [{"id": "tiny"}]
    assert f"  server: None before, '{url}/v1' now" in command("--url", url)[2]
    assert (folder / "answers.jsonl").read_bytes() == before
    (folder / "mine.jsonl").write_text("precious\n")
    assert "exists already, and not as answers of vlm-predict" in command("--url", url, out="mine.jsonl")[2]
    assert "exists already" in command("--url", url, out="rows.jsonl")[2]
    assert (folder / "mine.jsonl").read_text() == "precious\n"


def test_a_model_that_changes_meanwhile_is_an_error(command, url, stub, echo, folder):
    """None of its answers is kept, and those of the first model are not mixed with others later."""
    whole, stub.fingerprint = echo.answer, "fp_ab"

    def answer(body):
        if len(stub.requests) == 5:
            stub.models, stub.fingerprint = [{"id": "tiny", "digest": "cd" * 32}], "fp_cd"
        return whole(body)

    stub.answer = answer
    code, out, err = command("--url", url, "--concurrency", "1")
    assert (code, out) == (2, "")
    assert "tiny has changed while it was asked: digest abababababab before, cdcdcdcdcdcd now" in err
    assert "4 answers are kept" in err
    assert not (folder / "answers.jsonl").exists()
    assert "holds answers of another model" in command("--url", url)[2]
    stub.models, stub.fingerprint, stub.answer = [{"id": "tiny", "digest": "ab" * 32}], "fp_ab", whole
    assert command("--url", url)[1].endswith("5 rows answered, 4 earlier, 0 failed\n")


def test_answers_to_rows_that_are_gone_are_refused(command, url, echo, folder):
    assert command("--url", url)[0] == 0
    write_rows(folder / "rows.jsonl", read_lines(folder / "rows.jsonl")[:5])
    code, _, err = command("--url", url)
    assert code == 2
    assert "holds 4 answers to no row, the first has the id 'green-2'; name another --out" in err
    assert len(answers(folder / "answers.jsonl")) == 9


def test_an_answer_outlives_its_image(command, url, echo, folder):
    """A file that can't be read now, as on a network drive, costs no answer."""
    assert command("--url", url)[0] == 0
    (folder / "red.png").rename(folder / "away.png")
    code, out, err = command("--url", url)
    assert (code, out.partition(": ")[2]) == (1, "0 rows answered, 6 earlier, 3 failed\n")
    assert "red.png: no such file" in err
    assert len(answers(folder / "answers.jsonl")) == 9


def test_refused_rows_are_asked_again_by_the_next_run(command, url, echo, folder):
    whole = echo.answer
    echo.answer = lambda body: (
        JSONResponse({"error": {"message": "too long"}}, 400) if "0" in question_of(body) else "yes"
    )
    code, out, err = command("--url", url)
    assert (code, out.partition(": ")[2]) == (1, "6 rows answered, 0 earlier, 3 failed\n")
    assert "rows.jsonl:1: " in err
    assert "refuses this request (400): too long" in err
    echo.answer = whole
    code, out, _ = command("--url", url)
    assert (code, out.partition(": ")[2]) == (0, "3 rows answered, 6 earlier, 0 failed\n")


def test_a_server_that_goes_away(command, url, stub, echo, folder, monkeypatch):
    monkeypatch.setattr(Retries, "__call__", lambda self, request: request())
    whole = echo.answer
    echo.answer = lambda body: whole(body) if len(stub.requests) < 5 else JSONResponse({}, 503)
    code, out, err = command("--url", url, "--concurrency", "1")
    assert (code, out) == (2, "")
    assert "(503)" in err
    assert "4 answers are kept; rerun the same command to resume" in err
    assert not (folder / "answers.jsonl").exists()
    echo.answer = whole
    assert command("--url", url)[1].endswith("5 rows answered, 4 earlier, 0 failed\n")

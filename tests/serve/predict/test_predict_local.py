"""`vlm-predict MODEL`: the engine's answers are those of a conversation, and of a server of the same model."""

import pytest
from live_server import live_server
from predictions import answers, read_lines, write_rows

from vlm_core.generation.conversation import Conversation
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.model_folder.assemble import load
from vlm_serve.api.app import create_app
from vlm_serve.api.guard.settings import ServerSettings
from vlm_serve.engine.local import LocalEngine
from vlm_serve.engine.settings import EngineSettings

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = ("--max-new-tokens", "6")


@pytest.fixture
def served(lively_folder):
    """The address of `vlm-serve` on the same model."""
    engine = LocalEngine.load(lively_folder, EngineSettings(slots=4))
    settings = ServerSettings(model=lively_folder)
    with live_server(create_app(engine, settings), settings) as (host, port):
        yield f"http://{host}:{port}"


def conversation_answers(lively_folder, folder):
    model, spec = load(lively_folder)
    texts = {}
    for row in read_lines(folder / "rows.jsonl"):
        conversation = Conversation(model, spec.template)
        conversation.show(folder / row["image"])
        pieces = conversation.ask(row["question"], GenerationConfig(6))
        texts[row["id"]] = "".join(pieces).strip()
    return texts


def test_answers_are_those_of_a_conversation_and_of_a_server(command, lively_folder, served, folder):
    """Alone and in company, in this process and through HTTP."""
    code, out, err = command(lively_folder, *SHORT)
    assert (code, out.partition(": ")[2]) == (0, "9 rows answered, 0 earlier, 0 failed\n"), err
    local = answers(folder / "answers.jsonl")
    assert local == conversation_answers(lively_folder, folder)
    assert len(set(local.values())) > 1, "equal answers would prove little"
    assert command("--url", served, *SHORT, out="served.jsonl")[0] == 0
    assert read_lines(folder / "served.jsonl") == read_lines(folder / "answers.jsonl")


def test_conversations_and_refusals(command, lively_folder, served, folder):
    """What the server refuses is refused here, too, in the same words."""
    slot = {"type": "image"}
    user = {"role": "user", "content": "what color is it?"}
    rows = [
        {"id": 1, "messages": [user, {"role": "assistant", "content": "red"}, user]},
        {"id": 2, "images": ["red.png", "blue.png"], "messages": [{**user, "content": [slot, slot]}]},
        {"id": 3, "messages": [user, user]},
        {"id": 4, "messages": [{"role": "system", "content": "be brief"}, user]},
        {"id": 5, "question": "a" * 20000},
    ]
    write_rows(folder / "rows.jsonl", rows)
    code, _, err = command(lively_folder, *SHORT)
    assert code == 1
    assert list(answers(folder / "answers.jsonl")) == [1, 2]
    _, _, other = command("--url", served, *SHORT, out="served.jsonl")
    assert read_lines(folder / "served.jsonl") == read_lines(folder / "answers.jsonl")

    def reasons(text):
        return sorted(
            line.rpartition("(400): ")[2] if "(400)" in line else line.partition(": ")[2]
            for line in text.splitlines()
            if "rows.jsonl:" in line
        )

    assert len(reasons(err)) == 3
    assert reasons(err) == reasons(other)


def test_a_local_run_resumes(command, lively_folder, folder):
    assert command(lively_folder, *SHORT)[0] == 0
    whole = (folder / "answers.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    (folder / "answers.jsonl").unlink()
    (folder / "answers.jsonl.part").write_bytes(b"".join([lines[4], lines[1], lines[7][:20]]))
    code, out, _ = command(lively_folder, *SHORT, "--concurrency", "1")
    assert (code, out.partition(": ")[2]) == (0, "7 rows answered, 2 earlier, 0 failed\n")
    assert (folder / "answers.jsonl").read_bytes() == whole


def test_sampled_answers_depend_on_the_seed_alone(command, lively_folder, folder):
    sampled = [*SHORT, "--temperature", "1"]
    command(lively_folder, *sampled, "--seed", "3", "--concurrency", "1", out="a.jsonl")
    command(lively_folder, *sampled, "--seed", "3", out="b.jsonl")
    command(lively_folder, *sampled, "--seed", "4", out="c.jsonl")
    first, second, third = (answers(folder / f"{name}.jsonl") for name in "abc")
    assert first == second
    assert first != third


def test_no_model_folder(command, folder):
    code, _, err = command(folder)
    assert code == 2
    assert "not a model folder" in err or "no model" in err

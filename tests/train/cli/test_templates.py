"""Templates of a run: held against the tokenizer and what is to be asked before anything is trained, and shown."""

import json

import pytest

from vlm_core.errors import SpecError
from vlm_core.spec.spec import load_spec
from vlm_core.text.render import IMAGE, Message, render
from vlm_core.text.template import Template, TokenizerTemplate
from vlm_train.checkpoint.run_dir import VALIDATION
from vlm_train.cli import main
from vlm_train.cli.preview import SamplePreview, control_names, page, spans, terminal
from vlm_train.data.dataset import Example
from vlm_train.run import start

PLAIN = "leaves out the question: `user` has no {text}, but "


@pytest.fixture(autouse=True)
def calm(one_thread):
    pass


@pytest.mark.parametrize(
    ("changes", "where", "message"),
    [
        (
            ["template=plain"],
            "template: ",
            f"{PLAIN}train.held_out_qa asks questions; set a template with {{text}}",
        ),
        (
            ["template={user: 'What is it?', assistant: '{text}{eos}'}"],
            "template: ",
            f"{PLAIN}train.held_out_qa asks",
        ),
        (
            ["train.stages.0.template=plain", "train.validation.samples=2"],
            "train.stages.0.template: ",
            f"{PLAIN}train.validation.samples asks stage align questions; remove samples",
        ),
        (
            ["train.stages.1.template={user: '<|endoftext|>{text}', assistant: '{text}{eos}'}"],
            "train.stages.1.template.user: ",
            "write {token:<|endoftext|>}",
        ),
        (
            ["template={user: '{token:<|im_start|>}{text}', assistant: '{text}{eos}'}"],
            "template.user: ",
            "no control token of the tokenizer; the nearest of its 1: <|endoftext|>",
        ),
        (["template=tokenizer"], "template: ", "the tokenizer has no chat template"),
    ],
)
@pytest.mark.parametrize("command", ["run", "check", "preview"])
def test_what_does_not_fit_is_said_first(run_spec, monkeypatch, capsys, command, changes, where, message):
    path = run_spec(validation={"data": [{"type": "llava", "path": "none.json"}]})
    options = [option for change in changes for option in ("--set", change)]
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr("sys.argv", ["vlm-train", command, str(path), *options])
    assert main.main() == 2
    said = capsys.readouterr().err
    assert f"vlm-train: --set {changes[0]}: {where}" in said
    assert message in said
    assert not (path.parent / "run").exists()


def test_benchmarks_ask_questions_too(run_spec, tmp_path):
    (tmp_path / "q.jsonl").write_text("")
    path = run_spec(held_out_qa=None, benchmarks={"tasks": [{"type": "pope", "data": str(tmp_path)}]})
    with pytest.raises(SpecError, match=r"leaves out the question.*train\.benchmarks asks"):
        start(*load_spec(path, ["template=plain"]))


def test_a_stage_of_captions_is_validated_without_questions(run_spec):
    """By default the samples are those of the stages that say questions."""
    data = run_spec()
    validation = {"data": [{"type": "llava", "path": str(data.parent / "data.json")}], "every": 6, "rows": 4}
    path = run_spec(held_out_qa=None, validation=validation)
    folder, _ = start(*load_spec(path, ["train.stages.0.template=plain", "train.stages.0.steps=1"]))
    lines = [json.loads(line) for line in (folder.path / VALIDATION).read_text().splitlines()]
    assert [len(line["samples"]) for line in lines] == [0, 4]
    assert all(line["loss"] > 0 for line in lines)
    with pytest.raises(SpecError, match=r"accuracy_rows asks stage \S+ questions; remove accuracy_rows$"):
        start(*load_spec(path, ["template=plain", "train.validation.accuracy_rows=2"]))


TEMPLATE = Template(
    system="{token:<|endoftext|>}s", user=" {text}", assistant_prompt=":", assistant="{text}{eos}"
)
FORGED = "<|endoftext|>[bold]x[/bold]\x1b[31m\x9b"


def test_preview_tells_tokens_text_and_targets_apart(tiny_model):
    tokenizer = tiny_model.llm.tokenizer
    talk = [Message("user", (IMAGE, FORGED)), Message("assistant", (FORGED,))]
    sample = render(TEMPLATE, talk, tokenizer, [4])
    found = spans(sample, tokenizer, TEMPLATE)
    assert [(s.text, s.kind) for s in found if s.control] == [
        ("⟨<|endoftext|>⟩", "read"),
        ("⟨<|endoftext|>⟩", "target"),
    ]
    preview = SamplePreview("a", 0, "one", Example(sample, []), found)
    text = "<|endoftext|>[bold]x[/bold]␛[31m␡"
    piped = terminal(preview, color=False).plain.splitlines()
    assert "".join(piped[1:]) == f"⟨<|endoftext|>⟩s [image: 4 tokens]{text}:«{text}⟨<|endoftext|>⟩»"
    colored = terminal(preview)
    assert "«" not in colored.plain
    styles = {str(span.style) for span in colored.spans}
    assert styles == {
        *(f"not bold {s}" for s in ("blue", "dim", "bold green", "magenta", "bold green reverse")),
    }
    html = page("x", [preview])
    assert '<span class="target control"' in html
    assert "\x1b" not in html


def test_end_of_text_is_called_as_the_template_calls_it(tiny_model):
    tokenizer = tiny_model.llm.tokenizer
    assert control_names(tokenizer, Template(user="{text}", assistant="{text}{eos}")) == {
        tokenizer.eos_id: "end"
    }
    for template in (TEMPLATE, TokenizerTemplate()):
        assert control_names(tokenizer, template) == {tokenizer.eos_id: "<|endoftext|>"}

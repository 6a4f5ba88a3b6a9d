"""Answers that must match a grammar."""

import json

import pytest
from engine_cases import answered, chat, request

from vlm_core.errors import UserError
from vlm_llms.tokenizer.tokenizer import train_bpe
from vlm_serve.engine.request import Failed, Finished, Grammar, SamplingParams
from vlm_serve.engine.sampling.grammar import GrammarCompiler

SCHEMA = {
    "type": "object",
    "properties": {
        "shape": {"enum": ["circle", "square"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "name": {"type": "string", "maxLength": 6},
        "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    },
    "required": ["shape", "count", "name", "tags"],
    "additionalProperties": False,
}


def params(schema, seed=0, **changes):
    grammar = Grammar("json_schema", schema if isinstance(schema, str) else json.dumps(schema))
    return SamplingParams(
        **{"max_tokens": 400, "temperature": 1.0, "seed": seed, "grammar": grammar, **changes}
    )


def test_every_answer_matches_the_schema(engine_of):
    asked = [request(chat("red"), params(SCHEMA, seed), name=str(seed)) for seed in range(40)]
    texts = set()
    for seen in answered(engine_of(), *asked):
        assert isinstance(seen.last, Finished)
        assert seen.last.reason == "stop"
        value = json.loads(seen.text)
        assert set(value) == set(SCHEMA["required"])
        assert value["shape"] in ("circle", "square")
        assert type(value["count"]) is int
        assert 0 <= value["count"] <= 99
        assert len(value["name"]) <= 6
        assert 1 <= len(value["tags"]) <= 3
        texts.add(seen.text)
    assert len(texts) == 40


def test_any_object(engine_of):
    grammar = Grammar("json_object")
    asked = [
        request(chat("red"), SamplingParams(max_tokens=300, temperature=1.0, seed=seed, grammar=grammar))
        for seed in range(20)
    ]
    ended = 0
    for seen in answered(engine_of(), *asked):
        assert seen.text.startswith("{")
        if seen.last.reason == "stop":
            assert isinstance(json.loads(seen.text), dict)
            ended += 1
    assert ended >= 2


def test_an_answer_is_cut_by_max_tokens_alone(engine_of):
    (seen,) = answered(engine_of(), request(chat("red"), params(SCHEMA, max_tokens=5)))
    assert seen.last == Finished("length", 5)


def test_a_grammar_that_needs_too_much_work_fails_its_request(engine_of):
    engine = engine_of()
    good, bad = (engine.preparer(request(chat("red"), params(SCHEMA, seed))) for seed in range(2))
    broken = bad.grammar._matcher
    broken.consume_token(1)
    assert broken.is_error()
    with pytest.raises(UserError, match="too complex"):
        bad.grammar.allowed()
    assert good.grammar.allowed().any()


def test_an_answer_does_not_end_before_its_grammar(engine_of):
    """A bias towards EOS can't end it early, nor one against EOS keep it going."""
    for bias in (100.0, -100.0):
        (seen,) = answered(
            engine_of(), request(chat("red"), params(SCHEMA, logit_bias={0: bias}, temperature=0.0))
        )
        assert seen.last.reason == "stop"
        assert set(json.loads(seen.text)) == set(SCHEMA["required"])


@pytest.mark.parametrize(
    "schema",
    [
        "no json",
        "[]",
        "3",
        {"type": "foo"},
        {"$ref": "http://169.254.169.254/schema"},
        {"$ref": "file:///etc/passwd"},
        {"$ref": "#/nothing"},
        {"type": "string", "pattern": "("},
        {"type": "object", "unevaluatedProperties": False},
        {"type": "array", "minItems": 3, "maxItems": 1},
        {"type": "object", "x-guidance": {"lenient": True}, "unevaluatedProperties": False},
        '{"anyOf": [' * 2000 + "{}" + "]}" * 2000,
        {"enum": ["x" * 70_000]},
        {"$ref": "#"},
        {"type": "object", "properties": {f"p{i}": {} for i in range(1800)}},
        {"type": "string", "pattern": "(\x1b"},
        {"type": "object", "minProperties": 2},
    ],
    ids=lambda schema: str(schema)[:40],
)
def test_a_schema_that_cannot_be_compiled_is_refused(engine_of, schema):
    engine = engine_of()
    (seen,) = answered(engine, request(chat("red"), params(schema)))
    assert isinstance(seen.last, Failed), seen.text
    assert seen.last.kind == "refused"
    assert "JSON schema" in seen.last.message
    assert "<state>" not in seen.last.message, "llguidance's own state"
    assert seen.last.message.isprintable()
    assert (seen.last.subject, seen.last.code) == ("grammar", "invalid_json_schema")
    assert "\n" not in seen.last.message
    assert len(seen.last.message) < 500
    (seen,) = answered(engine, request(chat("red")))
    assert isinstance(seen.last, Finished)


TOKENIZER = train_bpe(["a"], 257)
COMPILER = GrammarCompiler(TOKENIZER)


def accepts(schema, text):
    """Whether an answer may be this text."""
    state = COMPILER.compile(Grammar("json_schema", json.dumps(schema)), {TOKENIZER.eos_id})
    for token in TOKENIZER.encode(text):
        if not state.allowed()[token]:
            return False
        state.add(token)
    return state.ended or bool(state.allowed()[TOKENIZER.eos_id])


@pytest.mark.parametrize(("name", "spelled"), [("a", r"\u0061"), ("\n", r"\u000a"), ("\x1f", r"\u001F")])
def test_a_listed_property_has_one_spelling(name, spelled):
    """Another one would be an unlisted property, whose value may be anything."""
    schema = {"type": "object", "properties": {name: {"type": "integer"}}}
    assert json.loads(f'{{"{spelled}": "x"}}') == {name: "x"}
    assert not accepts(schema, f'{{"{spelled}": "x"}}')
    assert accepts(schema, '{"b": "x"}')


def test_a_pattern_of_names_has_one_spelling():
    schema = {"patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": {"type": "string"}}
    assert accepts({"type": "object", **schema}, '{"xa": 1}')
    assert not accepts({"type": "object", **schema}, r'{"\u0078a": "s"}')


def test_least_numbers_of_properties_that_no_repetition_can_reach():
    schema = {"type": "object", "minProperties": 2, "required": ["a"], "properties": {"a": {}}}
    assert accepts(schema, '{"a": 1, "b": 2}')
    assert not accepts(schema, '{"a": 1}')
    assert not accepts(schema, '{"a": 1, "a": 2}')
    assert accepts({"const": {"minProperties": 5}}, '{"minProperties": 5}'), "no keyword"

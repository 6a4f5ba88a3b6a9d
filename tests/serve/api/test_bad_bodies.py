"""Bodies that get no answer: status, place and sentence."""

import json
import time

import bad_bodies
import pytest
from bad_bodies import NO_IMAGE
from live_server import call
from scripted_engine import ScriptedEngine

CHAT = {"model": "scripted", "messages": [{"role": "user", "content": "a"}]}
TEXT = {"model": "scripted", "prompt": "a"}
RESPONSE = {"model": "scripted", "input": "a"}
CHAT_PATH, TEXT_PATH, RESPONSE_PATH = "/v1/chat/completions", "/v1/completions", "/v1/responses"
RIGHT = {CHAT_PATH: CHAT, TEXT_PATH: TEXT, RESPONSE_PATH: RESPONSE}
FAULTS = [
    *((CHAT_PATH, *case) for case in bad_bodies.cases(bad_bodies.CHAT, CHAT)),
    *((CHAT_PATH, *case) for case in bad_bodies.cases(bad_bodies.TURNS, CHAT, bad_bodies.of_turns)),
    *((CHAT_PATH, *case) for case in bad_bodies.cases(bad_bodies.CONTENT, CHAT, bad_bodies.of_content)),
    *((TEXT_PATH, *case) for case in bad_bodies.cases(bad_bodies.COMPLETIONS, TEXT)),
    *((RESPONSE_PATH, *case) for case in bad_bodies.cases(bad_bodies.RESPONSES, RESPONSE)),
]


def images(*urls):
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {**CHAT, "messages": [{"role": "user", "content": parts}]}


def refusal(response, status=400):
    """The error of a response in OpenAI's shape, which holds one sentence."""
    assert response.status_code == status, response.text
    (key,) = response.json()
    error = response.json()[key]
    assert key == "error"
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].endswith(".")
    assert "\n" not in error["message"]
    assert len(error["message"]) < 400
    return error


@pytest.fixture
def engine():
    return ScriptedEngine()


@pytest.fixture
def post(engine, settings):
    return lambda path, body, **headers: call(engine, settings, path, body, **headers)


@pytest.mark.parametrize(("path", "body", "param", "sentence"), FAULTS, ids=lambda v: str(v)[-50:])
def test_a_fault_is_named_with_its_place(post, engine, path, body, param, sentence):
    error = refusal(post(path, body))
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert error["message"].startswith(f"{param}: ")
    assert sentence in error["message"]
    assert engine.requests == []


@pytest.mark.parametrize("path", [CHAT_PATH, TEXT_PATH, RESPONSE_PATH])
def test_a_model_that_is_not_served(post, path):
    error = refusal(post(path, {**RIGHT[path], "model": "gpt-4"}), 404)
    assert error["code"] == "model_not_found"
    assert error["message"] == "model: the model 'gpt-4' does not exist; this server has 'scripted'."


VALID = json.dumps(CHAT)[1:-1].encode()
TEXTS = [
    (b"", "not valid JSON"),
    (b"{", "not valid JSON"),
    (b"[]", "expected a JSON object"),
    (b"5", "expected a JSON object"),
    (b"null", "expected a JSON object"),
    (b'{"a": 1, "a": 2}', "the key 'a' appears twice"),
    (b"{" + VALID + b', "temperature": NaN}', "NaN is no number of JSON"),
    (b"{" + VALID + b', "temperature": 1e999}', "too large"),
    (b"{" + VALID + b', "seed": ' + b"1" * 5000 + b"}", "a number of 5000 digits"),
    (b"{" + VALID + b', "user": "\\ud800"}', "unpaired surrogate"),
    (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "nested too deeply"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"a": ' * 20_000, "nested too deeply"),
    (b'{"a": "\xff"}', "not UTF-8"),
    (b"\xef\xbb\xbf{}", "not valid JSON"),
    (json.dumps(CHAT).encode("utf-16"), "not UTF-8"),
    (b'{"a": "\x01"}', "not valid JSON"),
    (b"{'a': 1}", "not valid JSON"),
]


@pytest.mark.parametrize(("text", "sentence"), TEXTS, ids=lambda v: repr(v)[:30])
def test_text_that_is_no_json_object(post, text, sentence):
    error = refusal(post(CHAT_PATH, text))
    assert sentence in error["message"]
    assert error["message"].startswith("body")
    assert error["code"] == "invalid_json"


def test_values_without_end(post):
    assert refusal(post(CHAT_PATH, b'{"a": [' + b"1," * 600_000 + b"1]}"), 413)["code"] == "body_too_large"


def test_lists_of_any_length_have_a_limit(post):
    assert refusal(post(CHAT_PATH, {**CHAT, "stop": ["a"] * 17}))["message"].startswith(
        "stop: expected at most 16"
    )
    metadata = {str(number): "" for number in range(17)}
    error = refusal(post(RESPONSE_PATH, {**RESPONSE, "metadata": metadata}))
    assert error["message"] == "metadata: expected an object of at most 16 fields, got 17."


@pytest.mark.parametrize("place", ["body", "logit_bias", "messages[0]"])
def test_objects_of_any_size_are_refused_at_once(post, place):
    """Not after a fault for each of their fields."""
    many = {str(number): "x" for number in range(200_000)}
    fields = {
        "body": many,
        "logit_bias": {"logit_bias": many},
        "messages[0]": {"messages": [{"role": "user", **many}]},
    }
    began = time.process_time()
    error = refusal(post(CHAT_PATH, {**CHAT, **fields[place]}))
    assert time.process_time() - began < 2
    assert error["param"] == place
    assert "expected an object of at most" in error["message"]


def test_a_long_unknown_name_is_cut(post):
    assert len(refusal(post(CHAT_PATH, {**CHAT, "x" * 500: 1}))["message"]) < 100


def test_many_faults_are_one_sentence(post):
    """Each list ends at its first fault: a million faults would be a million objects."""
    error = refusal(post(CHAT_PATH, {**CHAT, "messages": [5] * 400_000}))
    assert error["param"] == "messages[0]"


@pytest.mark.parametrize(
    "headers",
    [
        {"content_type": "text/plain"},
        {"content_type": "application/x-www-form-urlencoded"},
        {"content_type": "application/json; charset=latin-1"},
        {"content_encoding": "gzip"},
    ],
    ids=str,
)
def test_bodies_that_are_not_read(post, headers):
    assert refusal(post(CHAT_PATH, CHAT, **headers), 415)["code"] == "unsupported_media_type"


def test_utf_8_may_be_declared(post):
    assert post(CHAT_PATH, CHAT, content_type='application/json; charset="UTF-8"').status_code == 200


def test_a_model_without_a_place_for_the_system_message(settings, engine, monkeypatch):
    from dataclasses import replace

    monkeypatch.setattr(engine, "_facts", replace(engine.facts(), system=False, images=False))
    error = refusal(call(engine, settings, CHAT_PATH, {**CHAT, **bad_bodies.of_turns("system user")}))
    assert error["param"] == "messages[0].role"
    assert "no place for a system message" in error["message"]
    error = refusal(call(engine, settings, RESPONSE_PATH, {**RESPONSE, "instructions": "a"}))
    assert error["param"] == "instructions"
    error = refusal(call(engine, settings, CHAT_PATH, images(NO_IMAGE)))
    assert "takes no images" in error["message"]


def test_too_many_images(post, settings):
    error = refusal(post(CHAT_PATH, images(*[NO_IMAGE] * 33)))
    assert (error["code"], error["param"]) == ("too_many_images", "messages")


def test_an_image_that_only_decoding_shows_to_be_damaged(settings, data_url):
    """The engine tells of it by the image's name, which is its place."""
    from vlm_serve.engine.request import Failed

    name = "messages[0].content[0].image_url.url"
    engine = ScriptedEngine((Failed("refused", f"{name}: cannot decode this image: damaged."),))
    assert refusal(call(engine, settings, CHAT_PATH, images(data_url("red"))))["param"] == name


@pytest.mark.parametrize(
    ("path", "subject", "field"),
    [
        (CHAT_PATH, "prompt", "messages"),
        (CHAT_PATH, "grammar", "response_format"),
        (CHAT_PATH, "logit_bias", "logit_bias"),
        (RESPONSE_PATH, "prompt", "input"),
        (RESPONSE_PATH, "grammar", "text.format"),
        (TEXT_PATH, "prompt", "prompt"),
    ],
)
def test_what_the_engine_refuses_has_its_place(settings, path, subject, field):
    from vlm_serve.engine.request import Failed

    engine = ScriptedEngine((Failed("refused", "it is wrong", subject, "a_code"),))
    error = refusal(call(engine, settings, path, RIGHT[path]))
    assert (error["param"], error["code"]) == (field, "a_code")
    assert error["message"] == f"{field}: it is wrong."

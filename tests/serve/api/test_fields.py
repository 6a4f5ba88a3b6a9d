"""Every field of the client's methods is honoured, or refused by its name unless its value changes nothing."""

import json

import pytest
from live_server import call
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import response_create_params
from scripted_engine import ScriptedEngine

from vlm_serve.api.schema.chat import ChatBody
from vlm_serve.api.schema.completions import CompletionBody
from vlm_serve.api.schema.responses import ResponseBody

ENDPOINTS = {
    "/v1/chat/completions": (
        ChatBody,
        chat_params.CompletionCreateParamsBase,
        {"model": "scripted", "messages": [{"role": "user", "content": "a"}]},
    ),
    "/v1/completions": (
        CompletionBody,
        completion_create_params.CompletionCreateParamsBase,
        {"model": "scripted", "prompt": "a"},
    ),
    "/v1/responses": (
        ResponseBody,
        response_create_params.ResponseCreateParamsBase,
        {"model": "scripted", "input": "a"},
    ),
}
REQUIRED = {"model", "messages", "prompt", "input"}
ADDED = {"top_k", "min_p", "repetition_penalty"}
"""Fields of other open servers, which the client sends in `extra_body`."""
FIELDS = [
    (path, name) for path, (_, params, _) in ENDPOINTS.items() for name in [*params.__annotations__, "stream"]
]


@pytest.mark.parametrize("path", ENDPOINTS)
def test_the_schema_has_all_fields_of_the_client_and_no_others(path):
    model, params, _ = ENDPOINTS[path]
    fields = {*params.__annotations__, "stream"}
    assert fields <= {*model.model_fields}
    assert {*model.model_fields} - fields - ADDED <= ({"seed"} if path == "/v1/responses" else set())


@pytest.mark.parametrize(("path", "name"), FIELDS)
def test_null_changes_nothing(settings, path, name):
    if name not in REQUIRED:
        body = {**ENDPOINTS[path][2], name: None}
        assert call(ScriptedEngine(), settings, path, body).status_code == 200


@pytest.mark.parametrize(("path", "name"), FIELDS)
def test_a_wrong_value_is_refused_by_name(settings, path, name):
    body = {**ENDPOINTS[path][2], name: {"no such": ["value"]}}
    response = call(ScriptedEngine(), settings, path, body)
    assert response.status_code == 400
    assert response.json()["error"]["param"].partition(".")[0] == name


WITHOUT_EFFECT = {
    "/v1/chat/completions": """
{"tools": []}
{"tool_choice": "none"}
{"tool_choice": "auto"}
{"parallel_tool_calls": true}
{"functions": []}
{"function_call": "none"}
{"modalities": ["text"]}
{"metadata": {}}
{"store": false}
{"service_tier": "auto"}
{"reasoning_effort": "none"}
{"verbosity": "medium"}
{"prompt_cache_key": "a"}
{"safety_identifier": "a"}
{"user": "a"}
{"prompt_cache_retention": "in_memory"}
{"stream": false}
{"logprobs": false}
{"top_k": -1}
{"top_k": 0}
{"logit_bias": {}}
{"stop": []}
""",
    "/v1/completions": """
{"echo": false}
{"suffix": ""}
{"best_of": 1}
{"n": 2, "best_of": 2}
{"user": "a"}
""",
    "/v1/responses": """
{"tools": []}
{"tool_choice": "auto"}
{"truncation": "disabled"}
{"background": false}
{"reasoning": {}}
{"reasoning": {"effort": null}}
{"text": {}}
{"text": {"format": null}}
{"text": {"verbosity": "medium"}}
{"include": []}
{"service_tier": "default"}
{"context_management": []}
{"parallel_tool_calls": false}
{"top_logprobs": 0}
{"metadata": {}}
{"store": true}
""",
}


def each_line(tables):
    return [(path, json.loads(line)) for path, text in tables.items() for line in text.split("\n") if line]


@pytest.mark.parametrize(("path", "fields"), each_line(WITHOUT_EFFECT), ids=str)
def test_values_without_effect_are_accepted(settings, path, fields):
    assert call(ScriptedEngine(), settings, path, {**ENDPOINTS[path][2], **fields}).status_code == 200


ELSEWHERE = {
    "/v1/chat/completions": """
{"tools": [{"type": "function", "function": {"name": "f"}}]}
{"tool_choice": "required"}
{"store": true}
{"metadata": {"a": "b"}}
{"modalities": ["text", "audio"]}
{"reasoning_effort": "high"}
{"service_tier": "flex"}
{"verbosity": "low"}
{"prediction": {"type": "content", "content": "a"}}
""",
    "/v1/completions": """
{"echo": true}
{"best_of": 3}
""",
    "/v1/responses": """
{"tools": [{"type": "web_search"}]}
{"truncation": "auto"}
{"conversation": "conv_1"}
{"prompt": {"id": "pmpt_1"}}
{"max_tool_calls": 3}
{"reasoning": {"effort": "low"}}
""",
}


@pytest.mark.parametrize(("path", "fields"), each_line(ELSEWHERE), ids=str)
def test_what_this_server_has_not_is_refused(settings, path, fields):
    response = call(ScriptedEngine(), settings, path, {**ENDPOINTS[path][2], **fields})
    assert response.status_code == 400
    (name,) = fields
    assert response.json()["error"]["param"] == name

"""Bodies that are wrong in one field: its place, a part of the sentence about it and, below, what is wrong."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

CHAT = """
model | expected a string, got null
    {"model": null}
messages | expected a list, got null
    {"messages": null}
messages | expected a list, got a string
    {"messages": "hi"}
messages | expected at least 1 entry
    {"messages": []}
messages[0] | expected an object, got a string
    {"messages": ["hi"]}
messages[0].role | required, but missing
    {"messages": [{}]}
messages[0].content | required, but missing
    {"messages": [{"role": "user"}]}
messages[0].role | unknown role
    {"messages": [{"role": ["user"], "content": "a"}]}
messages[0].content[0].type | expected 'text', got 'image_url'
    {"messages": [{"role": "assistant", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}]}
messages[0].name | not supported; expected null
    {"messages": [{"role": "user", "content": "a", "name": "b"}]}
messages[0].tool_calls | not supported
    {"messages": [{"role": "assistant", "content": "a", "tool_calls": [{}]}]}
temperature | expected a number, got a string
    {"temperature": "hot"}
temperature | expected at most 2
    {"temperature": 3}
temperature | expected at least 0
    {"temperature": -1}
top_p | expected at most 1
    {"top_p": 1.5}
top_k | expected an integer
    {"top_k": 1.5}
min_p | expected at least 0
    {"min_p": -0.1}
seed | expected less than
    {"seed": 9223372036854775808}
seed | expected an integer, got a string
    {"seed": "1"}
repetition_penalty | expected at least 0.01
    {"repetition_penalty": 0}
frequency_penalty | expected at most 2
    {"frequency_penalty": 2.5}
max_tokens | expected at least 1
    {"max_tokens": 0}
max_tokens | expected an integer, got true
    {"max_tokens": true}
max_tokens | expected at most 100, the positions
    {"max_tokens": 101}
max_completion_tokens | expected at most 100
    {"max_completion_tokens": 101}
max_tokens | differs from max_completion_tokens
    {"max_tokens": 3, "max_completion_tokens": 4}
n | expected at least 1
    {"n": 0}
n | expected at most 8, got 9
    {"n": 9}
stop | expected at least 1 character
    {"stop": ""}
stop[1] | expected a string
    {"stop": ["a", 5]}
stop | expected at most 16 entries
    {"stop": ["a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a"]}
stop | expected a string or a list, got an object
    {"stop": {}}
stop | expected a string or a list, got an integer
    {"stop": 5}
logit_bias | expected an object, got a list
    {"logit_bias": []}
logit_bias | expected ids of tokens as keys
    {"logit_bias": {"a": 1}}
logit_bias | expected ids of tokens as keys
    {"logit_bias": {"\\u0663": 1}}
logit_bias | expected ids of tokens as keys
    {"logit_bias": {"01": 1, "1": -1}}
logit_bias.3 | expected at most 100
    {"logit_bias": {"3": 101}}
logprobs | expected true or false
    {"logprobs": 3}
top_logprobs | expected at most 20
    {"logprobs": true, "top_logprobs": 21}
top_logprobs | needs logprobs to be true
    {"top_logprobs": 2}
stream | expected true or false, got a string
    {"stream": "yes"}
stream_options | needs stream to be true
    {"stream_options": {"include_usage": true}}
stream_options.usage | unknown field
    {"stream": true, "stream_options": {"usage": true}}
stream_options.include_obfuscation | expected null or false
    {"stream": true, "stream_options": {"include_obfuscation": true}}
response_format | expected an object
    {"response_format": "json"}
response_format.type | unknown format
    {"response_format": {"type": "xml"}}
response_format.json_schema.name | required, but missing
    {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}
response_format.json_schema.schema | the key 'x-guidance' is not supported
    {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"x-guidance": {}}}}}
response_format.json_schema.schema | required, but missing
    {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}
response_format.json_schema.name | expected text of the form
    {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}}
response_format.json_schema.schema | expected an object
    {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": []}}}
modle | unknown field
    {"modle": "tiny"}
@string | unknown field
    {"@string": 1}
"""
"""Fields that are added to a right body."""
TURNS = """
messages[0].role | unknown role; expected 'system', 'developer', 'user' or 'assistant', got 'robot'
    robot
messages[0].role | unknown role
    tool
messages[0].role | expected 'user', got 'assistant'
    assistant
messages[1].role | expected 'assistant', got 'user'
    user user
messages[1] | the last message must be the user's
    user assistant
messages[0] | the last message must be the user's
    system
messages[1].role | must be the only one, and the first
    user system
messages[1].role | must be the only one, and the first
    system developer user
"""
"""Roles of the messages."""
CONTENT = """
messages[0].content | expected a string or a list, got null
    null
messages[0].content | expected a string or a list, got an integer
    5
messages[0].content | expected at least 1 entry
    []
messages[0].content[0] | expected an object, got a string
    ["a"]
messages[0].content[0].type | required, but missing
    [{}]
messages[0].content[0].type | unknown type
    [{"type": "audio"}]
messages[0].content[0].text | required, but missing
    [{"type": "text"}]
messages[0].content[0].text | expected a string, got an integer
    [{"type": "text", "text": 5}]
messages[0].content[1].txt | unknown field
    [{"type": "text", "text": "a"}, {"type": "text", "text": "a", "txt": 1}]
messages[0].content[0].image_url | required, but missing
    [{"type": "image_url"}]
messages[0].content[0].image_url.url | required, but missing
    [{"type": "image_url", "image_url": {}}]
messages[0].content[0].image_url.url | expected at least 1 character
    [{"type": "image_url", "image_url": {"url": ""}}]
messages[0].content[0].image_url | expected an object
    [{"type": "image_url", "image_url": "NO_IMAGE"}]
messages[0].content[0].image_url.detail | expected null or "auto"
    [{"type": "image_url", "image_url": {"url": "NO_IMAGE", "detail": "high"}}]
messages[0].content[1].image_url.url | invalid base64
    [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,@@@@"}}]
messages[0].content[1].image_url.url | not an image
    [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "NO_IMAGE"}}]
messages[0].content[0].image_url.url | empty
    [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]
messages[0].content[0].image_url.url | fetches no images
    [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]
messages[0].content[0].image_url.url | no local files
    [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]
messages[0].content[0].image_url.url | expected a URL
    [{"type": "image_url", "image_url": {"url": "a.png"}}]
messages[0].content[0].video_url.url | takes no videos
    [{"type": "video_url", "video_url": {"url": "NO_IMAGE"}}]
"""
"""The content of the only message."""
COMPLETIONS = """
prompt | expected a string, a list of strings, or ids of tokens, got null
    {"prompt": null}
prompt | expected at least 1 entry
    {"prompt": []}
prompt[0] | expected at least 1 entry
    {"prompt": [[]]}
prompt[1] | expected a string
    {"prompt": ["a", 5]}
prompt[1] | expected an integer
    {"prompt": [5, "a"]}
prompt[0] | expected at least 0
    {"prompt": [-1]}
prompt[1] | expected a list
    {"prompt": [[1], "a"]}
prompt | expected at most 8 prompts, got 9
    {"prompt": ["a", "a", "a", "a", "a", "a", "a", "a", "a"]}
best_of | expected null or the value of n
    {"best_of": 2}
echo | expected null or false
    {"echo": true}
suffix | not supported
    {"suffix": "b"}
logprobs | expected an integer, got true
    {"logprobs": true}
messages | unknown field
    {"messages": []}
"""
RESPONSES = """
input | expected a string or a list, got null
    {"input": null}
input | expected at least 1 entry
    {"input": []}
input[0].type | this kind of item is not supported
    {"input": [{"type": "function_call"}]}
input[0].content[0].image_url | not an image
    {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "NO_IMAGE"}]}]}
input[0].content[0].type | unknown type
    {"input": [{"role": "user", "content": [{"type": "input_file"}]}]}
input[0].content[0].image_url | required, but missing
    {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "a"}]}]}
input[0].role | expected 'user'
    {"input": [{"role": "assistant", "content": "a"}]}
input[0].role | must be the only one
    {"instructions": "a", "input": [{"role": "system", "content": "b"}, {"role": "user", "content": "c"}]}
previous_response_id | there is no response 'resp_1'
    {"previous_response_id": "resp_1"}
background | expected null or false
    {"background": true}
reasoning | not supported
    {"reasoning": {"effort": "high"}}
text.format.schema | required, but missing
    {"text": {"format": {"type": "json_schema", "name": "a"}}}
top_logprobs | needs include to be
    {"top_logprobs": 2}
include[0] | expected 'message.output_text.logprobs'
    {"include": ["file_search_call.results"]}
metadata.a | expected a string
    {"metadata": {"a": 1}}
max_tokens | unknown field
    {"max_tokens": 3}
stop | unknown field
    {"stop": "a"}
"""
NO_IMAGE = "data:image/png;base64," + base64.b64encode(b"not an image").decode()
"""Stands where the tables say so."""
Case = tuple[dict[str, Any], str, str]


def cases(
    table: str, right: dict[str, Any], fields: Callable[[str], dict[str, Any]] = json.loads
) -> list[Case]:
    """(body, place of its fault, a part of the sentence) of each entry; `fields` reads what is wrong."""
    lines = table.replace("NO_IMAGE", NO_IMAGE).strip().splitlines()
    heads = [line.split(" | ") for line in lines[::2]]
    return [
        ({**right, **fields(wrong.strip())}, place, sentence)
        for (place, sentence), wrong in zip(heads, lines[1::2], strict=True)
    ]


def of_turns(roles: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": "a"} for role in roles.split()]}


def of_content(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": json.loads(text)}]}

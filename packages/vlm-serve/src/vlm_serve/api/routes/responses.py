"""`/v1/responses`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vlm_serve.api.answers.answer import Answer
from vlm_serve.api.answers.input_items import item_list
from vlm_serve.api.answers.response import AnswerResponse
from vlm_serve.api.answers.response_object import ResponseShape
from vlm_serve.api.answers.running import RunningAnswers
from vlm_serve.api.conversation import Media, Turn, instructions_message, read_conversation
from vlm_serve.api.errors import refused
from vlm_serve.api.guard.context import owner
from vlm_serve.api.guard.errors import RequestError
from vlm_serve.api.schema.input_items import item_query
from vlm_serve.api.schema.responses import InputImage, InputItem, ResponseBody
from vlm_serve.api.schema.strict import parsed
from vlm_serve.api.server import Server, new_id, server_of
from vlm_serve.api.stored_responses import StoredItem, StoredResponse
from vlm_serve.api.transport.body import read_json
from vlm_serve.api.transport.disconnect import while_connected
from vlm_serve.engine.request import ChatMessage, ChatPrompt, SamplingParams

FIELDS = {"prompt": "input", "grammar": "text.format"}


async def create(request: Request) -> Response:
    body = parsed(ResponseBody, await read_json(request))
    server = server_of(request)
    facts, params = server.facts(body.model), body.params()
    server.check_limits(1, params.max_tokens, facts, "max_output_tokens")
    earlier, text = _earlier(server, request, body), body.instructions
    before = tuple(item.message for item in earlier)
    instructions = () if text is None else (instructions_message(text, facts, before),)
    turns = _turns(body)
    reading = read_conversation(turns, facts, server.settings, (*instructions, *before))
    messages, places = await while_connected(request.receive, reading)
    prompt = ChatPrompt((*instructions, *before, *messages))

    def keep(response: Mapping[str, Any], answer: Answer) -> None:
        """Instructions are of this response alone."""
        if body.keep:
            item, message = response["output"][0], ChatMessage("assistant", (answer.text,))
            said = StoredItem(item["id"], "assistant", item["status"], message)
            items = (*earlier, *_items(body, turns, messages, earlier), said)
            server.responses.put(owner(request.scope), StoredResponse(response, items))

    requests = server.requests(request, [prompt], params, 1)
    running = RunningAnswers(server.engine, requests, server.metrics, fields=FIELDS, places=places)
    shape = ResponseShape(_echo(body, params, facts.name), new_id("msg_"), bool(body.include), keep)
    return AnswerResponse(running, shape, stream=bool(body.stream))


def _earlier(server: Server, request: Request, body: ResponseBody) -> tuple[StoredItem, ...]:
    """The conversation that `previous_response_id` names."""
    name = body.previous_response_id
    if name is None:
        return ()
    stored = server.responses.get(owner(request.scope), name)
    if stored is None:
        text = f"there is no response {name[:80]!r}, or no longer: responses are kept in memory"
        raise refused("previous_response_id", text, code="previous_response_not_found")
    return stored.items


def _turns(body: ResponseBody) -> list[Turn]:
    if isinstance(body.input, str):
        return [Turn("user", (body.input,), "input")]
    return [_turn(item, f"input[{i}]") for i, item in enumerate(body.input)]


def _turn(item: InputItem, place: str) -> Turn:
    role = "system" if item.role == "developer" else item.role
    if isinstance(item.content, str):
        return Turn(role, (item.content,), place)
    parts = tuple(
        Media("image", part.image_url, f"{place}.content[{i}].image_url")
        if isinstance(part, InputImage)
        else part.text
        for i, part in enumerate(item.content)
    )
    return Turn(role, parts, place)


def _items(
    body: ResponseBody, turns: Sequence[Turn], messages: Sequence[ChatMessage], earlier: Sequence[StoredItem]
) -> list[StoredItem]:
    """The body's messages as they are stored. An id that the conversation has already is replaced."""
    ids, items = {item.id for item in earlier}, list[StoredItem]()
    sent = [None] if isinstance(body.input, str) else body.input
    for item, turn, message in zip(sent, turns, messages, strict=True):
        name = item.id if item is not None and item.id and item.id not in ids else new_id("msg_")
        ids.add(name)
        role, status = (item.role, item.status) if item is not None else ("user", None)
        urls = tuple(_head(part.url) for part in turn.parts if isinstance(part, Media))
        items.append(StoredItem(name, role, status or "completed", message, urls))
    return items


def _head(url: str) -> str:
    """A URL; of a `data:` URL the part before the base64, which is stored as bytes."""
    return url[: url.find(",") + 1] if url[:5].lower() == "data:" else url


def _echo(body: ResponseBody, params: SamplingParams, model: str) -> dict[str, Any]:
    """The fields of a response that repeat the request, or say what this server does."""
    return {
        "id": new_id("resp_"),
        "object": "response",
        "created_at": int(time.time()),
        "background": False,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": model,
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "safety_identifier": body.safety_identifier,
        "temperature": params.temperature,
        "text": {"format": body.format.model_dump(by_alias=True, exclude_none=True)},
        "tool_choice": body.tool_choice or "auto",
        "tools": [],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": params.top_p,
        "truncation": "disabled",
        "user": body.user,
    }


async def retrieve(request: Request) -> Response:
    stored = _stored(request)
    for name in request.query_params:
        raise refused(name, "this parameter is not supported", code="unsupported_parameter")
    return JSONResponse(stored.body)


async def input_items(request: Request) -> Response:
    """What the response answered: the messages of its conversation before its own."""
    items, query = _stored(request).items[:-1], item_query(request.query_params.multi_items())
    return await to_thread.run_sync(lambda: JSONResponse(item_list(items, query)))  # images may be large


def _stored(request: Request) -> StoredResponse:
    stored = server_of(request).responses.get(owner(request.scope), request.path_params["response"])
    if stored is None:
        raise _missing(request)
    return stored


async def delete(request: Request) -> Response:
    name = request.path_params["response"]
    if not server_of(request).responses.delete(owner(request.scope), name):
        raise _missing(request)
    return JSONResponse({"id": name, "object": "response", "deleted": True})


def _missing(request: Request) -> RequestError:
    name = request.path_params["response"]
    return RequestError(404, f"There is no response {name[:80]!r}, or no longer.", code="response_not_found")

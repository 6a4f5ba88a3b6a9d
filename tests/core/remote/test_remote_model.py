"""A model of a server that is asked many times: refusals are those of a row, outages those of the work."""

import json

import pytest
from chat_stub import Stub, raw_server, reply, running
from starlette.responses import JSONResponse

from vlm_core.errors import BadSample
from vlm_core.remote import ChatClient, Decoding, RemoteModel, RequestFailed, Retries, server_at

HI = [{"role": "user", "content": "hi"}]


def model_at(url):
    return RemoteModel(ChatClient(server_at(url)), "tiny", retries=Retries(delays=()))


def test_an_answer_is_stripped():
    stub = Stub(answer=lambda body: "  yes \n")
    with running(stub.app) as url:
        model = RemoteModel.at(ChatClient(server_at(url)), None)
        assert (model.name, model.digest) == ("tiny", "ab" * 32)
        assert model.complete(HI, Decoding()).text == "yes"
        stub.models = [{"id": "tiny", "digest": "cd" * 32}]
        assert model.listed().digest == "cd" * 32


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_a_refusal_concerns_one_conversation(status):
    refusing = Stub(answer=lambda body: JSONResponse({}, status))
    with running(refusing.app) as url, pytest.raises(BadSample, match=rf"\({status}\)") as caught:
        model_at(url).complete(HI, Decoding())
    assert caught.value.reason == "refused by the server"


@pytest.mark.parametrize("status", [401, 403, 404, 408, 429, 500, 503, 504])
def test_other_errors_concern_all(status):
    failing = Stub(answer=lambda body: JSONResponse({}, status))
    with running(failing.app) as url, pytest.raises(RequestFailed, match=rf"\({status}\)"):
        model_at(url).complete(HI, Decoding())


def test_a_withheld_answer_is_none():
    choice = {"message": {"content": None}, "finish_reason": "content_filter"}
    body = json.dumps({"choices": [choice]})
    with (
        raw_server(reply("200 OK", body)) as url,
        pytest.raises(BadSample, match="the server withheld its answer"),
    ):
        model_at(url).complete(HI, Decoding())

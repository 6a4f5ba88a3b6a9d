"""`/v1/responses/{id}/input_items` with the openai client."""

import asyncio

import openai
import pytest
from live_server import asgi_client
from openai_shapes import check_shape
from scripted_engine import ScriptedEngine

from vlm_serve.api.app import create_app

URLS = ["message.input_image.image_url"]


@pytest.fixture
def items_of(ask):
    """`items_of(name, **query)`: all items, page by page, as the client's iterator gives them."""

    async def read(client, name, query):
        return [item async for item in client.responses.input_items.list(name, **query)]

    return lambda name, **query: ask(lambda client: read(client, name, query))


@pytest.fixture
def page_of(ask):
    return lambda name, **query: ask(
        lambda c: c.responses.input_items.with_raw_response.list(name, **query)
    ).parse()


@pytest.fixture
def create(ask):
    settings = {"model": "tiny", "temperature": 0, "max_output_tokens": 3}
    return lambda **arguments: ask(lambda c: c.responses.create(**{**settings, **arguments}))


@pytest.fixture
def conversation(create, data_url):
    """Three responses, each of which continues the one before; the images of the first."""
    image = data_url("red")
    content = [{"type": "input_image", "image_url": image}, {"type": "input_text", "text": "color?"}]
    first = create(input=[{"role": "user", "content": content, "id": "msg_mine"}])
    second = create(input="and now?", previous_response_id=first.id)
    third = create(input="and then?", previous_response_id=second.id)
    return image, [first, second, third]


def texts(items):
    return [part.text for item in items for part in item.content if hasattr(part, "text")]


def test_items_are_those_of_the_whole_conversation(conversation, items_of):
    image, (first, second, third) = conversation
    items = items_of(third.id, order="asc")
    for item in items:
        check_shape(item)
    answers = [first.output_text, second.output_text]
    assert texts(items) == ["color?", answers[0], "and now?", answers[1], "and then?"]
    assert [item.role for item in items] == ["user", "assistant", "user", "assistant", "user"]
    assert [item.status for item in items] == ["completed", "incomplete"] * 2 + ["completed"]
    assert items[0].id == "msg_mine"
    assert items[1].id == first.output[0].id
    assert [item.id for item in items_of(second.id, order="asc")] == [item.id for item in items[:3]]
    assert items[0].content[0].image_url is None
    assert items_of(third.id, order="asc", include=URLS)[0].content[0].image_url == image


def test_pages(conversation, items_of, page_of):
    _, (*_, third) = conversation
    ids = [item.id for item in items_of(third.id)]
    assert ids == [item.id for item in items_of(third.id, order="asc")][::-1]
    assert len(set(ids)) == 5
    for limit in (1, 2, 5, 100):
        assert [item.id for item in items_of(third.id, limit=limit)] == ids
    page = page_of(third.id, limit=2, after=ids[0])
    assert [item.id for item in page.data] == ids[1:3]
    assert page.to_dict().keys() == {"object", "data", "first_id", "last_id", "has_more"}
    assert (page.first_id, page.last_id, page.has_more) == (ids[1], ids[2], True)
    assert not page_of(third.id, limit=2, after=ids[2]).has_more
    assert page_of(third.id, after=ids[-1]).data == []


def test_the_default_is_a_page_of_twenty(create, page_of):
    turns = [{"role": ("user", "assistant")[i % 2], "content": f"turn {i}"} for i in range(25)]
    response = create(input=turns)
    page = page_of(response.id)
    assert texts(page.data) == [f"turn {i}" for i in range(24, 4, -1)]
    assert page.has_more


def test_equal_ids_don_t_end_in_an_endless_list(create, items_of):
    turns = [{"role": ("user", "assistant")[i % 2], "content": str(i), "id": "msg_1"} for i in range(3)]
    first = create(input=turns)
    again = create(input=[{"role": "user", "content": "3", "id": "msg_1"}], previous_response_id=first.id)
    items = items_of(again.id, limit=1, order="asc")
    assert texts(items) == ["0", "1", "2", first.output_text, "3"]
    assert len({item.id for item in items}) == 5


def test_roles_are_those_that_were_sent(settings):
    """Instructions are no item."""

    async def run():
        async with asgi_client(create_app(ScriptedEngine(), settings)) as http:
            client = openai.AsyncOpenAI(api_key="none", base_url="http://localhost/v1", http_client=http)
            names = []
            for fields in (
                {"input": [{"role": "developer", "content": "be kind"}, {"role": "user", "content": "a"}]},
                {"input": "a", "instructions": "be short"},
            ):
                names.append((await client.responses.create(model="scripted", **fields)).id)
            return [(await client.responses.input_items.list(name, order="asc")).data for name in names]

    first, second = asyncio.run(run())
    assert [(item.role, item.content[0].text) for item in first] == [("developer", "be kind"), ("user", "a")]
    assert [(item.role, item.content[0].text) for item in second] == [("user", "a")]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=1.5", "limit"),
        ("limit=", "limit"),
        ("limit=%D9%A1", "limit"),
        ("limit=1&limit=2", "limit"),
        ("order=up", "order"),
        ("after=msg_2", "after"),
        ("after=", "after"),
        ("before=msg_1", "before"),
        ("include[]=file_search_call.results", "include"),
        ("include=message.output_text.logprobs", "include"),
    ],
)
def test_a_wrong_query_is_refused_by_name(client, conversation, query, param):
    _, (first, *_) = conversation
    answer = asyncio.run(client.get(f"/v1/responses/{first.id}/input_items?{query}"))
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert error["message"].startswith(f"{param}: ")


def test_a_response_that_is_not_there(ask, create, page_of):
    with pytest.raises(openai.NotFoundError, match="There is no response"):
        page_of("resp_1")
    response = create(input="a")
    ask(lambda c: c.responses.delete(response.id))
    with pytest.raises(openai.NotFoundError):
        page_of(response.id)

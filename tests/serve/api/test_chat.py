"""`/v1/chat/completions` with the openai client."""

import asyncio

import openai

QUESTION = [{"role": "user", "content": "what color is the shape?"}]


def test_an_answer(openai_async):
    async def ask():
        return await openai_async.chat.completions.create(
            model="tiny", messages=QUESTION, temperature=0, max_tokens=6
        )

    answer = asyncio.run(ask())
    print(answer)


def test_live(server):
    client = openai.OpenAI(api_key="none", base_url="http://{}:{}/v1".format(*server), max_retries=0)
    answer = client.chat.completions.create(model="tiny", messages=QUESTION, temperature=0, max_tokens=6)
    stream = client.chat.completions.create(
        model="tiny",
        messages=QUESTION,
        temperature=0,
        max_tokens=6,
        stream=True,
        stream_options={"include_usage": True},
        logprobs=True,
        top_logprobs=2,
    )
    print(list(stream))
    print(answer)

"""OpenAI's SDK."""

import openai

from play import CHAT, HTTP_URL, STREAMED, play


def client_for(case):
    return openai.OpenAI(
        base_url=f"{HTTP_URL}/v1", api_key=case.token or "none", default_headers=case.run_header
    )


def no_token(case):
    return {} if case.token else {"Authorization": openai.Omit()}


def chat(case):
    client = client_for(case)
    if case.model is None:
        return client.post("/chat/completions", body=case.body(), cast_to=object)
    answer = client.chat.completions.create(
        model=case.model, messages=case.messages, extra_headers=no_token(case)
    )
    return answer.choices[0].message.content


def stream(case):
    chunks = client_for(case).chat.completions.create(
        model=case.model, messages=case.messages, stream=True, extra_headers=no_token(case)
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


play("openai-python", "openai", chat, [*CHAT, "no-model"])
play("openai-python stream", "openai", stream, STREAMED)

"""Anthropic's SDK."""

import anthropic

from play import CHAT, HTTP_URL, STREAMED, play


def client_for(case):
    return anthropic.Anthropic(
        base_url=HTTP_URL, auth_token=case.token or "none", default_headers=case.run_header
    )


def no_token(case):
    return {} if case.token else {"Authorization": anthropic.Omit()}


def chat(case):
    answer = client_for(case).messages.create(
        model=case.model,
        messages=case.messages,
        max_tokens=8,
        extra_headers=no_token(case),
    )
    return answer.content[0].text


def stream(case):
    with client_for(case).messages.stream(
        model=case.model,
        messages=case.messages,
        max_tokens=8,
        extra_headers=no_token(case),
    ) as chunks:
        return "".join(chunks.text_stream)


play("anthropic-python", "anthropic", chat, CHAT)
play("anthropic-python stream", "anthropic", stream, STREAMED)

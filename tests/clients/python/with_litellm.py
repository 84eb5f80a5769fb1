"""LiteLLM, with a server that speaks OpenAI's API."""

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402

from play import CHAT, HTTP_URL, STREAMED, play  # noqa: E402

litellm.suppress_debug_info = True
litellm.telemetry = False


def complete(case, **more):
    return litellm.completion(
        model=f"openai/{case.model}",
        messages=case.messages,
        api_base=f"{HTTP_URL}/v1",
        api_key=case.token,
        max_retries=0,
        num_retries=0,
        **more,
    )


def chat(case):
    return complete(case).choices[0].message.content


def stream(case):
    chunks = complete(case, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


# It always sends a token.
play("litellm", "litellm", chat, [name for name in CHAT if name != "no-token"])
play("litellm stream", "litellm", stream, [name for name in STREAMED if name != "no-token"])

"""Hugging Face's `InferenceClient`."""

import os

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"

from huggingface_hub import InferenceClient  # noqa: E402

from play import CHAT, HTTP_URL, STREAMED, play  # noqa: E402


def client_for(case):
    return InferenceClient(base_url=f"{HTTP_URL}/v1", token=case.token, headers=case.run_header)


def chat(case):
    answer = client_for(case).chat.completions.create(model=case.model, messages=case.messages)
    return answer.choices[0].message.content


def stream(case):
    # A client that is dropped closes its streams.
    client = client_for(case)
    chunks = client.chat.completions.create(
        model=case.model, messages=case.messages, stream=True
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


play("huggingface_hub", "huggingface_hub", chat, CHAT)
play("huggingface_hub stream", "huggingface_hub", stream, STREAMED)

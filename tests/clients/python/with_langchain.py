"""LangChain's `ChatOpenAI`."""

from langchain_openai import ChatOpenAI

from play import CHAT, HTTP_URL, STREAMED, play


def client_for(case):
    return ChatOpenAI(base_url=f"{HTTP_URL}/v1", api_key=case.token, model=case.model)


def chat(case):
    return client_for(case).invoke(case.prompt).content


def stream(case):
    return "".join(chunk.content for chunk in client_for(case).stream(case.prompt))


# It always sends a token.
play("langchain-openai", "langchain-openai", chat, [name for name in CHAT if name != "no-token"])
streamed = [name for name in STREAMED if name != "no-token"]
play("langchain-openai stream", "langchain-openai", stream, streamed)

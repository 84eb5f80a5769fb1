"""aiohttp."""

import aiohttp

from play import HTTP_URL, RAW, Answer, play


async def post(case):
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(headers=case.headers, timeout=timeout) as session:
        if case.upload:
            request = session.post(f"{HTTP_URL}/upload", data=b"\0" * case.upload)
        else:
            request = session.post(f"{HTTP_URL}/v1/chat/completions", json=case.body())
        async with request as answer:
            return Answer(answer.status, await answer.text())


play("aiohttp", "aiohttp", post, RAW)

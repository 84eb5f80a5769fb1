"""httpx, over HTTP/1.1 and over HTTP/2 without TLS."""

import httpx

from play import HTTP2_URL, HTTP_URL, RAW, Answer, play


def post(case, url, **version):
    with httpx.Client(timeout=30, **version) as client:
        if case.upload:
            answer = client.post(
                f"{url}/upload", content=b"\0" * case.upload, headers=case.headers
            )
        else:
            answer = client.post(
                f"{url}/v1/chat/completions", json=case.body(), headers=case.headers
            )
        return Answer(answer.status_code, answer.text)


def over_http1(case):
    return post(case, HTTP_URL)


def over_http2(case):
    return post(case, HTTP2_URL, http1=False, http2=True)


play("httpx", "httpx", over_http1, RAW)
play("httpx HTTP/2", "httpx", over_http2, RAW)

"""requests."""

import requests

from play import HTTP_URL, RAW, Answer, play


def post(case):
    if case.upload:
        answer = requests.post(
            f"{HTTP_URL}/upload", data=b"\0" * case.upload, headers=case.headers, timeout=30
        )
    else:
        answer = requests.post(
            f"{HTTP_URL}/v1/chat/completions", json=case.body(), headers=case.headers, timeout=30
        )
    return Answer(answer.status_code, answer.text)


play("requests", "requests", post, RAW)

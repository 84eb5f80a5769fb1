"""curl, over HTTP/1.1 and over HTTP/2 without TLS. A long body waits for `100 Continue` over
HTTP/1.1, unless it is told not to."""

import json
import subprocess

from play import HTTP2_URL, HTTP_URL, RAW, UPLOADS, Answer, play


class CurlError(Exception):
    """What curl prints if it fails."""


def post(case, url, *options):
    fields = [f"{name}: {value}" for name, value in case.headers.items()]
    path = "/upload" if case.upload else "/v1/chat/completions"
    body = b"\0" * case.upload if case.upload else json.dumps(case.body()).encode()
    if not case.upload:
        fields.append("content-type: application/json")
    command = ["curl", "--silent", "--show-error", "--max-time", "30", *options]
    for field in fields:
        command += ["--header", field]
    command += ["--data-binary", "@-", "--write-out", "\n%{http_code}", url + path]
    ended = subprocess.run(command, input=body, capture_output=True)
    if ended.returncode != 0:
        raise CurlError(ended.stderr.decode())
    text, _, status = ended.stdout.decode().rpartition("\n")
    return Answer(int(status), text)


def over_http1(case):
    return post(case, HTTP_URL)


def without_expect(case):
    return post(case, HTTP_URL, "--header", "Expect:")


def over_http2(case):
    return post(case, HTTP2_URL, "--http2-prior-knowledge")


play("curl", "curl", over_http1, RAW)
play("curl without Expect", "curl", without_expect, UPLOADS)
play("curl HTTP/2", "curl", over_http2, RAW)

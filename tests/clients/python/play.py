"""Plays the cases of `cases.json` with a client, and prints a line of JSON for each."""

import asyncio
import inspect
import itertools
import json
import os
import subprocess
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path

HTTP_URL = os.environ["HTTP_URL"].rstrip("/")
GRPC_URL = os.environ.get("GRPC_URL", "").rstrip("/")
VIA = os.environ.get("VIA", "")
# For clients that speak HTTP/2 without TLS.
HTTP2_URL = os.environ.get("HTTP2_URL", HTTP_URL).rstrip("/")
# Where the server itself answers what it has seen, if there is a proxy in front.
SEEN_URL = os.environ.get("SEEN_URL", HTTP_URL).rstrip("/")
# Which cases and clients run. Default: all.
ONLY_CASES = os.environ.get("CASES", "").split()
ONLY_CLIENTS = [name for name in os.environ.get("CLIENTS", "").split(",") if name]
CASES = json.loads((Path(__file__).parent.parent / "cases.json").read_text())

_numbers = itertools.count(1)


class Case:
    """One request of a case: what to send."""

    def __init__(self, name, client):
        case = CASES[name]
        self.name = name
        self.run = f"{client.replace(' ', '-').replace('/', '')}-{os.getpid()}-{next(_numbers)}"
        self.token = None if name == "no-token" else f"{case.get('token', name)}.{self.run}"
        self.key = self.run if self.token is None else self.token
        self.model = case.get("model", "echo")
        self.prompt = "x" * case.get("size", 5)
        self.upload = case.get("upload", 0)
        self.must_stream = case.get("stream", False)

    @property
    def headers(self):
        """The fields that name the case, for clients that send what they are given."""
        return {"authorization": f"Bearer {self.token}"} if self.token else {"x-run": self.run}

    @property
    def run_header(self):
        """The field that names a case without a token."""
        return {} if self.token else {"x-run": self.run}

    @property
    def messages(self):
        return [{"role": "user", "content": self.prompt}]

    def body(self, stream=False):
        body = {"messages": self.messages, "stream": stream or self.must_stream}
        return body if self.model is None else {"model": self.model, **body}


class Answer:
    """What a client that raises nothing has read."""

    def __init__(self, status, text):
        self.status, self.text = status, text


def seen(key):
    with urllib.request.urlopen(f"{SEEN_URL}/seen/{key}", timeout=5) as response:
        return json.load(response)


def _status_of(error):
    for value in (
        getattr(error, "status_code", None),
        getattr(error, "status", None),
        getattr(getattr(error, "response", None), "status_code", None),
    ):
        if isinstance(value, int):
            return value
    code = getattr(error, "code", None)
    return code().name if callable(code) else None


def version_of(package):
    if package == "curl":
        return subprocess.check_output(["curl", "--version"], text=True).split()[1]
    return version(package)


def _line(client, package, case, began, outcome):
    seconds = round(time.monotonic() - began, 2)
    is_error = isinstance(outcome, BaseException)
    counted = seen(case.key)
    at = counted.get("at", [])
    gaps = [round(after - before, 2) for before, after in zip(at, at[1:])]
    return {
        "client": client,
        "version": version_of(package),
        "via": VIA,
        "case": case.name,
        "tries": counted["tries"],
        "seconds": seconds,
        "longest_wait": max(gaps, default=0),
        "exception": type(outcome).__name__ if is_error else None,
        "status": _status_of(outcome) if is_error else outcome.status,
        "printed": (str(outcome) if is_error else outcome.text)[-1500:],
        "sent": {
            name: value
            for name, value in counted.get("headers", {}).items()
            if name not in ("authorization", "x-api-key")
        },
    }


def play(client, package, call, names):
    """Plays cases with `call(case)`, which may be a coroutine. It returns an `Answer` or a text."""
    if ONLY_CLIENTS and client not in ONLY_CLIENTS:
        return
    for name in names:
        if ONLY_CASES and name not in ONLY_CASES:
            continue
        for _ in range(CASES[name].get("times", 1)):
            case = Case(name, client)
            began = time.monotonic()
            try:
                outcome = call(case)
                if inspect.iscoroutine(outcome):
                    outcome = asyncio.run(outcome)
                if not isinstance(outcome, Answer):
                    outcome = Answer(200, str(outcome))
            except Exception as error:  # noqa: BLE001: what is raised is what is tested
                outcome = error
            print(json.dumps(_line(client, package, case, began, outcome)), flush=True)


DENIED = ["no-token", "wrong", "used-up", "limited", "unknown", "too-large"]
RETRIED = ["rate-short", "rate-long", "on-hold", "away"]
# Of a client that calls a model.
CHAT = ["good", *DENIED, *RETRIED]
STREAMED = ["good", *DENIED, *RETRIED, "cut"]
UPLOADS = ["upload-2", "upload-8", "upload-20"]
# Of a client that sends what it is given.
RAW = ["good", *DENIED, "no-model", *RETRIED, "cut", "torn", *UPLOADS]
GRPC = ["good", "no-token", "wrong", "used-up", "limited", *RETRIED]

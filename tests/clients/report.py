"""Reads lines of JSON of the client programs, and prints a Markdown table of clients and cases.

Exits with 1 if a client did not read a denial, tried too often or too rarely, or slept."""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
CASES = json.loads((HERE / "cases.json").read_text())

# How often a client sends a request that is worth a retry. Others send it once.
TRIES = {
    "openai-python": 3,
    "anthropic-python": 3,
    "langchain-openai": 3,
    "openai-node": 3,
    "ai": 3,
    "grpcio retrying": 3,
    "grpc-js retrying": 3,
}

# Clients that print the body, and those that speak gRPC.
RAW = ("httpx", "requests", "aiohttp", "fetch", "curl")
GRPC = ("grpcio", "grpc-js", "connect")

GRPC_CODES = {
    401: (16, "UNAUTHENTICATED"),
    402: (8, "RESOURCE_EXHAUSTED"),
    403: (8, "RESOURCE_EXHAUSTED"),
    429: (8, "RESOURCE_EXHAUSTED"),
    503: (14, "UNAVAILABLE"),
}

# What a client does whatever the server answers: its tries, and the longest wait in seconds.
KNOWN = {
    # The AI SDK does not read `x-should-retry`, and backs off by itself after a long `Retry-After`.
    ("ai", "rate-long"): (3, 4.5),
}

# The status that a client gets in place of 503, because it would retry that without end.
INSTEAD_OF_503 = {"@huggingface/inference": 504}

# Where a stream that was cut off cannot say why: gRPC-Web, if the meter stands outside of it.
TORN = {("connect gRPC-Web stream", "one port", "cut")}

MAX_WAIT = 2.0


def family(client):
    return client.removesuffix(" stream")


def tries_of(line):
    case = CASES[line["case"]]
    if line["case"] == "after-denied":
        return case["calls"]
    return TRIES.get(family(line["client"]), 1) if case.get("retried") else 1


def raw_detail(printed):
    """The `detail` of a problem: a whole body, or the data of the last event."""
    try:
        return json.loads(printed.strip().rpartition("data: ")[2])["detail"]
    except (ValueError, KeyError, TypeError):
        return None


def statuses_of(line, case):
    if line["client"].startswith(GRPC):
        return GRPC_CODES[case["status"]]
    if case["status"] == 503:
        return (INSTEAD_OF_503.get(family(line["client"]), 503),)
    return (case["status"],)


def fault(line):
    """What is wrong with this line, or `None`."""
    name, client = line["case"], line["client"]
    case = CASES[name]
    is_raw = client.startswith(RAW)
    tries, max_wait = KNOWN.get((family(client), name), (tries_of(line), MAX_WAIT))
    if line["tries"] != tries:
        return f"{line['tries']} tries, not {tries}"
    if line["longest_wait"] > max_wait or line["seconds"] > max_wait * tries + 5:
        return f"waited for {line['longest_wait']} s of {line['seconds']} s"
    if name == "torn" or (client, line["via"], name) in TORN:
        return None if line["exception"] else "took a part for the whole"
    if "says" not in case:
        return None if line["exception"] is None else line["exception"]
    if is_raw:
        if line["exception"]:
            return line["exception"]
        if case["says"] not in (raw_detail(line["printed"]) or ""):
            return "no `detail`"
    else:
        if line["exception"] is None:
            return "took it for a success"
        if case["says"] not in line["printed"]:
            return "does not print the sentence"
    # What a stream that was cut off raises has no status of its own.
    if (is_raw or name != "cut") and line["status"] not in statuses_of(line, case):
        return f"status {line['status']}"
    return None


def cell(lines):
    faults = [found for line in lines if (found := fault(line))]
    times = CASES[lines[0]["case"]].get("times", 1)
    if len(lines) != times:
        faults.append(f"{len(lines)} runs, not {times}")
    if times > 1:
        text = f"{len(lines) - len(faults)}/{times}"
    else:
        text = f"{lines[0]['tries']}×" if lines[0]["tries"] > 1 else "✓"
    return (f"**{text} {faults[0]}**" if faults else text), bool(faults)


def main():
    lines = [json.loads(line) for line in sys.stdin if line.startswith("{")]
    rows = {}
    for line in lines:
        name = f"{line['client']} {line['version']}"
        row = rows.setdefault((line["via"], name), {})
        row.setdefault(line["case"], []).append(line)
    columns = [name for name in CASES if any(name in row for row in rows.values())]
    print(f"| client | through | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 2) + "|")
    failed = 0
    for (via, client), row in sorted(rows.items()):
        cells = []
        for name in columns:
            text, is_failed = cell(row[name]) if name in row else ("", False)
            cells.append(text)
            failed += is_failed
        print(f"| {client} | {via} | {' | '.join(cells)} |")
    print("\n✓: read at the first try. 3×: read after three tries. 10/10: each of ten was read.")
    seen = set()
    for line in lines:
        what = (line["client"], line["via"], line["case"], fault(line))
        if what[3] and what not in seen:
            seen.add(what)
            client, via, name, wrong = what
            where = f" through {via}" if via else ""
            says = f"{line['exception']}, status {line['status']}: {line['printed'][:300]!r}"
            print(f"\n* {client}{where}, {name}: {wrong}. {says}")
    if "--headers" in sys.argv:
        print_headers(lines)
    if not lines or failed:
        sys.exit(1)


def print_headers(lines):
    print("\n| client | sends |\n|---|---|")
    shown = set()
    for line in lines:
        if line["via"] or line["client"] in shown or not line["sent"]:
            continue
        shown.add(line["client"])
        fields = "<br>".join(f"`{name}: {value}`" for name, value in line["sent"].items())
        print(f"| {line['client']} {line['version']} | {fields} |")


main()

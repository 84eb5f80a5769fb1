"""grpcio: by default, and with a service config that retries."""

import json

import grpc

from play import GRPC, GRPC_URL, play

METHOD = "/denoise.v1.Denoise/"
# `Audio { pcm: [0; 4] }`
AUDIO = b"\x0a\x04\0\0\0\0"
RETRIES = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.1s",
                "maxBackoff": "0.2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
            },
        }
    ]
}


def channel(options=()):
    return grpc.insecure_channel(GRPC_URL.removeprefix("http://"), options=options)


def unary(case, options=()):
    with channel(options) as open_channel:
        call = open_channel.unary_unary(METHOD + "Whole")
        return call(AUDIO, metadata=list(case.headers.items()), timeout=8)


def stream(case):
    with channel() as open_channel:
        call = open_channel.unary_stream(METHOD + "Split")
        return list(call(AUDIO, metadata=list(case.headers.items()), timeout=8))


def retrying(case):
    return unary(case, [("grpc.service_config", json.dumps(RETRIES))])


play("grpcio", "grpcio", unary, GRPC)
play("grpcio stream", "grpcio", stream, [*GRPC, "cut"])
play("grpcio retrying", "grpcio", retrying, GRPC)

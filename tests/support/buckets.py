"""A bucket on this machine for tests: moto, which speaks as S3 does, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from urllib.request import Request, urlopen
from uuid import uuid4

NEEDED = ("s3fs", "moto", "flask_cors")
AUTHORIZED = "AWS4-HMAC-SHA256 Credential=testing/20260101/us-east-1/s3/aws4_request"  # moto asks for no signature
CURE = 'a bucket for tests needs {}: `pip install -e ".[cluster,cluster-test]"`'

# Each request as one step: as S3 does and moto does not, which could let two writers in at once. Ends with its standard input.
SERVER = """
import logging, os, sys, threading
from werkzeug.serving import make_server
from moto.server import DomainDispatcherApplication, create_backend_app
logging.getLogger("werkzeug").setLevel(logging.ERROR)
application, turn = DomainDispatcherApplication(create_backend_app), threading.Lock()
def one_at_a_time(environ, start_response):
    with turn:
        return list(application(environ, start_response))
server = make_server("127.0.0.1", 0, one_at_a_time, threaded=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.read()
os._exit(0)
"""


def lacking() -> str:
    """What is not installed of it, and the cure; empty where all is."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    return CURE.format(" and ".join(missing)) if missing else ""


def environment(port: int) -> dict[str, str]:
    """What brings S3's clients to the server, with credentials that it accepts, and lets them fail soon."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        "AWS_MAX_ATTEMPTS": "1",
    }


@contextmanager
def server() -> Iterator[int]:
    """The port of a running server."""
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()


def new_bucket(port: int) -> str:
    """The name of a bucket that was not there before."""
    name = f"bucket-{uuid4().hex}"
    with urlopen(Request(f"http://127.0.0.1:{port}/{name}", method="PUT", headers={"Authorization": AUTHORIZED})):
        return name

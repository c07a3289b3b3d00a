"""An object is there whole or not at all, also when the store gives up in the middle: told by a server that does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from slipway.object_path import ObjectPath, open_store

MIB = 2**20


class GivingUp(ThreadingHTTPServer):
    """As much of S3 as writing needs. It takes the first `room` parts of an object, and none with -1, not even a start.

    `made`: how many bytes there were in what became an object; none: nothing did.
    """

    room = 99
    made: int | None = None
    taken = 0


class Answer(BaseHTTPRequestHandler):
    server: GivingUp

    def do_POST(self) -> None:
        self._take_body()
        if "uploads" not in parse_qs(urlsplit(self.path).query, keep_blank_values=True):
            self.server.made = self.server.taken
            self._say(200, "<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>")
        elif self.server.room < 0:
            self._say(507, "<Error><Code>NoRoom</Code><Message>the disk is full</Message></Error>")
        else:
            self._say(200, "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")

    def do_PUT(self) -> None:
        length = self._take_body()
        part = parse_qs(urlsplit(self.path).query).get("partNumber")
        if part is None:
            self.server.made = length
            self._say(200, "", ETag='"1"')
        elif int(part[0]) > self.server.room:
            self._say(507, "<Error><Code>NoRoom</Code><Message>the disk is full</Message></Error>")
        else:
            self.server.taken += length
            self._say(200, "", ETag=f'"{part[0]}"')

    def do_DELETE(self) -> None:
        self._say(204, "")

    def _take_body(self) -> int:
        if self.headers["transfer-encoding"] != "chunked":
            return len(self.rfile.read(int(self.headers["content-length"] or 0)))
        while size := int(self.rfile.readline(), 16):
            self.rfile.read(size + 2)
        self.rfile.readline()
        return int(self.headers["x-amz-decoded-content-length"])

    def _say(self, status: int, text: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"content-length": str(len(text))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[GivingUp]:
    with GivingUp(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("size", [0, 1, 25 * MIB])
def test_an_object_is_made_whole(server: GivingUp, size: int) -> None:
    object_of(server).write_bytes(bytes(size))
    assert server.made == size


@pytest.mark.parametrize("room", [-1, 0, 2])
def test_an_object_that_is_taken_in_part_is_not_made(server: GivingUp, room: int) -> None:
    server.room = room
    with pytest.raises(OSError, match="the disk is full"):
        object_of(server).write_bytes(bytes(25 * MIB))
    assert server.made is None


def object_of(server: GivingUp) -> ObjectPath:
    store = open_store(f"http://127.0.0.1:{server.server_port}", region="us-east-1", key_id="x", key="x")
    return ObjectPath(store, "bucket/object")

"""What of Kubeflow Pipelines' API (v2beta1) the runner uses, over real HTTP, with the faults that a real one has."""

from __future__ import annotations

import json
import threading
import uuid
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Run = dict[str, Any]
RUNS = "/apis/v2beta1/runs"


class KubeflowServer:
    """Its runs do nothing by themselves: a test says how they get on."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.stopped: list[str] = []
        self.away = False
        """It answers as a gateway does whose server is not there."""
        self.loses_answers = 0
        """So many runs are accepted, and the connection dies before anybody hears of it."""
        self.refuses = ""
        self.asked = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, name: str, *, state: str = "RUNNING", age: float = 0.0) -> Run:
        """A run that was submitted so many seconds ago."""
        since = datetime.now(UTC) - timedelta(seconds=age)
        run = {
            "run_id": str(uuid.uuid4()),
            "display_name": name,
            "created_at": since.isoformat().replace("+00:00", "Z"),
            "state": state,
        }
        self.runs.append(run)
        return run

    def names(self) -> list[str]:
        return [run["display_name"] for run in self.runs]

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any] | None:
        """Status and document; None for a connection that dies."""
        self.asked += 1
        if self.away:
            return 503, "upstream connect error"
        if (method, path) == ("GET", RUNS):
            (predicate,) = json.loads(query["filter"][0])["predicates"]
            assert (predicate["key"], predicate["operation"]) == ("display_name", "IN")
            assert query["sort_by"] == ["created_at asc"]
            wanted = predicate["string_values"]["values"]
            return 200, {"runs": [run for run in self.runs if run["display_name"] in wanted]}
        if (method, path) == ("POST", RUNS):
            if self.refuses:
                return 400, {"code": 3, "message": self.refuses}
            run = self.add(body["display_name"], state="PENDING")
            run |= {key: body[key] for key in ("pipeline_spec", "runtime_config")}
            if self.loses_answers:
                self.loses_answers -= 1
                return None
            return 200, run
        name, _, action = path.removeprefix(f"{RUNS}/").partition(":")
        run = next((each for each in self.runs if each["run_id"] == name), {})
        if not run:
            return 404, {"code": 5, "message": "run not found"}
        if action == "terminate":
            self.stopped.append(name)
            run["state"] = "CANCELING"
            return 200, {}
        return 200, run

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._reply("GET")

            def do_POST(self) -> None:
                self._reply("POST")

            def _reply(self, method: str) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"{}")
                asked = urlsplit(self.path)
                answer = server.answer(method, asked.path, parse_qs(asked.query), body)
                if answer is None:
                    return
                status, document = answer
                data = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

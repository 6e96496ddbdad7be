"""A server in this process that follows a script: it answers, refuses, breaks off, stalls, dies and comes back.

The shapes it sends are those of public documentation, named beside each.
"""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from medvl.reader.remote.pace import Patience
from medvl.records import Request

# Pauses of milliseconds; deadlines that even a busy machine keeps.
HASTY = Patience(
    connect_s=2, loading_s=20, request_s=10, chunk_s=20, first_pause_s=0.01, longest_pause_s=0.05, broken_tries=4
)
IMPATIENT = replace(HASTY, request_s=0.2, chunk_s=0.6)  # for servers that never answer
NO_FINDINGS = '{"findings": []}'


class Answer(NamedTuple):
    """What is sent back."""

    status: int
    body: str
    headers: Mapping[str, str] = MappingProxyType({})
    sent: float = 1.0  # share of the body that is sent before the connection breaks


DROP = Answer(0, "")
STALL = Answer(-1, "")
Reply = Callable[[dict[str, Any]], "str | Answer"]


class ScriptedServer:
    """Listens on this machine. reply: the text or answer for a body; `script` comes first, answer by answer."""

    def __init__(self, reply: Reply = lambda body: NO_FINDINGS, *, models: Any = None, port: int = 0, **told: Any):
        self.models = [{"id": "Qwen/Qwen3-VL-8B-Instruct", "object": "model"}] if models is None else models
        self.reply, self.told = reply, told
        self.script: list[str | Answer] = []
        self.bodies: list[dict[str, Any]] = []  # of completions, the greeting left out
        self.headers: list[dict[str, str]] = []
        self.at_once = self.most_at_once = 0
        self.greeting: list[Answer] = []  # what the first words are answered with, before the usual
        self._lock, self._ended, self._closed = threading.Lock(), threading.Event(), threading.Event()
        self._connections: set[socket.socket] = set()
        self._http = _Server(("127.0.0.1", port), _handler(self))
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def ended(self) -> bool:
        """Whether the port is free again."""
        return self._closed.is_set()

    def kill(self) -> None:
        """Stop listening and break every connection."""
        self._ended.set()
        self._http.shutdown()
        self._http.server_close()
        self._closed.set()
        for each in list(self._connections):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def respond(self, body: dict[str, Any], headers: dict[str, str]) -> Answer:
        if is_greeting(body):
            said: str | Answer = self.greeting.pop(0) if self.greeting else NO_FINDINGS
        else:
            with self._lock:
                self.bodies.append(body)
                self.headers.append(headers)
                said = self.script.pop(0) if self.script else ""
            said = said or self.reply(body)
        return Answer(200, completion(said, **self.told)) if isinstance(said, str) else said

    @contextmanager
    def counted(self):
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            yield
        finally:
            with self._lock:
                self.at_once -= 1


def is_greeting(body: dict[str, Any]) -> bool:
    return body["messages"][0]["content"][0]["text"] == "Here is a picture."


def completion(text: str, finish_reason: str = "stop", logprobs: Any = None, **more: Any) -> str:
    """The chat completion object of the OpenAI API reference."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": finish_reason,
        "logprobs": logprobs,
    }
    return json.dumps(
        {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice], "usage": {"prompt_tokens": 100}, **more}
    )


def vllm_error(message: str, status: int = 400) -> Answer:
    """vLLM: OpenAI-Compatible Server; the flat form of its trackers' reports, before 0.10."""
    body = {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": status}
    return Answer(status, json.dumps(body))


def nested_error(message: str, status: int = 400, **more: Any) -> Answer:
    """The nested form: OpenAI's API reference, later vLLM, llama.cpp's server README, Ollama."""
    return Answer(status, json.dumps({"error": {"code": status, "message": message, "type": "error", **more}}))


def request_of(body: dict[str, Any]) -> Request:
    """Turn what was sent back into the request it was made of."""
    parts: list[Any] = []
    for part in body["messages"][0]["content"]:
        if part["type"] == "text":
            parts.append(part["text"])
        else:
            data = part["image_url"]["url"].removeprefix("data:image/png;base64,")
            parts.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data, validate=True)))))
    return Request(tuple(parts), None, body["max_tokens"])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients go away when they are tired of waiting


def _handler(server: ScriptedServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            server._connections.add(self.connection)

        def finish(self) -> None:
            server._connections.discard(self.connection)
            super().finish()

        def do_GET(self) -> None:
            self._send(Answer(200, json.dumps({"object": "list", "data": server.models})))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.counted():
                self._send(server.respond(body, {name.lower(): value for name, value in self.headers.items()}))

        def _send(self, answer: Answer) -> None:
            if answer is STALL:
                server._ended.wait(10)
            if answer is STALL or answer is DROP:
                self.close_connection = True
                return
            data = answer.body.encode()
            self.send_response(answer.status)
            for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: round(len(data) * answer.sent)])
            self.close_connection = answer.sent < 1

        def log_message(self, *_: Any) -> None:
            pass

    return Handler

"""What it means that a request got no answer: whether to wait, to ask again, to ask for less, or to stop.

Servers spell their limits each in their own words. The phrases here are those of vLLM, SGLang, llama.cpp and the
common gateways, from their public documentation and trackers; docs/server.md lists them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Literal

from medvl.reader.remote.answers import message_in
from medvl.text import clean_text

Kind = Literal[
    "busy",  # too much is asked at once
    "lost",  # the connection failed or broke: the server may be starting again
    "broken",  # an answer that is none, or a failure of the server's own
    "large",  # this request holds too much
    "refused",  # this request will never be answered
    "closed",  # no request will be
]

_MESSAGE_CHARACTERS = 200
_BUSY = (408, 429, 503, 504)
_CLOSED = (401, 403, 404, 405)
_PICTURE_LIMIT = re.compile(r"at most (\d+) images?(?:\(s\))?", re.IGNORECASE)
_TOO_LARGE = re.compile(
    r"maximum context length|(?:longer|exceeds?) .{0,30}(?:context length|maximum model length|context size)"
    r"|too long to fit into the model|exceed_context_size_error|max_tokens must be at least 1, got -"
    r"|(?:request|payload|body|entity)[\w ]{0,20} too large",
    re.IGNORECASE,
)


class Fault(Exception):
    """A request that got no answer."""

    def __init__(self, kind: Kind, reason: str, *, wait_s: float = 0.0, picture_limit: int | None = None) -> None:
        """reason: a clause for people. wait_s: the server asked to be left alone for so long."""
        super().__init__(reason)
        self.kind, self.reason = kind, reason
        self.wait_s, self.picture_limit = wait_s, picture_limit

    @property
    def may_pass(self) -> bool:
        """Whether the same request may be answered later."""
        return self.kind in ("busy", "lost", "broken")


def judge_refusal(status: int, headers: Mapping[str, str], body: str) -> Fault:
    """Say what a status that is not 200 means.

    Limits count whatever the status: some servers answer 500 to a prompt that is too long.
    """
    message = clean_text(message_in(body), _MESSAGE_CHARACTERS)
    reason = f"the server answered {status}" + (f": {message}" if message else "")
    if limit := _PICTURE_LIMIT.search(message):
        return Fault("large", reason, picture_limit=int(limit[1]))
    if status == 413 or _TOO_LARGE.search(message_in(body)) or _TOO_LARGE.search(body):
        return Fault("large", reason)
    if 300 <= status < 400:
        place = clean_text(headers.get("location", "elsewhere"), _MESSAGE_CHARACTERS)
        return Fault("closed", f"the server sends its clients on to {place}, and pictures do not follow")
    if status in _BUSY:
        return Fault("busy", reason, wait_s=_retry_after(headers))
    if status in _CLOSED:
        return Fault("closed", reason)
    return Fault("broken", reason, wait_s=_retry_after(headers)) if status >= 500 else Fault("refused", reason)


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that Retry-After asks for, a number or a date (RFC 9110, 10.2.3); 0 without one."""
    told = headers.get("retry-after", "")
    try:
        return max(0.0, float(told))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(told).timestamp() - time.time())
    except ValueError:
        return 0.0

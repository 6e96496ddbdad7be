"""Where a server listens that reads in the place of a local model, and whether pictures may go there."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from medvl.errors import SettingsError

_EXAMPLE = "Write for instance --server http://localhost:8000/v1"


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """An OpenAI-compatible server that may be asked. Shown as its URL alone.

    Raises SettingsError if the URL is none, or leaves this machine without leave.
    """

    url: str
    allow_remote: bool = False
    api_key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        parts = _split(self.url)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise SettingsError(
                "The server's URL carries more than a place",
                expected="Scheme, host, port and path",
                todo="Give the key in MEDVL_API_KEY or with --api-key-file",
            )
        if not re.fullmatch(r"[!-~]*", self.api_key):
            raise SettingsError("The server's key holds more than one word", expected="Visible ASCII characters alone")
        if not self.is_here and not self.allow_remote:
            raise SettingsError(
                f"The server {self.host} is not this machine",
                expected=f"It would be sent {WHAT_IS_SENT}",
                todo="Allow that with --allow-remote",
            )

    @property
    def host(self) -> str:
        """Name or number of the machine."""
        return str(_split(self.url).hostname)

    @property
    def is_here(self) -> bool:
        """Whether nothing leaves this machine: a loopback address, or the name of one."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:  # a name
            return False

    @property
    def is_encrypted(self) -> bool:
        """Whether what is sent is hidden from others on the way."""
        return _split(self.url).scheme == "https"

    @property
    def base_url(self) -> str:
        """The URL that the protocol's paths are appended to; "/v1" unless another path is given."""
        parts = _split(self.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"

    def __str__(self) -> str:
        return self.url


WHAT_IS_SENT = (
    "the pictures of every series that is read, as PNG without a header, and prompts that name modality, body part, "
    "window, contrast agent and slice positions; no name, ID, date or UID, but whatever is burned into the pixels of "
    "series whose header does not say so"
)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port)
    except ValueError:  # a port that is no number, half an IPv6 address
        known = False
    if not known:
        raise SettingsError(f'"{url}" is no URL of a server', expected="http:// or https:// and a host", todo=_EXAMPLE)
    return parts

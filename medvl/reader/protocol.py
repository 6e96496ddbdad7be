"""The seam between the pipeline and whatever reads pictures. Imports no model code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from medvl.records import ReaderIdentity, Reading, Request, Unanswered


class Reader(Protocol):
    """Something that answers requests: the local model, a server, or a script in the tests."""

    @property
    def identity(self) -> ReaderIdentity:
        """What reads, as the ledger and the report name it."""
        ...

    @property
    def independent(self) -> bool:
        """Whether a reply never depends on what is read beside it, so that requests may join as others end."""
        ...

    def read(self, requests: Iterable[Request], rows: int) -> Iterator[tuple[int, Reading | Unanswered]]:
        """Answer requests, at most `rows` at once, drawing more only as there is room for them.

        Yields the number of a request, counted from 0, with its reading as soon as that is whole; in any order.
        Raises OutOfMemoryError when what was drawn does not fit; the memory it took is free again by then, what was
        yielded counts, and fewer or smaller requests may work. Raises TooLargeError when one request alone is more than
        it takes, once all others that were drawn have been yielded. What the requests raise when drawn passes through.
        """
        ...

    def close(self) -> None:
        """Give back the memory. The reader cannot be used afterwards."""
        ...

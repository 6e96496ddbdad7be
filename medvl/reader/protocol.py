"""The seam between the pipeline and whatever reads pictures. Imports no model code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from medvl.records import ReaderIdentity, Reading, Request


class Reader(Protocol):
    """Something that answers requests: the local model, or a script in the tests."""

    @property
    def identity(self) -> ReaderIdentity:
        """What reads: part of every ledger key and of the report."""
        ...

    def read(self, requests: Sequence[Request]) -> list[Reading]:
        """Answer one batch of requests, in their order.

        Raises OutOfMemoryError when the batch does not fit; the memory it took is free again by then, and fewer or
        smaller requests may work.
        """
        ...

    def close(self) -> None:
        """Give back the memory. The reader cannot be used afterwards."""
        ...

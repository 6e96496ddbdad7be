"""Gives free slots to waiting requests. Knows neither what waits nor what happens in a slot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

Waiting = TypeVar("Waiting")


class Rows(Generic[Waiting]):
    """A fixed number of slots and what waits for them; each slot holds one request at a time."""

    def __init__(self, requests: Iterable[Waiting], count: int) -> None:
        """requests: drawn one by one, and only for slots that are free. Raises ValueError if count is below 1."""
        if count < 1:
            raise ValueError(f"{count} slots can hold nothing")
        self._waiting = enumerate(requests)
        self._count = count
        self._held: dict[int, int] = {}  # slot: number of its request
        self._drained = False

    @property
    def busy(self) -> Mapping[int, int]:
        """The slots in use and the number of the request in each; a view that follows what happens."""
        return MappingProxyType(self._held)

    @property
    def done(self) -> bool:
        """Whether nothing is left, as far as `admit` has looked: ask after it, since requests are not drawn ahead."""
        return self._drained and not self._held

    def admit(self) -> Iterator[tuple[int, int, Waiting]]:
        """Fill the free slots, lowest first, as long as anything waits.

        Yields (slot, number, request); requests are numbered from 0 in the order they wait. The next one is drawn only
        when the caller is through with the last, so that it can be made meanwhile.
        """
        for slot in [slot for slot in range(self._count) if slot not in self._held]:
            drawn = next(self._waiting, None)
            if drawn is None:
                self._drained = True
                return
            number, request = drawn
            self._held[slot] = number
            yield slot, number, request

    def release(self, slot: int) -> int:
        """Free a slot and return the number of the request it held. Raises ValueError if it held none."""
        if slot not in self._held:
            raise ValueError(f"slot {slot} holds nothing that could be released")
        return self._held.pop(slot)

"""Keeps transformers and bitsandbytes from writing to the terminal, and turns loading bars into one number."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging as transformers_logging

Progress = Callable[[float], None]


@contextmanager
def quiet_libraries(progress: Progress | None = None) -> Iterator[None]:
    """Silence both libraries' logs, warnings and bars inside the block; all is as before afterwards.

    bitsandbytes would say for every layer and token that int8 inputs become float16 first.
    progress: called with the share of weights loaded, 0 … 1.
    """
    loggers = [logging.getLogger(name) for name in ("transformers", "bitsandbytes")]
    levels = [logger.level for logger in loggers]
    hook = transformers_logging.set_tqdm_hook(lambda _factory, args, kwargs: _Bar(args, kwargs, progress))
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        transformers_logging.set_tqdm_hook(hook)


class _Bar:
    """What transformers takes for a progress bar: it iterates, counts and closes, and draws nothing."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], progress: Progress | None) -> None:
        self._items = args[0] if args else kwargs.get("iterable", ())
        known = len(self._items) if isinstance(self._items, Sized) else 0
        self._total = kwargs.get("total") or known
        self._done = 0
        self._progress = progress

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            yield item
            self.update()

    def update(self, count: int = 1) -> None:
        self._done += count
        if self._progress and self._total:
            self._progress(min(1.0, self._done / self._total))

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_args, **_kwargs: None  # set_description, close, refresh, …: nothing is drawn

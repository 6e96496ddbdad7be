"""Turns questions into rows of token ids with everything the model's forward needs besides pixels. Numpy only.

A row is prompt, reply, padding; the padding comes last, where causal attention hides it. Positions are Qwen3-VL's: text
counts on in all three axes, a picture spreads over rows and columns and then counts as its longer side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.prompts import PromptText
from medvl.reader.chat import ChatForm
from medvl.reader.engine.positions import prompt_positions
from training.wording import DECISIVE, Question, Segments

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Layout:
    """How large the rows of one kind of question are."""

    slots: int  # pictures, some of which a row may leave unused
    grid: int  # vision tokens along the side of a picture
    length: int  # tokens of a row
    reply: int  # tokens of a reply

    @property
    def picture_tokens(self) -> int:
        """Vision tokens of one picture."""
        return self.grid**2


@dataclass(frozen=True, slots=True)
class Row:
    """One question and its reply as numbers.

    ids (length,), positions (3, length). pictures (slots × picture tokens,): place of each vision token; those of
    unused slots lie on the row's last place, which is padding. read_at, targets, weights, decides (reply,): from which
    place each token of the reply is predicted, which it is, how much it counts among the reply's words, and whether it
    is none of them, but says that there is something or nothing (more).
    """

    ids: Ints
    positions: Ints
    pictures: Ints
    read_at: Ints
    targets: Ints
    weights: NDArray[np.float32]
    decides: NDArray[np.bool_]


class RowWriter:
    """Writes rows with one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._chat = ChatForm(tokenizer)
        self._end = int(tokenizer.convert_tokens_to_ids("<|im_end|>"))

    def write(self, question: Question, layout: Layout) -> Row | None:
        """Write a row; None if the question is too long for the layout."""
        prompt = self._chat.prompt_ids(prompt_parts(question.text, layout.picture_tokens))
        reply, weights, decides = self._reply(question.reply)
        if len(prompt) + len(reply) >= layout.length or len(reply) > layout.reply:
            return None
        ids = np.full(layout.length, self._end, dtype=np.int64)
        ids[: len(prompt) + len(reply)] = [*prompt, *reply]
        is_picture = ids == self._chat.picture_pad
        return Row(
            ids=ids,
            positions=prompt_positions(is_picture, [(layout.grid, layout.grid)] * len(question.text.labels)),
            pictures=_filled(np.flatnonzero(is_picture), layout.slots * layout.picture_tokens, layout.length - 1),
            read_at=_filled(len(prompt) - 1 + np.arange(len(reply)), layout.reply, 0),
            targets=_filled(np.array(reply), layout.reply, self._end),
            weights=np.pad(weights, (0, layout.reply - len(reply))),
            decides=np.pad(decides, (0, layout.reply - len(reply))),
        )

    def _reply(self, segments: Segments) -> tuple[list[int], NDArray[np.float32], NDArray[np.bool_]]:
        """Return the ids of a reply with its end; a token weighs as much as its heaviest character.

        A token with a decisive character decides, whatever else it holds.
        """
        text = "".join(part for part, _ in segments)
        by_character = np.repeat([weight for _, weight in segments], [len(part) for part, _ in segments])
        encoded = self._tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )
        spans = encoded["offset_mapping"]
        held = [by_character[a : max(b, a + 1)] for a, b in spans]
        decides = np.array([*((weights == DECISIVE).any() for weights in held), False])
        weights = np.array([*(weights.max() for weights in held), 1.0], dtype=np.float32) * ~decides
        return [*encoded["input_ids"], self._end], weights, decides


def prompt_parts(text: PromptText, picture_tokens: int) -> list[str | int]:
    """Return the parts of a request in the order in which the pipeline sends them."""
    if not text.labels:
        return [text.instruction + "\n\n" + text.query]
    parts: list[str | int] = [text.instruction]
    for label in text.labels:
        parts += [picture_tokens, label]
    return [*parts, text.query]


def _filled(values: NDArray[Any], length: int, filling: int) -> Ints:
    return np.concatenate([values, np.full(length - len(values), filling)]).astype(np.int64)


def stack_rows(rows: Sequence[Row]) -> dict[str, NDArray[Any]]:
    """Return rows as arrays of one batch; pictures become places in the flattened batch."""
    length = len(rows[0].ids)
    return {
        "ids": np.stack([row.ids for row in rows]),
        "positions": np.stack([row.positions for row in rows], axis=1),
        "pictures": np.concatenate([number * length + row.pictures for number, row in enumerate(rows)]),
        "read_at": np.stack([row.read_at for row in rows]),
        "targets": np.stack([row.targets for row in rows]),
        "weights": np.stack([row.weights for row in rows]),
        "decides": np.stack([row.decides for row in rows]),
    }

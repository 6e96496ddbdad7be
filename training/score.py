"""Says how well the model does while it is trained: losses, and replies to chunks it has never seen.

A cheap check on single chunks. What counts is `medvl evaluate`, which runs the whole pipeline on whole studies.
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medvl.reader.patches import cut_patches
from training.batches import Batch, StepBatches

if TYPE_CHECKING:
    from training.train import Trainer

_HIT_UNITS = 15.0  # centres this near, in thousandths of the picture, belong together however small the lesion is
_HELD_OUT = 1 << 30  # the number of the first batch that no training reaches
_NEW_TOKENS = 300


class Tally:
    """Means over the steps since the last report, kept on the device until then."""

    def __init__(self) -> None:
        self._clock = time.monotonic()
        self._steps = 0
        self._sums: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, kind: str, measured: Mapping[str, Tensor]) -> None:
        """Take note of one step."""
        self._steps += 1
        for name, value in measured.items():
            self._sums[f"{name} {kind}" if name in ("reply", "decisions") else name].append(value)

    def report(self, step: int) -> dict[str, float]:
        """Return the means, and begin anew."""
        means = {name: float(torch.stack(values).float().nanmean()) for name, values in self._sums.items()}
        rate = self._steps / (time.monotonic() - self._clock)
        self.__init__()  # type: ignore[misc]
        return {"step": step, "steps_per_s": round(rate, 2)} | {name: round(mean, 4) for name, mean in means.items()}


# --- replies ------------------------------------------------------------------------------------------------------


def score_replies(model: Any, trainer: Trainer, batches: StepBatches, count: int) -> dict[str, float]:
    """Have the stock model reply to fresh chunks as a whole study has them, and compare with the truth."""
    totals = np.zeros(8)
    chunks = 0
    while chunks < count:
        rng = np.random.default_rng([trainer.settings.seed, _HELD_OUT, chunks])
        batch = batches.draw(rng, "usual", progress=0.5)
        replies = reply_to(model, trainer, batch)
        tokenizer = trainer.training.tokenizer
        for reply, target in zip(replies, batch.arrays["targets"], strict=True):
            truth = tokenizer.decode(target, skip_special_tokens=True)
            totals += compare(reply, truth)
            chunks += 1
    found, missed, false, side, kind, error, broken, clean = totals
    return {
        "chunks": chunks,
        "lesions": found + missed,
        "sensitivity": round(found / max(1, found + missed), 4),
        "false_per_chunk": round(false / chunks, 4),
        "side_right": round(side / max(1, found), 4),
        "kind_right": round(kind / max(1, found), 4),
        "center_error_units": round(error / max(1, found), 2),
        "broken": broken,
        "empty_right": clean,
    }


@torch.inference_mode()
def reply_to(model: Any, trainer: Trainer, batch: Batch) -> list[str]:
    """Have the stock model reply to the chunks of a batch, greedily and without a grammar."""
    device, tokenizer = trainer.training.device, trainer.training.tokenizer
    pictures = trainer.pictures(batch)
    pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    prompts = [ids[: at[0] + 1] for ids, at in zip(batch.arrays["ids"], batch.arrays["read_at"], strict=True)]
    used = [int((prompt == pad).sum()) // batch.layout.picture_tokens for prompt in prompts]
    shown = torch.cat([rows[:count] for rows, count in zip(pictures, used, strict=True)])
    longest = max(map(len, prompts))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    ids = torch.tensor(np.stack([np.pad(p, (longest - len(p), 0), constant_values=end) for p in prompts]))
    mask = torch.tensor(np.stack([np.arange(longest) >= longest - len(p) for p in prompts])).long()
    side = shown.shape[1] // trainer.settings.shape.patch_px
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        written = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            mm_token_type_ids=(ids == pad).int().to(device),
            pixel_values=cut_patches(shown, trainer.settings.shape),
            image_grid_thw=torch.tensor([[1, side, side]] * len(shown), device=device),
            max_new_tokens=_NEW_TOKENS,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=end,
        )
    return [tokenizer.decode(row[longest:], skip_special_tokens=True) for row in written]


def compare(reply: str, truth: str) -> NDArray[np.float64]:
    """Return found, missed, false, sides right, kinds right, sum of centre errors, broken, rightly empty."""
    true = json.loads(truth)["findings"]
    try:
        said = json.loads(reply)["findings"]
    except (ValueError, KeyError, TypeError):
        return np.array([0, len(true), 0, 0, 0, 0, 1, 0], dtype=float)
    result = np.zeros(8)
    free = list(true)
    for finding in said:
        near = [(distance(finding, other), other["slice"], other) for other in free if is_hit(finding, other)]
        if not near:
            result[2] += 1
            continue
        error, _, lesion = min(near, key=lambda item: item[0])
        free.remove(lesion)
        same = [finding["side"] == lesion["side"], finding["observation"] == lesion["observation"]]
        result += [1, 0, 0, *same, error, 0, 0]
    result[1] = len(free)
    result[7] = not said and not true
    return result


def is_hit(finding: dict[str, Any], lesion: dict[str, Any]) -> bool:
    """Tell whether a finding is on a lesion: within its radius, or near, and on a neighbouring picture at most."""
    left, upper, right, lower = lesion["bbox_2d"]
    reach = max(_HIT_UNITS, 0.25 * (right - left + lower - upper))
    level: bool = lesion["first_slice"] - 1 <= finding["slice"] <= lesion["last_slice"] + 1
    return level and distance(finding, lesion) <= reach


def distance(finding: dict[str, Any], lesion: dict[str, Any]) -> float:
    """Return how far the middles of two boxes lie apart, in thousandths of the picture."""
    first, second = (np.array(one["bbox_2d"]).reshape(2, 2).mean(axis=0) for one in (finding, lesion))
    return math.dist(first, second)

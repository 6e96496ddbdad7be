"""The second look: asks of each finding, on a crop at full resolution, whether it is there.

The answer decides no fate: a finding that is contradicted stays in the report, marked and behind the others. Knows no
model; how answers become verdicts is `medvl.findings.second_look`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from medvl.dicom.grey import GREY_VERSION
from medvl.findings.schema import look_schema
from medvl.findings.second_look import is_contradicted, name_in_question, parse_look
from medvl.findings.wording import are_compatible, broad_name
from medvl.ledger import Entry
from medvl.pipeline.closer import Crop, cut_out, find_spot, plan_crop
from medvl.pipeline.reading import ShortQuestion, StudyReader
from medvl.pipeline.showing import slab_position_mm
from medvl.pipeline.views import PlannedStudy
from medvl.prompts import LookFacts, Prompt, PromptText
from medvl.records import Finding, Request

LOOK_PROMPT = "look"
_NEW_TOKENS = 24  # {"answer": "yes"}, were each character a token


@dataclass(frozen=True, slots=True)
class Manner:
    """How a model is asked in a second look."""

    shown_px: int  # side of the pictures
    names: tuple[str, ...] = ()  # of what it can be asked about; empty: anything

    def suits(self, finding: Finding) -> bool:
        """Tell whether the model can be asked about a finding: a question it never learned gets any answer."""
        return not self.names or any(are_compatible(finding.observation, name) for name in self.names)


@dataclass(frozen=True, slots=True)
class Looks:
    """Findings after a second look, numbered anew, and the ledger's entries it left."""

    findings: tuple[Finding, ...]
    entries: tuple[Entry, ...] = ()


def look_again(
    planned: PlannedStudy, findings: Sequence[Finding], reader: StudyReader, prompt: Prompt, manner: Manner
) -> Looks:
    """Ask of each finding that the model can be asked about whether it is there; put those it denies behind the others.

    Where that fails, a note of the finding says why. Raises OutputError.
    """
    suited = [i for i, finding in enumerate(findings) if manner.suits(finding)]
    answers = reader.answer([_question(planned, findings[i], prompt, manner.shown_px) for i in suited])
    judged = {i: _judged(findings[i], answer) for i, answer in zip(suited, answers, strict=True)}
    ordered = sorted((judged.get(i, finding) for i, finding in enumerate(findings)), key=is_contradicted)
    numbered = tuple(replace(finding, number=number) for number, finding in enumerate(ordered, 1))
    return Looks(numbered, tuple(answer for answer in answers if isinstance(answer, Entry)))


def _judged(finding: Finding, answer: Entry | str) -> Finding:
    if isinstance(answer, str):
        return replace(finding, notes=(*finding.notes, f"no second look: {answer}"))
    look = parse_look(answer.reading.text, answer.reading.tokens)
    note = () if look else ("no second look: the answer could not be used",)
    return replace(finding, second_look=look, notes=(*finding.notes, *note))


def _question(planned: PlannedStudy, finding: Finding, prompt: Prompt, shown_px: int) -> ShortQuestion:
    crop = plan_crop(find_spot(planned, finding), finding, shown_px)
    text = _text(crop, finding, prompt)
    view = crop.planned.view
    facts: dict[str, Any] = {
        "task": "look",
        "grey": GREY_VERSION,
        "windows": [asdict(window) for window in view.rendering.windows],
        "turn": asdict(view.stack.turn),
        "crop": (crop.whole_px, crop.left, crop.top, crop.side_px, crop.shown_px),
        "text": text._asdict(),
        "schema": look_schema(),
    }
    return ShortQuestion(crop.slabs, facts, lambda: _request(crop, text))


def _text(crop: Crop, finding: Finding, prompt: Prompt) -> PromptText:
    view = crop.planned.view
    facts = LookFacts(
        # Whether it is there, not what it is: a solid nodule that is calcified is there all the same.
        observation=name_in_question(broad_name(finding.observation)),
        slice_count=len(crop.slabs),
        modality=view.stack.series.modality,
        window=", ".join(window.label for window in view.rendering.windows),
    )
    # The prompt knows no plane, and would call any position a height.
    placed = view.stack.plane == "axial" and view.stack.slice_spacing_mm is not None
    return prompt.render(facts, [slab_position_mm(slab) if placed else None for slab in crop.slabs])


def _request(crop: Crop, text: PromptText) -> Request:
    shown = (part for pair in zip(cut_out(crop), text.labels, strict=True) for part in pair)
    return Request((text.instruction, *shown, text.query), look_schema(), _NEW_TOKENS)

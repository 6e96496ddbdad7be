"""The words of questions and replies: the prompts shipped with medvl, said in many ways, and answers from truth.

A model that has only ever read one wording cannot be asked in another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from medvl.evaluate.phantoms import NODULE_KINDS, LesionKind
from medvl.findings.impression import describe_findings
from medvl.prompts import ImpressionFacts, LookFacts, Prompt, PromptText, ReadFacts, load_prompts
from medvl.records import Box, Certainty, Finding
from medvl.settings import Language
from training.cases import BodySide, Sight
from training.chunks import Chunk, Look, picture_box

_CHINESE = 0.1  # share of questions
_AS_SHIPPED = 0.6  # share of questions in the very words of the shipped prompt
_GENERAL = 0.1  # share of readings that use the prompt for any CT
_SAY_CERTAIN_MM, _SAY_PROBABLE_MM = 8.0, 5.5

_OBSERVATIONS: dict[Language, dict[LesionKind, str]] = {
    "en": {kind: kind for kind in (*NODULE_KINDS, "pleural effusion")},
    "zh": {
        "solid nodule": "实性结节",
        "ground-glass nodule": "磨玻璃结节",
        "calcified nodule": "钙化结节",
        "pleural effusion": "胸腔积液",
    },
}
_SITES: dict[Language, dict[str, str]] = {
    "en": {
        "left": "left lung",
        "right": "right lung",
        "fluid left": "left pleural space",
        "fluid right": "right pleural space",
    },
    "zh": {"left": "左肺", "right": "右肺", "fluid left": "左侧胸膜腔", "fluid right": "右侧胸膜腔"},
}
_DESCRIPTIONS: dict[Language, dict[LesionKind, str]] = {
    "en": {
        "solid nodule": "Round, solid opacity with a smooth margin.",
        "ground-glass nodule": "Round, hazy opacity with a soft margin.",
        "calcified nodule": "Round, dense calcification with a smooth margin.",
        "pleural effusion": "Fluid layering at the back of the pleural space.",
    },
    "zh": {
        "solid nodule": "类圆形实性密度影，边缘光滑。",
        "ground-glass nodule": "类圆形磨玻璃密度影，边缘模糊。",
        "calcified nodule": "类圆形致密钙化影，边缘光滑。",
        "pleural effusion": "胸膜腔后部弧形液体密度影。",
    },
}
_INSTRUCTIONS: dict[Language, tuple[str, ...]] = {
    "en": (
        "You read CT of the chest. Look for nodules and fluid, and tell them from vessels.",
        "These are {count} CT slices in order. Find every lung nodule and every pleural effusion.",
        "You are a radiologist. The pictures that follow are neighboring slices of one study, from the head downwards.",
        "Study these slices one after the other. A vessel runs on; a nodule ends.",
    ),
    "zh": ("请阅读以下 {count} 幅胸部 CT 图像，寻找结节与积液。", "你是放射科医师，以下为相邻层面，请与血管仔细区分。"),
}
_QUERIES: dict[Language, tuple[str, ...]] = {
    "en": (
        'List what is abnormal in SLICE 1 to {count} as JSON, {{"findings": [...]}}.',
        'What do you find? Answer in JSON only; if there is nothing, {{"findings": []}}.',
        "Report all findings as JSON with slice, bbox_2d, first_slice, last_slice, observation, site, side, certainty "
        "and description.",
    ),
    "zh": ('请以 JSON 列出第 1 至第 {count} 层的异常：{{"findings": [...]}}。', "有何异常？仅以 JSON 作答。"),
}
_CONTRASTS = ("", "", "", "contrast agent given", "none", "IV")

Segments = list[tuple[str, float]]  # texts of a reply in a row, each with the weight of its tokens
DECISIVE = 0.0  # in place of a weight: a token that says whether there is something, which has a loss of its own
# How much a wrong token matters: the first digits of a corner most.
_SLICE, _DIGITS, _WORDS = 2.0, (3.0, 2.0, 0.5), 0.5


class Question(NamedTuple):
    """A prompt filled in, and the reply to it."""

    text: PromptText
    reply: Segments


# --- reading ------------------------------------------------------------------------------------------------------


def ask_reading(rng: np.random.Generator, chunk: Chunk) -> Question:
    """Word the question about a chunk and write its reply."""
    language = draw_language(rng)
    prompt = _prompt("generic_ct" if rng.random() < _GENERAL else "chest_ct", language)
    heights = chunk.scan.heights
    spacing = round(chunk.step_mm, 2) if len(heights) > 1 else None
    facts = ReadFacts(
        modality="CT",
        body_part=str(rng.choice(["CHEST", "CHEST", "THORAX", "LUNG", ""])),
        plane="axial",
        window=chunk.scan.window.label,
        slice_count=len(heights),
        slice_spacing_mm=spacing,
        slab_mm=chunk.averaged_mm,
        contrast=str(rng.choice(_CONTRASTS)),
    )
    start = chunk.origin_z_mm + float(heights[0])
    labelled = heights if chunk.kind != "shuffled" else start - chunk.step_mm * np.arange(len(heights))
    text = prompt.render(facts, [float(z) + chunk.origin_z_mm for z in labelled])
    return Question(vary(rng, text, len(heights), language), write_findings(chunk, language))


def write_findings(chunk: Chunk, language: Language) -> Segments:
    """Write the reply to a chunk, in the layout that the reply schema asks for."""
    segments: Segments = [('{"findings": [', _WORDS)]
    ordered = sorted(chunk.sights, key=lambda sight: (sight.key, picture_box(chunk.scan, sight.box)[0]))
    for number, sight in enumerate(ordered):
        segments += [(",", DECISIVE), (" {", _WORDS)] if number else [("{", DECISIVE)]
        segments += _write_entry(chunk, sight, language)
    return [*segments, ("]", DECISIVE), ("}", _WORDS)]


def _write_entry(chunk: Chunk, sight: Sight, language: Language) -> Segments:
    box = [min(max(round(1000 * part), 0), 1000) for part in picture_box(chunk.scan, sight.box)]
    """Write a finding but for its opening brace."""
    segments: Segments = [('"slice": ', _WORDS), (str(sight.key + 1), _SLICE), (', "bbox_2d": [', _WORDS)]
    for number, corner in enumerate(box):
        segments += [(", ", _WORDS)] if number else []
        segments += list(zip(f"{corner}", _DIGITS[-len(f"{corner}") :] if corner < 1000 else (1.0,) * 4, strict=True))
    name = name_lesion(sight.kind, sight.side, sight.diameter_mm, language)
    rest = {"first_slice": sight.first + 1, "last_slice": sight.last + 1, **name._asdict()}
    return [*segments, ("], ", _WORDS), (json.dumps(rest, ensure_ascii=False)[1:], 1.0)]


class Name(NamedTuple):
    """What a reply says of a lesion in words, in the order of the reply schema."""

    observation: str
    site: str
    side: BodySide
    certainty: Certainty
    description: str


def name_lesion(kind: LesionKind, side: BodySide, diameter_mm: float, language: Language) -> Name:
    """Put a lesion into words."""
    fluid = "fluid " if kind == "pleural effusion" else ""
    site = _SITES[language][fluid + side]
    description = _DESCRIPTIONS[language][kind]
    return Name(_OBSERVATIONS[language][kind], site, side, certainty_of(diameter_mm), description)


def certainty_of(diameter_mm: float) -> Certainty:
    """Return how sure a reader would say to be: by the size that the pictures show."""
    if diameter_mm >= _SAY_CERTAIN_MM:
        return "definite"
    return "probable" if diameter_mm >= _SAY_PROBABLE_MM else "possible"


# --- a second look ------------------------------------------------------------------------------------------------


def ask_look(rng: np.random.Generator, look: Look) -> Question:
    """Word the closed question about a place."""
    language = draw_language(rng)
    observation = look.observation
    if language == "zh":
        observation = {str(kind): name for kind, name in _OBSERVATIONS["zh"].items()}.get(look.observation, "结节")
    facts = LookFacts(observation, len(look.scan.heights), "CT", look.scan.window.label)
    text = _prompt("look", language).render(facts, [float(z) + look.origin_z_mm for z in look.scan.heights])
    return Question(text, [('{"answer": "', _WORDS), ("yes" if look.present else "no", DECISIVE), ('"}', _WORDS)])


# --- the impression -----------------------------------------------------------------------------------------------


def ask_impression(rng: np.random.Generator) -> Question:
    """Make up a list of findings, and conclude from it."""
    language = draw_language(rng)
    findings = make_up_findings(rng, language)
    found = int(rng.integers(30, 400))
    read = found if rng.random() < 0.9 else int(rng.integers(1, found))
    facts = ImpressionFacts(describe_findings(findings, language), len(findings), read, found)
    reply = json.dumps({"impression": conclude(findings, language)}, ensure_ascii=False)
    return Question(_prompt("impression", language).render(facts), [(reply, 1.0)])


def make_up_findings(rng: np.random.Generator, language: Language) -> list[Finding]:
    """Make up one to six findings, numbered from 1."""
    return [_make_up(rng, number, language) for number in range(1, int(rng.integers(1, 7)) + 1)]


def _make_up(rng: np.random.Generator, number: int, language: Language) -> Finding:
    """Make up a finding as the report would hold it; what the list does not tell of it stays empty."""
    fluid = rng.random() < 0.2
    kind: LesionKind = "pleural effusion" if fluid else NODULE_KINDS[rng.integers(len(NODULE_KINDS))]
    size = float(rng.uniform(40, 160) if fluid else np.exp(rng.uniform(np.log(4), np.log(30))))
    side: BodySide = "left" if rng.random() < 0.5 else "right"
    first = int(rng.integers(1, 250))
    last = first + int(rng.integers(0, 12))
    name = name_lesion(kind, side, size, language)
    return Finding(
        number=number,
        observation=name.observation,
        site=name.site,
        side=side,
        side_said=side,
        certainty=name.certainty,
        description=name.description,
        series_uid="",
        view="",
        first_slice=first,
        last_slice=last,
        key_slice=first,
        sop_instance_uid="",
        frame_index=0,
        box=Box(0, 0, 1, 1),
        box_stored_px=(0, 0, 1, 1),
        center_lps_mm=None,
        width_mm=size * rng.uniform(0.9, 1.1),
        height_mm=size * rng.uniform(0.9, 1.1),
        depth_mm=size * rng.uniform(0.8, 1.5),
        confidence=None,
        wording_probability=None,
    )


def conclude(findings: Sequence[Finding], language: Language) -> list[dict[str, object]]:
    """Return one sentence for each observation, effusions first, then by number; each cites its findings."""
    groups: dict[str, list[Finding]] = {}
    for finding in sorted(findings, key=lambda one: (one.observation not in _EFFUSIONS, one.number)):
        groups.setdefault(finding.observation, []).append(finding)
    return [
        {"text": _sentence(group, language), "findings": [one.number for one in group]} for group in groups.values()
    ]


_EFFUSIONS = frozenset(words["pleural effusion"] for words in _OBSERVATIONS.values())


def _sentence(group: Sequence[Finding], language: Language) -> str:
    name, count = group[0].observation, len(group)
    size = max(max(one.width_mm or 0, one.height_mm or 0) for one in group)
    sides = {one.side for one in group}
    side = next(iter(sides)) if len(sides) == 1 else "both"
    if language == "zh":
        where = {"left": "左侧", "right": "右侧", "both": "双侧"}[side]
        return f"{where}{name}，{size:.0f} mm。" if count == 1 else f"{where}{name}共 {count} 处，最大 {size:.0f} mm。"
    where = "on both sides" if side == "both" else f"on the {side}"
    if count == 1:
        return f"{name.capitalize()} {where}, {size:.0f} mm, {group[0].certainty}."
    return f"{count} {name}s {where}, the largest {size:.0f} mm."


# --- the same in other words --------------------------------------------------------------------------------------


def draw_language(rng: np.random.Generator) -> Language:
    """Draw the language of a question."""
    return "zh" if rng.random() < _CHINESE else "en"


def vary(rng: np.random.Generator, text: PromptText, count: int, language: Language) -> PromptText:
    """Say a reading prompt in other words: shorter, in another order, or as someone else would; often not at all."""
    chance = rng.random()
    if chance < _AS_SHIPPED:
        return text
    if chance < _AS_SHIPPED + 0.25:
        return text._replace(instruction=_thin(rng, text.instruction), query=_thin(rng, text.query))
    instructions, queries = _INSTRUCTIONS[language], _QUERIES[language]
    instruction = instructions[rng.integers(len(instructions))].format(count=count)
    query = queries[rng.integers(len(queries))].format(count=count)
    return text._replace(instruction=instruction, query=query)


def _thin(rng: np.random.Generator, text: str) -> str:
    """Leave out some sentences and change places of the others within their paragraph."""
    paragraphs = []
    for paragraph in text.split("\n"):
        sentences = [part for part in re.split(r"(?<=[.。;；]) ?", paragraph) if part and rng.random() > 0.25]
        if rng.random() < 0.3:
            sentences = list(rng.permutation(np.array(sentences, dtype=object)))
        paragraphs.append(" ".join(sentences))
    return "\n".join(paragraphs).strip()


@lru_cache(maxsize=1)
def _prompts() -> dict[tuple[str, str], Prompt]:
    return {(prompt.id, prompt.language): prompt for prompt in load_prompts()}


def _prompt(name: str, language: Language) -> Prompt:
    return _prompts()[name, language]

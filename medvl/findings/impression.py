"""The short conclusion: what the model is told to conclude from, what is made of its reply, and a plain one instead.

A sentence without evidence has no place in it: each must cite findings of the report.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from medvl.findings.recover import recover_items
from medvl.findings.schema import CERTAINTIES, MAX_SENTENCES, SENTENCE_CHARACTERS
from medvl.findings.wording import is_absence
from medvl.records import Finding, Sentence
from medvl.settings import Language
from medvl.text import clean_text

_LISTED = MAX_SENTENCES - 1  # findings named one by one in the plain conclusion; the rest share a sentence

_SIDE_WORDS = {
    "left": re.compile(r"\bleft\b|左", re.IGNORECASE),
    "right": re.compile(r"\bright\b|右", re.IGNORECASE),
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(mm|cm|毫米|厘米)", re.IGNORECASE)
_MM_PER_UNIT = {"mm": 1.0, "cm": 10.0, "毫米": 1.0, "厘米": 10.0}
_ROUNDING_MM = 1.0  # sentences round to whole millimetres, or to tenths of a centimetre

_WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "left": "left",
        "right": "right",
        "midline": "midline",
        "bilateral": "bilateral",
        "none": "",
        "definite": "definite",
        "probable": "probable",
        "possible": "possible",
        "separator": ", ",
        "slice": "slice {first}",
        "slices": "slices {first}–{last}",
        "entry": "{number}. {facts}. {description}",
        "sentence": "Finding {number}: {facts}.",
        "more": "{count} further findings are listed in the table.",
        "one more": "One further finding is listed in the table.",
        "empty": "Nothing was read; nothing is known about this study.",
        "nothing": "No finding was reported in the {read} of {found} slices read.",
        "unread": "{unread} of {found} slices were not read; nothing is known about them.",
    },
    "zh": {
        "left": "左侧",
        "right": "右侧",
        "midline": "中线",
        "bilateral": "双侧",
        "none": "",
        "definite": "明确",
        "probable": "很可能",
        "possible": "可能",
        "separator": "，",
        "slice": "第 {first} 层",
        "slices": "第 {first}–{last} 层",
        "entry": "{number}. {facts}。{description}",
        "sentence": "所见 {number}：{facts}。",
        "more": "其余 {count} 项所见列于表中。",
        "one more": "其余 1 项所见列于表中。",
        "empty": "未阅读任何图像，本检查情况不明。",
        "nothing": "共 {found} 层，已阅读 {read} 层，其中未报告异常所见。",
        "unread": "共 {found} 层，其中 {unread} 层未阅读，情况不明。",
    },
}


def describe_findings(findings: Sequence[Finding], language: Language) -> str:
    """Write the merged findings as the numbered list that the impression prompt shows the model."""
    words = _WORDS[language]
    lines = (
        words["entry"].format(number=one.number, facts=_facts(one, words), description=one.description)
        for one in findings
    )
    return "\n".join(line.strip() for line in lines)


def parse_impression(text: str, findings: Sequence[Finding]) -> tuple[Sentence, ...] | None:
    """Parse the model's impression; None if no sentence of it can stand.

    findings: numbered from 1. A sentence falls that is empty, too long or said before, cites a finding that does not
    exist or none at all, says that there is none, or names a side or a size that its findings do not have. Never
    raises.
    """
    sentences: dict[str, Sentence] = {}
    for item in recover_items(text, "impression", frozenset({"text"})).items:
        sentence = _read_sentence(item.value.get("text"), item.value.get("findings"), len(findings))
        if sentence is not None and _agrees(sentence, [findings[number - 1] for number in sentence.findings]):
            sentences.setdefault(sentence.text.casefold(), sentence)
    return tuple(sentences.values())[:MAX_SENTENCES] or None


def plain_impression(
    findings: Sequence[Finding], slices_read: int, slices_found: int, language: Language
) -> tuple[Sentence, ...]:
    """Write the conclusion without a model: the most certain and largest findings, and what was not read.

    Where nothing was reported it says only that, and of how many slices; it never calls a study normal.
    """
    words = _WORDS[language]
    ranked = sorted(findings, key=_importance)
    sentences = [
        Sentence(words["sentence"].format(number=one.number, facts=_facts(one, words)), (one.number,))
        for one in ranked[:_LISTED]
    ]
    rest = tuple(sorted(one.number for one in ranked[_LISTED:]))
    if rest:
        sentences.append(Sentence(words["more" if len(rest) > 1 else "one more"].format(count=len(rest)), rest))
    if not slices_read:
        return (*sentences, Sentence(words["empty"], ()))
    if not findings:
        sentences.append(Sentence(words["nothing"].format(read=slices_read, found=slices_found), ()))
    if slices_read < slices_found:
        unread = words["unread"].format(unread=slices_found - slices_read, found=slices_found)
        sentences.append(Sentence(unread, ()))
    return tuple(sentences)


def _read_sentence(text: object, cited: object, finding_count: int) -> Sentence | None:
    if not isinstance(text, str) or len(text) > SENTENCE_CHARACTERS or not isinstance(cited, list):
        return None
    shown = clean_text(text, SENTENCE_CHARACTERS)
    known = all(type(number) is int and 1 <= number <= finding_count for number in cited)
    if not shown or not known or (finding_count and (not cited or is_absence(shown))):
        return None
    return Sentence(shown, tuple(sorted(set(cited))))


def _agrees(sentence: Sentence, cited: Sequence[Finding]) -> bool:
    """Tell whether the sides and sizes a sentence names are those of its findings."""
    named = {side for side, word in _SIDE_WORDS.items() if word.search(sentence.text)}
    found = {finding.side for finding in cited} & {"left", "right"}
    if cited and len(named) == 1 and found - named:
        return False
    sizes = [size for finding in cited for size in _told_sizes_mm(finding)]
    told = [float(number) * _MM_PER_UNIT[unit.lower()] for number, unit in _SIZE.findall(sentence.text)]
    return not sizes or all(any(abs(size - one) <= _ROUNDING_MM for one in sizes) for size in told)


def _told_sizes_mm(finding: Finding) -> list[float]:
    """The sizes a sentence may tell of a finding: each axis, and the mean of the two in the picture."""
    in_plane = [size for size in (finding.width_mm, finding.height_mm) if size is not None]
    return _sizes_mm(finding) + ([sum(in_plane) / len(in_plane)] if in_plane else [])


def _importance(finding: Finding) -> tuple[int, float, int]:
    return CERTAINTIES.index(finding.certainty), -max(_sizes_mm(finding), default=0.0), finding.number


def _facts(finding: Finding, words: dict[str, str]) -> str:
    several = "slices" if finding.first_slice < finding.last_slice else "slice"
    facts = (
        finding.observation,
        finding.site,
        words[finding.side],
        _size(finding),
        words[several].format(first=finding.first_slice, last=finding.last_slice),
        words[finding.certainty],
    )
    return words["separator"].join(fact for fact in facts if fact)


def _size(finding: Finding) -> str:
    sizes = _sizes_mm(finding)
    return " × ".join(f"{size:.0f}" for size in sizes) + " mm" if sizes else ""


def _sizes_mm(finding: Finding) -> list[float]:
    if finding.width_mm is None:  # without Pixel Spacing (0028,0030): its depth alone would pass for its size
        return []
    return [size for size in (finding.width_mm, finding.height_mm, finding.depth_mm) if size is not None]

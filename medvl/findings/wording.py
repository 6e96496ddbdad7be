"""Whether two short descriptions of an abnormality can mean the same thing. Light on purpose: words, not medicine."""

from __future__ import annotations

import re
import unicodedata

# Words of one line may be given to one and the same lesion by two readings; a word may stand in several lines.
_FAMILIES = tuple(
    frozenset(line.split())
    for line in (
        "nodule mass lesion opacity tumor tumour neoplasm metastasis focus granuloma 结节 肿块 病灶 占位 肿瘤 转移",
        "consolidation opacity infiltrate pneumonia infiltration 实变 浸润 肺炎",
        "ground-glass ggo opacity 磨玻璃",
        "atelectasis collapse consolidation 不张 实变",
        "effusion fluid ascites 积液 腹水",
        "hemorrhage haemorrhage hematoma haematoma blood bleed bleeding 出血 血肿",
        "infarct infarction ischemia ischaemia hypodensity hypoattenuation stroke 梗死 缺血 低密度",
        "cyst hypodensity hypoattenuation lesion 囊肿 低密度 病灶",
        "stone calculus calcification calcified 结石 钙化",
        "lymphadenopathy node lymph adenopathy 淋巴结",
        "fracture 骨折",
        "thickening 增厚",
        "pneumothorax 气胸",
        "embolus embolism thrombus thrombosis 栓塞 血栓",
        "aneurysm dilatation dilation ectasia 动脉瘤 扩张",
        "enlargement cardiomegaly enlarged hepatomegaly splenomegaly 增大",
    )
)
_MEMBERS = frozenset().union(*_FAMILIES)
_PLURALS = (("ies", "y"), ("sses", "ss"), ("ses", "sis"), ("ss", "ss"), ("is", "is"), ("us", "us"), ("s", ""))


# A list of abnormalities may hold a remark that there is none; it must not become a finding or a conclusion.
_ABSENCE = re.compile(
    r"(no|none|without)\b.*|(normal|unremarkable)( \w+)?|未(见|发现).*|正常|无(明显)?异常", re.IGNORECASE
)


def is_absence(text: str) -> bool:
    """Tell whether a text says that something was not found, or that all is well."""
    return _ABSENCE.fullmatch(text.strip(" .。")) is not None


def broad_name(text: str) -> str:
    """Return the thing that an observation names, without what it says of it: "solid nodules" are a "nodule".

    That is its last word that stands in a family; the whole text where none does.
    """
    folded = _folded(text)
    # Chinese writes no spaces, so a word of it is found inside a longer run.
    inside = [member for member in _MEMBERS if not member.isascii() and member in folded]
    if inside:
        return max(inside, key=lambda member: (folded.rfind(member) + len(member), len(member)))
    named = [word for word in map(_singular, _words(folded)) if word in _MEMBERS]
    return named[-1] if named else text


def are_compatible(one: str, other: str) -> bool:
    """Tell whether two observations may name the same lesion: equal words, or head nouns of one family."""
    first, second = _normal_words(one), _normal_words(other)
    return first == second or not _families(first).isdisjoint(_families(second))


def _normal_words(text: str) -> frozenset[str]:
    return frozenset(map(_singular, _words(_folded(text))))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _words(folded: str) -> list[str]:
    return re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", folded)


def _singular(word: str) -> str:
    for ending, replacement in _PLURALS:
        if word.endswith(ending):
            return word.removesuffix(ending) + replacement
    return word


def _families(words: frozenset[str]) -> frozenset[int]:
    return frozenset(index for index, family in enumerate(_FAMILIES) if any(_names(member, words) for member in family))


def _names(member: str, words: frozenset[str]) -> bool:
    # Chinese writes no spaces, so a word of it is found inside a longer run.
    return member in words if member.isascii() else any(member in word for word in words)

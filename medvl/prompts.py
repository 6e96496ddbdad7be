"""Prompts as files: `prompts/*.md`, YAML front matter and Jinja2 text, one file per task and language.

A prompt with pictures has an instruction and a query, parted by a line `[[PICTURES]]`. The model sees the instruction,
then every picture followed by its label, then the query: with the query first, Qwen3-VL answers before it has looked.
Nothing here knows a model, a window's numbers or a reply.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import yaml

from medvl.bundled import bundled_path
from medvl.errors import SettingsError
from medvl.settings import Language
from medvl.text import clean_text

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import SandboxedEnvironment

Task = Literal["read", "look", "impression"]
Kernel = Literal["sharp", "soft", "any"]

MARKER = "[[PICTURES]]"
_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_KEYS = ("id", "task", "language", "modality", "body_part", "words", "windows", "kernel", "label")
_HEADER_CHARACTERS = 64  # of a header's value inside a prompt: LO, the longest of them, has 64 (PS3.5 6.2)
_LABELS: dict[Language, str] = {
    "en": "SLICE {{ k }}{% if position %} ({{ axis }} = {{ position }} mm){% endif %}",
    "zh": "第 {{ k }} 层{% if position %}（{{ axis }} = {{ position }} mm）{% endif %}",
}
_AXES = {"axial": "z", "coronal": "y", "sagittal": "x"}


# --- values --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReadFacts:
    """What a prompt for reading may mention, each by its field's name. Empty or None: not known."""

    modality: str = ""
    body_part: str = ""
    plane: str = ""
    window: str = ""  # label with WL and WW
    slice_count: int = 1
    slice_spacing_mm: float | None = None  # between neighbouring pictures
    slab_mm: float | None = None  # thickness averaged into one picture; None: single slices
    contrast: str = ""


@dataclass(frozen=True, slots=True)
class LookFacts:
    """What a prompt for a second look may mention, each by its field's name."""

    observation: str  # asked about; lies in the middle of the pictures if it is there
    slice_count: int = 1
    modality: str = ""
    window: str = ""


@dataclass(frozen=True, slots=True)
class ImpressionFacts:
    """What a prompt for the impression may mention, each by its field's name."""

    findings: str  # the numbered list
    finding_count: int
    slices_read: int
    slices_found: int
    modality: str = ""
    body_part: str = ""


Facts = ReadFacts | LookFacts | ImpressionFacts
_FACTS_OF: dict[Task, type[Any]] = {"read": ReadFacts, "look": LookFacts, "impression": ImpressionFacts}


class _LabelFacts(NamedTuple):
    k: int  # 1-based in the chunk
    position: str  # along the stack's normal; "" without geometry
    axis: str  # patient axis of the position: x, y or z, or "position" where the stack is oblique


class PromptText(NamedTuple):
    """A prompt filled in, in the order in which the model sees it; one label follows each picture."""

    instruction: str
    labels: tuple[str, ...]
    query: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt file. Templates are kept as written."""

    id: str
    task: Task
    language: Language
    modality: tuple[str, ...]  # (0008,0060); empty: any
    body_part: tuple[str, ...]  # (0018,0015)
    words: tuple[str, ...]  # of anatomy in descriptions; "lung*" stands for all words beginning so
    windows: tuple[str, ...]  # preset names; empty: whatever suits the modality
    kernel: Kernel  # of the reconstruction that suits this prompt
    label: str
    instruction: str
    query: str
    file: str

    @property
    def digest(self) -> str:
        """SHA-256 of what the model is told; anatomy words and file name may change without reading again."""
        told = "\0".join((self.label, self.instruction, self.query))
        return "sha256:" + hashlib.sha256(told.encode()).hexdigest()

    @property
    def is_general(self) -> bool:
        """Whether this prompt serves where no region is known: it looks for no words."""
        return self.task == "read" and not self.words

    def render(self, facts: Facts, positions_mm: Sequence[float | None] = ()) -> PromptText:
        """Fill in the templates.

        positions_mm: of each picture along the stack's normal, None without geometry; one label is made for each.
        Raises SettingsError if a template cannot be filled in.
        """
        known = {name: _safe(value) for name, value in asdict(facts).items()}
        if isinstance(facts, ImpressionFacts):
            known["findings"] = facts.findings  # many lines of medvl's own, cleaned when they were parsed
        plane = getattr(facts, "plane", "axial")
        return PromptText(
            _fill(self.instruction, known, self.file),
            tuple(
                _fill(self.label, _label_facts(k, position, plane)._asdict(), self.file)
                for k, position in enumerate(positions_mm, 1)
            ),
            _fill(self.query, known, self.file),
        )


Prompts = tuple[Prompt, ...]


# --- files ---------------------------------------------------------------------------------------------------------


def load_prompts(folder: Path | None = None) -> Prompts:
    """Load every prompt of a folder, by default of those shipped with medvl.

    Raises SettingsError for the first file that is no prompt. Templates are only parsed when used or checked, which
    keeps `medvl inspect` quick.
    """
    folder = folder or bundled_path("prompts")
    files = sorted(path for path in folder.glob("*.md") if path.name != "README.md")
    if not files:
        raise SettingsError(
            f"No prompt lies in {folder}", expected="Files such as chest_ct.en.md", todo="Reinstall medvl"
        )
    return tuple(_parse_file(path, "en") for path in files)


def load_prompt(id_or_file: str, language: Language, prompts: Prompts | None = None) -> Prompt:
    """Load a prompt by its id, or from a file of the user's; the file's templates are checked.

    A file needs no front matter: it then asks for a reading in `language`, of any modality.
    Raises SettingsError if there is neither such an id nor such a file, or the file cannot be used.
    """
    prompts = prompts or load_prompts()
    found = [prompt for prompt in prompts if (prompt.id, prompt.language) == (id_or_file, language)]
    if found:
        return found[0]
    path = Path(id_or_file)
    if path.is_file():
        return check_prompt(path, language)
    ids = sorted({prompt.id for prompt in prompts if prompt.language == language})
    raise SettingsError(
        f"There is no prompt {id_or_file!r} in language {language}",
        expected=f"One of {', '.join(ids)}, or a file",
        todo="See `medvl prompts list`",
    )


def check_prompt(path: Path, language: Language = "en") -> Prompt:
    """Load a prompt file and make sure that it can be filled in, with everything known and with nothing known.

    Raises SettingsError naming the file, and the placeholder and those that may be used where one is unknown.
    """
    prompt = _parse_file(path, language)
    known = _field_names(_FACTS_OF[prompt.task])
    for template in (prompt.instruction, prompt.query):
        _check_placeholders(template, known, prompt.file)
    _check_placeholders(prompt.label, _LabelFacts._fields, prompt.file)
    for facts, position in _trial_facts(prompt.task):
        prompt.render(facts, (position,))
    return prompt


def _trial_facts(task: Task) -> Iterable[tuple[Facts, float | None]]:
    if task == "impression":
        return [(ImpressionFacts("", 0, 0, 0), None), (ImpressionFacts("1. nodule", 1, 9, 10, "CT", "CHEST"), None)]
    if task == "look":
        return [(LookFacts("nodule"), None), (LookFacts("nodule", 3, "CT", "lung WL −600 WW 1500"), -120.5)]
    full = ReadFacts("CT", "CHEST", "axial", "lung WL −600 WW 1500", 10, 3.0, 3.0, "contrast agent given")
    return [(ReadFacts(), None), (full, -120.5)]


def _parse_file(path: Path, language: Language) -> Prompt:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The prompt {path.name} cannot be read ({error})", expected="A UTF-8 text file") from error
    front = _FRONT_MATTER.match(text)
    settings = _parse_front_matter(front.group(1), path.name) if front else {}
    task = _one_of(settings, "task", get_args(Task), "read", path.name)
    language = _one_of(settings, "language", get_args(Language), language, path.name)
    instruction, query = _split(text[front.end() if front else 0 :], task, path.name)
    return Prompt(
        id=str(settings.get("id", path.stem)),
        task=task,
        language=language,
        modality=_names(settings.get("modality")),
        body_part=_names(settings.get("body_part")),
        words=_names(settings.get("words")),
        windows=_names(settings.get("windows")),
        kernel=_one_of(settings, "kernel", get_args(Kernel), "any", path.name),
        label=str(settings.get("label", _LABELS[language])),
        instruction=instruction,
        query=query,
        file=path.name,
    )


def _parse_front_matter(text: str, file: str) -> dict[str, Any]:
    try:
        settings = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise SettingsError(
            f"The front matter of {file} is not YAML ({error})", expected="Lines of `key: value`"
        ) from error
    if settings is None:
        return {}
    unknown = sorted(map(str, set(settings) - set(_KEYS))) if isinstance(settings, dict) else [str(settings)]
    if unknown:
        raise SettingsError(
            f"The front matter of {file} has {', '.join(unknown)}", expected=f"Only these keys: {', '.join(_KEYS)}"
        )
    return dict(settings)


def _split(text: str, task: Task, file: str) -> tuple[str, str]:
    """Return instruction and query; an impression has no pictures and is all instruction."""
    with_pictures = task != "impression"
    parts = [part.strip() for part in re.split(rf"^{re.escape(MARKER)}[ \t]*$", text, flags=re.MULTILINE)]
    if len(parts) == 1 + with_pictures:
        return parts[0], parts[1] if with_pictures else ""
    raise SettingsError(
        f"{file} has {len(parts) - 1} lines {MARKER}",
        expected=f"One such line, between instruction and query, but none for task impression; it is {task}",
    )


def _one_of(settings: dict[str, Any], key: str, choices: tuple[Any, ...], otherwise: Any, file: str) -> Any:
    value = settings.get(key, otherwise)
    if value not in choices:
        raise SettingsError(f"{file} has {key}: {value}", expected=f"One of {', '.join(choices)}")
    return value


def _names(value: object) -> tuple[str, ...]:
    """Return a list of names; YAML lets a user write one name without brackets."""
    if value is None:
        return ()
    return tuple(str(name) for name in value) if isinstance(value, list) else (str(value),)


# --- choice --------------------------------------------------------------------------------------------------------


def choose_prompt(
    prompts: Prompts, modality: str, body_part: str, descriptions: Sequence[str], language: Language
) -> tuple[Prompt, str]:
    """Choose the prompt to read a series with, and say why in a plain sentence.

    modality: (0008,0060). body_part: (0018,0015), may be empty. descriptions: of series, protocol and study, the most
    specific first; the first that names a region counts. The tag wins over the descriptions.
    """
    readers = [prompt for prompt in prompts if prompt.task == "read" and prompt.language == language]
    general = _general_prompt(readers, modality, language)
    regional = [prompt for prompt in readers if modality in prompt.modality and not prompt.is_general]
    tag = clean_text(body_part, _HEADER_CHARACTERS).upper()
    tagged = _prompts_for_tag([*regional, general], tag)
    named = _prompts_for_words(regional, descriptions)
    if len(tagged) == 1:
        return tagged[0], f"{modality} and body part {tag} (0018,0015){_contradiction(tagged[0], named)}"
    if tagged:
        return _choose_of_several(tagged, modality, tag, descriptions, general)
    silent = f"; body part {tag} (0018,0015) names no region" if tag else ""
    if len(named) == 1:
        [(prompt, word)] = named.items()
        return prompt, f"{modality} and the word '{word}' in the descriptions{silent}"
    if named:
        words = " and ".join(f"'{word}'" for word in named.values())
        return general, f"{modality} and the words {words} in the descriptions, which name several regions{silent}"
    return general, f"{modality or 'No modality'}; the header names no region with a prompt of its own{silent}"


def _general_prompt(readers: Iterable[Prompt], modality: str, language: Language) -> Prompt:
    general = [
        prompt for prompt in readers if prompt.is_general and (modality in prompt.modality or not prompt.modality)
    ]
    if not general:
        raise SettingsError(
            f"No prompt fits modality {modality or '(empty)'} in language {language}",
            expected="A prompt without `words` and `modality`, such as generic_image",
            todo="Name one with --prompt",
        )
    return max(general, key=lambda prompt: len(prompt.modality))  # the one made for this modality comes first


def _prompts_for_tag(prompts: Sequence[Prompt], tag: str) -> list[Prompt]:
    """Return the prompts whose region the tag names; several for combinations such as CHESTABDPELVIS."""
    exact = [prompt for prompt in prompts if tag in prompt.body_part]
    letters = re.sub(r"[^A-Z]", "", tag)
    # Terms of three letters also stand inside others: EAR in HEART.
    return exact or [
        prompt for prompt in prompts if any(len(term) > 3 and term in letters for term in prompt.body_part)
    ]


def _prompts_for_words(prompts: Iterable[Prompt], descriptions: Iterable[str]) -> dict[Prompt, str]:
    """Return the prompts whose words stand in the first description that has any, each with its word."""
    for description in descriptions:
        words = _anatomy_words(description)
        named = {prompt: word for prompt in prompts if (word := _first_match(prompt.words, words))}
        if named:
            return named
    return {}


def _choose_of_several(
    tagged: Sequence[Prompt], modality: str, tag: str, descriptions: Sequence[str], general: Prompt
) -> tuple[Prompt, str]:
    named = _prompts_for_words(tagged, descriptions)
    if len(named) == 1:
        [(prompt, word)] = named.items()
        return prompt, f"{modality}, body part {tag} (0018,0015) and the word '{word}' in the descriptions"
    return general, f"{modality} and body part {tag} (0018,0015), which covers several regions"


def _contradiction(chosen: Prompt, named: dict[Prompt, str]) -> str:
    if not named or chosen in named:
        return ""
    prompt, word = next(iter(named.items()))
    return f", although the word '{word}' in the descriptions points to {prompt.id}"


def _anatomy_words(description: str) -> list[str]:
    """Return a description's words, folded: "CT_ThoraxAbdomen Schädel" → ct, thorax, abdomen, schadel."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", description) if not unicodedata.combining(c))
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain)
    return re.findall(r"[^\W\d_]+", parted.casefold())


def _first_match(anatomy: Iterable[str], words: Sequence[str]) -> str:
    """Return the first word that the anatomy names, or "".

    In Chinese, which writes no spaces, that is the anatomy's own word inside a longer run.
    """
    matches = (word if term.isascii() else term for term in anatomy for word in words if _matches(term, word))
    return next(matches, "")


def _matches(term: str, word: str) -> bool:
    if not term.isascii():
        return term in word
    return word.startswith(term[:-1]) if term.endswith("*") else word == term


# --- templates -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)  # a study fills the same few templates for every chunk
def _template(text: str) -> Template:
    return _environment().from_string(text)


@lru_cache(maxsize=1)
def _environment() -> SandboxedEnvironment:
    # Imported on first use: `medvl inspect` chooses prompts without ever filling one in.
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    return SandboxedEnvironment(undefined=StrictUndefined)


def _fill(template: str, known: dict[str, Any], file: str) -> str:
    from jinja2 import TemplateError

    try:
        return _template(template).render(known).strip()
    except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
        raise SettingsError(
            f"{file} cannot be filled in ({error})",
            expected=f"Only these placeholders: {', '.join(known)}",
            todo="Run `medvl prompts check` on the file",
        ) from error


def _check_placeholders(template: str, known: Sequence[str], file: str) -> None:
    from jinja2 import TemplateSyntaxError
    from jinja2.meta import find_undeclared_variables

    try:
        used = find_undeclared_variables(_environment().parse(template))
    except TemplateSyntaxError as error:
        raise SettingsError(f"{file} is no Jinja2 template ({error})", expected="{{ placeholder }}") from error
    unknown = sorted(used - set(known))
    if unknown:
        raise SettingsError(
            f"{file} has the unknown placeholder {', '.join(unknown)}",
            expected=f"Only these placeholders: {', '.join(known)}",
        )


def _label_facts(k: int, position_mm: float | None, plane: str) -> _LabelFacts:
    position = "" if position_mm is None else f"{round(position_mm, 1) + 0.0:.1f}"  # + 0.0: never "-0.0"
    return _LabelFacts(k, position, _AXES.get(plane, "position"))


def _safe(value: object) -> object:
    """Return a fact as it may enter a prompt: headers are written by anyone, and floats have endless digits."""
    if isinstance(value, str):
        return clean_text(value, _HEADER_CHARACTERS)
    return round(value, 2) if isinstance(value, float) else value


def _field_names(facts: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(facts))

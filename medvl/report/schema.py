"""The report's JSON: canonical text, its schema, and validated reading."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from medvl.errors import InputError
from medvl.records import Patient
from medvl.report.document import FORMAT, ReportDocument, ReportStatus, StudyFacts

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SCHEMA_ID = f"urn:medvl:report:{FORMAT}"


@dataclass(frozen=True, slots=True)
class Summary:
    """What a list of reports needs of each, read without building the rest."""

    format: int
    language: Literal["en", "zh"]
    patient: Patient
    study: StudyFacts
    status: ReportStatus
    findings: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Stamp:
    format: int


Kind = TypeVar("Kind", ReportDocument, Summary, _Stamp)


def report_schema() -> dict[str, Any]:
    """Derive the JSON Schema of report.json from the report's classes."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(ReportDocument).json_schema(mode="serialization")
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, "title": "medvl report"}
    schema["properties"] = {"$schema": {"const": SCHEMA_ID}} | schema["properties"]
    schema["required"] = ["$schema", *schema["required"]]
    return {**schema, **head}


def document_json(document: ReportDocument) -> bytes:
    """Write a report as canonical JSON: sorted keys, one value a line, UTF-8, naming its schema.

    Names of files that are not valid text lose those bytes. Raises ValueError for NaN or infinity, which are a bug.
    """
    content = {"$schema": SCHEMA_ID, **asdict(document)}
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, indent=1, allow_nan=False)
    return f"{text}\n".encode("utf-8", "replace")


def read_document(path: Path) -> ReportDocument:
    """Read and validate a report.json. Raises InputError if it is missing, damaged or of another format."""
    return _read(path, ReportDocument)


def read_summary(path: Path) -> Summary:
    """Read only what the list of patients shows of a report.json. Raises InputError like `read_document`."""
    return _read(path, Summary)


def _read(path: Path, kind: type[Kind]) -> Kind:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error.strerror or "it cannot be read") from error
    stamp = _parse(path, content, _Stamp)
    if stamp.format != FORMAT:
        raise _unreadable(path, f"its format is {stamp.format} and this medvl reads format {FORMAT}")
    return _parse(path, content, kind)


def _parse(path: Path, content: bytes, kind: type[Kind]) -> Kind:
    from pydantic import ValidationError

    adapter: TypeAdapter[Kind] = _adapter(kind)  # type: ignore[arg-type]  # mypy doubts that a class is hashable
    try:
        return adapter.validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise _unreadable(path, f"{place}: {first['msg']}" if place else first["msg"]) from error


def _unreadable(path: Path, why: str) -> InputError:
    return InputError(
        f"{Path(*path.parts[-3:])} cannot be used: {why}",
        expected="A report.json written by this version of medvl was expected",
        todo="Run medvl study again on the same input to write it anew",
    )


@cache
def _adapter(kind: type[Kind]) -> TypeAdapter[Kind]:
    """Build a validator once; it takes longer than validating a report."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


if __name__ == "__main__":  # python -m medvl.report.schema > docs/report.schema.json
    print(json.dumps(report_schema(), indent=2, sort_keys=True))

"""Writes findings as FHIR R4: a transaction of one DiagnosticReport, an Observation for each finding, and the Device.

The resources have identifiers made from the report, so that sending it twice changes nothing. Patient and study are
the hospital's own: they are referred to by Patient ID and Study Instance UID, never made.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from fhir.resources.R4B.bundle import Bundle

from medvl.export.codes import LATERALITY, MIDLINE, OWN_SCHEME, SNOMED, Coded, Group, code_words
from medvl.export.describe import draft_notice, finding_statements, report_statements
from medvl.export.measures import Measure, measures_of
from medvl.export.uids import device_uid, export_uuid, tracking_uid, written_at
from medvl.records import Finding
from medvl.report.document import ReportDocument
from medvl.report.formats import iso_date
from medvl.report.review import JudgedFinding, ReviewedReport
from medvl.text import clean_text

_SYSTEMS = {
    SNOMED: "http://snomed.info/sct",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    OWN_SCHEME: "urn:medvl:words",
}
_UCUM, _LOINC, _DICOM_UID = "http://unitsofmeasure.org", "http://loinc.org", "urn:dicom:uid"
_CATEGORIES = {
    "report": ("http://terminology.hl7.org/CodeSystem/v2-0074", "RAD", "Radiology"),
    "observation": ("http://terminology.hl7.org/CodeSystem/observation-category", "imaging", "Imaging"),
}
_REPORT_CODE = (_LOINC, "18748-4", "Diagnostic imaging study")
_SHORT, _LONG = 64, 600
Json = dict[str, Any]


def fhir_bundle(reviewed: ReviewedReport) -> bytes:
    """Make the bundle as JSON, checked by fhir.resources against the model of R4.

    The report is partial where the study was read in part, final where `ReviewedReport.verified`, else preliminary.
    """
    document = reviewed.document
    findings = [_observation(judged, reviewed) for judged in reviewed.kept]
    resources = [_device(document), *findings, _report(reviewed, [each["id"] for each in findings])]
    bundle = {
        "resourceType": "Bundle",
        "id": export_uuid(reviewed, "fhir bundle"),
        "type": "transaction",
        "timestamp": written_at(document).isoformat(),
        "entry": [_entry(resource) for resource in resources],
    }
    Bundle.model_validate(bundle)
    return f"{json.dumps(bundle, ensure_ascii=False, indent=1)}\n".encode("utf-8", "replace")


# --- resources ---------------------------------------------------------------------------------------------------


def _report(reviewed: ReviewedReport, findings: Iterable[str]) -> Json:
    document = reviewed.document
    final = "final" if reviewed.verified else "preliminary"
    return _without_empty(
        {
            "resourceType": "DiagnosticReport",
            "id": export_uuid(reviewed, "fhir report"),
            "status": final if document.status == "complete" else "partial",
            "category": [_concept([_CATEGORIES["report"]])],
            "code": _concept([_REPORT_CODE]),
            "basedOn": _order(document),
            **_context(document),
            "issued": written_at(document).isoformat(),
            "resultsInterpreter": _interpreter(reviewed),
            "imagingStudy": [_study(document)],
            "result": [_within(each) for each in findings],
            "conclusion": "\n".join(report_statements(reviewed)),
        }
    )


def _observation(judged: JudgedFinding, reviewed: ReviewedReport) -> Json:
    finding, document = judged.finding, reviewed.document
    return _without_empty(
        {
            "resourceType": "Observation",
            "id": export_uuid(reviewed, f"fhir finding {finding.number}"),
            "identifier": [_uid_identifier(tracking_uid(reviewed, finding.number))],
            "status": "final" if reviewed.verified else "preliminary",
            "category": [_concept([_CATEGORIES["observation"]])],
            "code": _words("findings", finding.observation) or {"text": draft_notice(document)},
            **_context(document),
            "issued": written_at(document).isoformat(),
            "device": _within(_device_id(document)),
            "bodySite": _words("sites", finding.site),
            "derivedFrom": [_study(document)],
            "component": [*_side(finding), *map(_measured, measures_of(finding)), *_where(finding)],
            "note": [{"text": said} for said in (draft_notice(document), *finding_statements(judged, reviewed))],
        }
    )


def _device(document: ReportDocument) -> Json:
    maker = document.provenance
    return {
        "resourceType": "Device",
        "id": _device_id(document),
        "identifier": [_uid_identifier(device_uid(document))],
        "manufacturer": "medvl",
        "deviceName": [{"name": "medvl", "type": "manufacturer-name"}],
        "modelNumber": _text(maker.reader.model, _SHORT) or "not stated",
        "version": [{"value": _text(maker.medvl_version, _SHORT) or "not stated"}],
        "note": [{"text": _text(f"fingerprint {maker.reader.fingerprint}; {maker.reader.precision}", _LONG)}],
    }


# --- what they share ---------------------------------------------------------------------------------------------


def _entry(resource: Json) -> Json:
    """PUT by an identifier of our own: sent again, it replaces itself."""
    return {
        "fullUrl": _urn(resource["id"]),
        "resource": resource,
        "request": {"method": "PUT", "url": f"{resource['resourceType']}/{resource['id']}"},
    }


def _within(identifier: str) -> Json:
    """Refer to another resource of the bundle; the server puts in where it keeps it (R4, 3.1.0.11.2)."""
    return {"reference": _urn(identifier)}


def _urn(identifier: str) -> str:
    return f"urn:uuid:{identifier}"


def _context(document: ReportDocument) -> Json:
    """Whom and when it is about. A report without a Patient ID, as --deidentify leaves it, names nobody."""
    patient = _text(document.patient.id, _SHORT)
    day = iso_date(_text(document.study.date, _SHORT))
    return {
        "subject": {"type": "Patient", "identifier": {"value": patient}} if patient else None,
        "effectiveDateTime": day if _is_date(day) else None,
    }


def _order(document: ReportDocument) -> list[Json]:
    number = _text(document.study.accession, _SHORT)
    accession = ("http://terminology.hl7.org/CodeSystem/v2-0203", "ACSN", "Accession ID")
    identifier = {"type": _concept([accession]), "value": number}
    return [{"type": "ServiceRequest", "identifier": identifier}] if number else []


def _study(document: ReportDocument) -> Json:
    return {"type": "ImagingStudy", "identifier": _uid_identifier(_text(document.study.uid, _SHORT))}


def _interpreter(reviewed: ReviewedReport) -> list[Json]:
    return [{"type": "Practitioner", "display": reviewed.reader}] if reviewed.reader else []


def _device_id(document: ReportDocument) -> str:
    return str(UUID(int=int(device_uid(document).removeprefix("2.25."))))


def _side(finding: Finding) -> list[Json]:
    side = MIDLINE if finding.side == "midline" else LATERALITY.get(finding.side)
    if side is None:
        return []
    name = Coded("272741003", SNOMED, "Laterality")
    return [{"code": _coded(name), "valueCodeableConcept": _coded(side)}]


def _measured(measure: Measure) -> Json:
    said = [each.meaning for each in (measure.name, measure.derivation) if each]
    quantity = {"value": measure.value, "unit": measure.unit, "system": _UCUM, "code": measure.unit}
    return {"code": {"coding": [_coding(measure.name)], "text": ", ".join(said)}, "valueQuantity": quantity}


def _where(finding: Finding) -> list[Json]:
    """Name the image and the box on it, which R4 has no resource for."""
    box = ", ".join(f"{edge + 0.5:.2f}" for edge in finding.box_stored_px)
    image = f"urn:oid:{_text(finding.sop_instance_uid, _SHORT)}, frame {finding.frame_index + 1}"
    return [
        {"code": {"text": "SOP Instance UID and frame"}, "valueString": image},
        {"code": {"text": "Box: column, row, column, row; 0 is the upper left corner"}, "valueString": box},
    ]


def _words(group: Group, words: str) -> Json | None:
    coded = code_words(group, words)
    return None if coded is None else {"coding": [_coding(coded)], "text": _text(words, _LONG)}


def _coded(coded: Coded) -> Json:
    return {"coding": [_coding(coded)], "text": coded.meaning}


def _coding(coded: Coded) -> Json:
    return {"system": _SYSTEMS[coded.scheme], "code": coded.value, "display": coded.meaning}


def _concept(codings: Iterable[tuple[str, str, str]]) -> Json:
    return {"coding": [{"system": system, "code": code, "display": display} for system, code, display in codings]}


def _uid_identifier(uid: str) -> Json:
    return {"system": _DICOM_UID, "value": f"urn:oid:{uid}"}


def _text(text: str, limit: int) -> str:
    return clean_text(text, limit)


def _is_date(text: str) -> bool:
    return len(text) == 10 and text[4] == text[7] == "-"


def _without_empty(resource: Json) -> Json:
    """FHIR has no empty values (R4, 2.6.2)."""
    return {key: value for key, value in resource.items() if value not in (None, [], "")}

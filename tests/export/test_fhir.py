"""The FHIR bundle, as the library that is not ours understands it."""

import json
import re
from dataclasses import replace

import pytest

pytest.importorskip("fhir", reason="comes with medvl[export]")

from fhir.resources.R4B.bundle import Bundle
from pydantic import ValidationError

from medvl.export.fhir import fhir_bundle
from medvl.records import Density, Patient
from medvl.report.identity import deidentified
from medvl.report.review import Judgement, apply_review
from tests.export.builders import a_block, a_review
from tests.report.examples import HOSTILE, a_chinese_report, a_hostile_report, a_partial_report, a_report


def a_study(*findings, **changes):
    """Of the study that `a_review` speaks of."""
    report = a_report(findings=findings or (a_block(),), **changes)
    return replace(report, study=replace(report.study, uid=a_review().study_uid))


def resources(document, review=None):
    bundle = Bundle.model_validate_json(fhir_bundle(apply_review(document, review)))
    found = [entry.resource for entry in bundle.entry]
    return {kind: [each for each in found if each.get_resource_type() == kind] for kind in KINDS}


KINDS = ("Device", "Observation", "DiagnosticReport")


def values(observation):
    return {part.code.text: part.valueQuantity for part in observation.component if part.valueQuantity}


def test_a_finding_becomes_an_observation_of_the_patient_in_the_study():
    (observation,) = resources(a_study())["Observation"]
    assert (observation.code.text, observation.code.coding[0].code) == ("solid nodule", "27925004")
    assert (observation.bodySite.text, observation.bodySite.coding[0].code) == ("right lung", "39607008")
    assert observation.subject.identifier.value == "MRN-4711"
    assert observation.derivedFrom[0].identifier.value == f"urn:oid:{a_review().study_uid}"
    assert str(observation.effectiveDateTime) == "2026-11-22"


def test_measures_are_quantities_in_ucum():
    (observation,) = resources(a_study(a_block(density=Density(-3.14, -20, 10))))["Observation"]
    found = {name: (float(each.value), each.code, each.system) for name, each in values(observation).items()}
    ucum = "http://unitsofmeasure.org"
    assert found == {
        "Long axis": (6.4, "mm", ucum),
        "Short axis": (3.2, "mm", ucum),
        "Depth": (2.5, "mm", ucum),
        "Attenuation Coefficient, Mean": (-3.1, "[hnsf'U]", ucum),
    }


@pytest.mark.parametrize(
    ("side", "code"), [("right", "24028007"), ("left", "7771000"), ("bilateral", "51440002"), ("midline", "261129000")]
)
def test_the_side_is_coded(side, code):
    (observation,) = resources(a_study(a_block(side=side)))["Observation"]
    sides = [each.valueCodeableConcept for each in observation.component if each.code.text == "Laterality"]
    assert [side.coding[0].code for side in sides] == [code]


def test_no_side_is_no_component():
    (observation,) = resources(a_study(a_block(side="none")))["Observation"]
    assert "Laterality" not in {part.code.text for part in observation.component}


def test_the_report_refers_to_every_observation_and_to_the_order():
    (report,) = resources(a_report())["DiagnosticReport"]
    observations = resources(a_report())["Observation"]
    assert [each.reference for each in report.result] == [f"urn:uuid:{each.id}" for each in observations]
    assert report.basedOn[0].identifier.value == "ACC-0815"
    assert report.conclusion.startswith("Draft. Research aid, not a diagnosis")


def test_every_reference_inside_the_bundle_leads_to_a_resource():
    bundle = json.loads(fhir_bundle(apply_review(a_report(), None)))
    urls = {entry["fullUrl"] for entry in bundle["entry"]}
    referred = set(re.findall(r'"reference": "(urn:uuid:[^"]+)"', json.dumps(bundle)))
    assert len(urls) == 5 and len(referred) == 4 and referred < urls


def test_sending_it_twice_changes_nothing():
    bundle = json.loads(fhir_bundle(apply_review(a_report(), None)))
    for entry in bundle["entry"]:
        resource = entry["resource"]
        assert entry["request"] == {"method": "PUT", "url": f"{resource['resourceType']}/{resource['id']}"}
    assert fhir_bundle(apply_review(a_report(), None)) == fhir_bundle(apply_review(a_report(), None))


ACCEPTED = a_review(finding_1=Judgement("accepted"))


@pytest.mark.parametrize(
    ("status", "review", "of_report", "of_finding"),
    [
        ("complete", None, "preliminary", "preliminary"),
        ("partial", None, "partial", "preliminary"),
        ("complete", ACCEPTED, "final", "final"),
        ("partial", ACCEPTED, "partial", "preliminary"),
    ],
)
def test_a_status_is_final_only_where_a_person_verified_the_whole(status, review, of_report, of_finding):
    found = resources(a_study(status=status), review)
    assert found["DiagnosticReport"][0].status == of_report
    assert found["Observation"][0].status == of_finding


def test_the_reader_is_the_interpreter():
    (report,) = resources(a_study(), ACCEPTED)["DiagnosticReport"]
    assert report.resultsInterpreter[0].display == "Eva Muster"


def test_a_rejected_finding_is_no_observation():
    found = resources(a_study(), a_review(finding_1=Judgement("rejected")))
    assert found["Observation"] == [] and found["DiagnosticReport"][0].result is None


def test_a_deidentified_report_names_nobody():
    document = deidentified(a_report())
    text = fhir_bundle(apply_review(document, None)).decode()
    assert not any(secret in text for secret in ("MRN-4711", "Doe", "ACC-0815", "2026-11-22"))
    (report,) = resources(document)["DiagnosticReport"]
    assert report.subject is None and report.basedOn is None and report.effectiveDateTime is None


@pytest.mark.parametrize(
    "document",
    [a_partial_report(), a_chinese_report(), a_report(findings=(), key_images=()), a_report(patient=Patient())],
    ids=["partial", "chinese", "nothing found", "no patient"],
)
def test_every_kind_of_report_is_valid(document):
    assert len(resources(document)["DiagnosticReport"]) == 1


def test_hostile_words_are_inert_and_bounded():
    content = fhir_bundle(apply_review(a_hostile_report(), None)).decode()
    assert not {"\u202e", "\x00", "\x1b"} & set(content)
    strings = re.findall(r'"((?:[^"\\]|\\.)*)"', content)
    assert max(map(len, strings)) < 40 * 600
    (report,) = resources(a_hostile_report())["DiagnosticReport"]
    assert HOSTILE not in report.conclusion and "alert(1)" in report.conclusion  # as text, which has no markup here


def test_the_library_does_refuse_what_is_not_fhir():
    bundle = json.loads(fhir_bundle(apply_review(a_report(), None)))
    bundle["entry"][1]["resource"]["status"] = "draft of sorts"
    bundle["entry"][1]["resource"]["colour"] = "red"
    with pytest.raises(ValidationError, match="colour"):
        Bundle.model_validate(bundle)

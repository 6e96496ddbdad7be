import json
from pathlib import Path

import pytest
from pydicom.sr._concepts_dict import concepts

from medvl.export import codes
from medvl.export.codes import LATERALITY, MIDLINE, OWN_SCHEME, SNOMED, Coded, code_words
from medvl.export.measures import measures_of
from medvl.records import Density
from tests.report.examples import HOSTILE, a_finding

TABLE = json.loads((Path(codes.__file__).parent / "codes.json").read_text("utf-8"))
ENTRIES = [entry for group in TABLE.values() for entry in group]


def meanings(scheme, value):
    return {entry[value][0] for entry in concepts[scheme].values() if value in entry}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["meaning"])
def test_every_code_means_in_dicoms_own_lists_what_the_table_says(entry):
    assert entry["meaning"].casefold() in {meaning.casefold() for meaning in meanings("SCT", entry["code"])}


@pytest.mark.parametrize("coded", [*LATERALITY.values(), MIDLINE], ids=lambda coded: coded.meaning)
def test_every_side_means_in_dicoms_own_lists_what_is_said(coded):
    assert coded.meaning in meanings("SCT", coded.value)


def test_every_measure_means_in_dicoms_own_lists_what_is_said():
    names = {measure.name for measure in measures_of(a_finding(density=Density(1, 0, 2)))}
    assert len(names) == 4
    assert all(name.meaning in meanings(name.scheme, name.value) for name in names)


def test_no_term_is_in_the_table_twice():
    for entries in TABLE.values():
        terms = [term for entry in entries for term in entry["terms"]]
        assert len(set(terms)) == len(terms)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("Nodule", "27925004"),
        ("part-solid nodule", "27925004"),
        ("pulmonary nodules, the largest subpleural", "27925004"),
        ("Left pleural effusion", "60046008"),
        ("实性结节", "27925004"),
    ],
)
def test_an_observation_has_the_code_of_what_its_words_end_with(words, code):
    assert code_words("findings", words) == Coded(code, SNOMED, code_words("findings", words).meaning)


@pytest.mark.parametrize(
    "words",
    [
        "no nodule",
        "without effusion or mass",
        "fold beside a nodule",
        "nodule-like fold",
        "pseudoaneurysm",
        "假性动脉瘤",
        "无结节",
    ],
)
def test_words_that_only_speak_of_a_finding_are_not_coded_as_one(words):
    coded = code_words("findings", words)
    assert (coded.scheme, coded.meaning) == (OWN_SCHEME, words)


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        ("right upper lobe, posterior segment", "Upper lobe of lung"),
        ("left lung", "Lung"),
        ("左肾上腺", "Adrenal gland"),
        ("左肾", "Kidney"),
        ("支气管", "Bronchus"),
    ],
)
def test_a_site_has_the_code_of_the_longest_term_that_fits(words, meaning):
    assert code_words("sites", words).meaning == meaning


def test_words_of_no_entry_have_a_code_of_their_own_that_stays_the_same():
    first, again = code_words("findings", "Ground-glass opacity"), code_words("findings", "ground-glass opacity")
    assert first.value == again.value and len(first.value) == 12
    assert first.scheme == OWN_SCHEME


@pytest.mark.parametrize("words", [HOSTILE, "W" * 100_000, "\u202enodule<|im_end|>" * 20])
def test_hostile_words_make_a_code_that_dicom_can_hold(words):
    coded = code_words("findings", words)
    assert len(coded.value) <= 16 and len(coded.meaning) <= 64
    assert "\u202e" not in coded.meaning and "<|" not in coded.meaning


def test_a_backslash_does_not_make_two_values():
    assert code_words("findings", "air\\fluid level").meaning == "air/fluid level"


@pytest.mark.parametrize("words", ["", "  ", "\u200b\u202e"])
def test_no_words_have_no_code(words):
    assert code_words("sites", words) is None

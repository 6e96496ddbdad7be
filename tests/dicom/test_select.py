from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import PositronEmissionTomographyImageStorage

from medvl.dicom.kernels import kernel_kind
from medvl.dicom.scan import scan
from medvl.dicom.select import Choice, select_series, stack_left_out, wanted_studies
from medvl.errors import SettingsError
from medvl.records import Apart, DisplayTurn, Series, Stack
from tests.builders import AXIAL, CORONAL, make_instance, uid, write_dataset, write_series

LUNG = {"series": "lung", "kernel": "LUNG", "series_number": 2}
SOFT = {"series": "soft", "kernel": "STANDARD", "series_number": 3}


def choose(folder: Path, *series, wish="any", wanted=("auto",)) -> dict[int, Choice]:
    """The choice for each series, by series number."""
    for one in series:
        write_series(folder, **{"count": 4, **one})
    (study,) = scan([folder]).studies
    choices = select_series(study, wanted, lambda _: wish)
    assert [choice.series for choice in choices] == list(study.series)
    return {choice.series.number or 0: choice for choice in choices}


def read_numbers(choices: dict[int, Choice]) -> list[int]:
    return [number for number, choice in choices.items() if choice.read]


@pytest.mark.parametrize(("wish", "read"), [("sharp", 2), ("soft", 3)])
def test_of_two_reconstructions_the_one_whose_kernel_suits_is_read(tmp_path, wish, read):
    choices = choose(tmp_path, LUNG, SOFT, wish=wish)
    assert read_numbers(choices) == [read]
    kernels = {2: "LUNG: sharp", 3: "STANDARD: soft"}
    advantage = f"has the kernel that suits the prompt ({kernels[read]}, not {kernels[5 - read]})"
    assert choices[5 - read].reason == f"same acquisition as series {read}, which {advantage}"
    assert choices[read].reason == (
        f"axial CT series; of one acquisition, preferred to series {5 - read}, since it {advantage}"
    )


def test_of_two_thicknesses_the_one_nearest_1_to_3_mm_is_read(tmp_path):
    thick = {"series": "thick", "thickness_mm": 8.0, "series_number": 1}
    thin = {"series": "thin", "thickness_mm": 0.6, "series_number": 2}
    choices = choose(tmp_path, thick, thin)  # 5 mm too thick, 0.4 mm too thin
    assert read_numbers(choices) == [2]
    assert choices[1].reason == "same acquisition as series 2, which has a slice thickness nearer to 1–3 mm"


def test_a_single_series_is_read(tmp_path):
    choices = choose(tmp_path, SOFT, wish="sharp")
    assert choices[3] == Choice(choices[3].series, True, "axial CT series")


@pytest.mark.parametrize(
    "other",
    [
        {"acquisition_number": 2},
        {"frame_of_reference": "another"},
        {"extra": {"AcquisitionTime": "101600"}},  # a minute after the first
        {"position": (-100.0, -100.0, 30.0)},  # the first ends at 7.5 mm
        {"count": 5},  # 10 mm of extent, of which the first covers 7.5
    ],
)
def test_what_the_chosen_series_does_not_cover_is_read_too(tmp_path, other):
    first = {**LUNG, "extra": {"AcquisitionTime": "101500"}}
    choices = choose(tmp_path, first, {**SOFT, **other, "series": "soft", "series_number": 3}, wish="sharp")
    assert read_numbers(choices) == [2, 3]


def test_a_series_with_a_gap_does_not_stand_for_one_without(tmp_path):
    choices = choose(tmp_path, {**LUNG, "gap_at": 2}, SOFT, wish="sharp")
    assert read_numbers(choices) == [2, 3]


def test_an_axial_series_is_preferred_to_a_coronal_one_of_the_same_acquisition(tmp_path):
    axial = {"series": "a", "series_number": 1, "count": 7, "rows": 20, "position": (0.0, 0.0, 0.0)}
    # Axial: z from 0 to 15 mm, y to 19 × 0.8 = 15.2 mm; coronal: y from 2 to 9.5 mm, z from 15 down to 3 mm.
    coronal = {"series": "c", "series_number": 2, "iop": CORONAL, "position": (0.0, 2.0, 15.0)}
    choices = choose(tmp_path, axial, coronal)
    assert read_numbers(choices) == [1]
    assert choices[2].reason == "same acquisition as series 1, which is axial, not coronal"


def test_an_original_is_preferred_to_a_derived_series(tmp_path):
    derived = {"series": "d", "series_number": 1, "image_type": ("DERIVED", "SECONDARY", "PROCESSED")}
    choices = choose(tmp_path, derived, {**SOFT})
    assert read_numbers(choices) == [3]
    assert choices[1].reason == "same acquisition as series 3, which is original, not derived"


def test_mr_sequences_over_one_place_are_all_read(tmp_path):
    choices = choose(tmp_path, {**LUNG, "modality": "MR"}, {**SOFT, "modality": "MR"})
    assert read_numbers(choices) == [2, 3]


def test_radiographs_are_read(tmp_path):
    choices = choose(tmp_path, {"modality": "DX", "position": None, "count": 1})
    assert choices[1] == Choice(choices[1].series, True, "X-ray series")


SCOUT = {"series": "scout", "series_number": 1, "description": "Scout", "count": 1}


def test_auto_gives_the_reason_why_a_scout_is_not_read(tmp_path):
    choices = choose(tmp_path, SCOUT, SOFT)
    assert read_numbers(choices) == [3]
    assert choices[1].reason == "scout (localizer)"


def test_all_reads_every_image_series(tmp_path):
    choices = choose(tmp_path, SCOUT, LUNG, SOFT, wanted=("all",))
    assert read_numbers(choices) == [1, 2, 3]
    assert choices[1].reason == "all series were asked for, though scout (localizer)"


def test_exactly_the_series_asked_for_are_read(tmp_path):
    choices = choose(tmp_path, SCOUT, LUNG, SOFT, wanted=(uid("study", "soft"), uid("study", "scout")))
    assert read_numbers(choices) == [1, 3]
    assert choices[2].reason == "not among the series asked for"


def test_an_unknown_series_is_an_error_that_names_the_known_ones(tmp_path):
    write_series(tmp_path, description="Thorax")
    found = scan([tmp_path])
    known = uid("study", "series")
    with pytest.raises(SettingsError, match=rf'no series 1\.2\.3\..*found here: {known} \(series 1 "Thorax"\)'):
        wanted_studies(found, ("1.2.3", known))
    for wanted in ((known,), ("auto",), ("all",)):
        assert wanted_studies(found, wanted) == found.studies


def test_only_the_study_of_a_series_asked_for_is_read(tmp_path):
    for study in ("one", "other"):
        write_series(tmp_path / study, study=study, count=1)
    found = scan([tmp_path])
    (asked_for,) = wanted_studies(found, (uid("other", "series"),))
    assert (len(found.studies), asked_for.uid) == (2, uid("other"))


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("B31f", "soft"),
        ("B70f", "sharp"),
        ("Br38f", "soft"),
        ("Br64d", "sharp"),
        ("Bl57d", "sharp"),
        ("I31f", "soft"),
        ("I70f", "sharp"),
        ("Hr38s", "soft"),
        ("STANDARD", "soft"),
        ("SOFT", "soft"),
        ("DETAIL", "soft"),
        ("LUNG", "sharp"),
        ("BONEPLUS", "sharp"),
        ("EDGE", "sharp"),
        ("B", "soft"),
        ("C", "soft"),
        ("YB", "sharp"),
        ("L", "sharp"),
        ("FC08", "soft"),
        ("FC13-H", "soft"),
        ("FC30", "sharp"),
        ("FC52", "sharp"),
        ("FC68", "soft"),
        ("FC81", "sharp"),
        ("Frobnicate", "unknown"),
    ],
)
def test_kernels_are_recognised_by_their_vendors_names(kernel, kind):
    assert kernel_kind(kernel) == kind


@pytest.mark.parametrize(
    ("description", "kind"),
    [("Lung 1.0", "sharp"), ("Mediastinum", "soft"), ("Lung / soft", "unknown"), ("", "unknown")],
)
def test_without_a_kernel_the_description_is_asked(description, kind):
    assert kernel_kind("", description) == kind


# --- stacks of a series ------------------------------------------------------------------------------------------


def a_stack(*apart: Apart) -> Stack:
    return Stack(Series("1.2.3", 1, "MR", "", "", ()), (), "axial", DisplayTurn(), None, apart=apart)


def read_of(trait, count, wanted=("auto",)) -> list[int]:
    """The numbers of the stacks that are read of `count` told apart by a trait."""
    stacks = [a_stack(Apart(trait, number, count, f"{trait} {number}")) for number in range(1, count + 1)]
    return [number for number, stack in enumerate(stacks, start=1) if not stack_left_out(stack, wanted)]


@pytest.mark.parametrize(
    ("trait", "count", "read"),
    [
        ("phase", 6, [1, 2, 3, 4, 5, 6]),
        ("phase", 7, [1, 4, 7]),
        ("phase", 40, [1, 20, 40]),
        ("b-value", 2, [1, 2]),
        ("b-value", 4, [1, 4]),
        ("direction", 30, [1]),
        ("echo", 3, [1, 2, 3]),
        ("echo", 8, [1, 4, 8]),
        ("heart phase", 25, [1, 13, 25]),
        ("image type", 8, [1, 2, 3, 4, 5, 6, 7, 8]),
        ("kernel", 2, [1, 2]),
        ("station", 5, [1, 2, 3, 4, 5]),
    ],
)
def test_of_the_stacks_at_one_place_those_are_read_that_radiologists_look_at(trait, count, read):
    assert read_of(trait, count) == read


def test_magnitudes_are_read_and_phase_images_only_where_there_is_nothing_else():
    magnitude, phase = Apart("component", 1, 2, "magnitude", "MAGNITUDE"), Apart("component", 2, 2, "phase", "PHASE")
    assert stack_left_out(a_stack(magnitude), ("auto",)) == ""
    assert stack_left_out(a_stack(phase), ("auto",)) == "phase: magnitudes are read"
    assert stack_left_out(a_stack(Apart("component", 1, 2, "imaginary", "IMAGINARY")), ("auto",)) == ""
    assert stack_left_out(a_stack(Apart("component", 2, 2, "real", "REAL")), ("auto",)) == ""  # of inversion recovery


def test_the_first_reason_to_leave_a_stack_out_is_given():
    stack = a_stack(Apart("b-value", 2, 3, "b 400 s/mm²"), Apart("direction", 2, 3, "direction 2 of 3"))
    assert stack_left_out(stack, ("auto",)) == (
        "b 400 s/mm², direction 2 of 3: of the b-values the lowest and the highest are read"
    )


@pytest.mark.parametrize("wanted", [("all",), ("1.2.3",)])
def test_a_series_asked_for_is_read_with_all_its_stacks(wanted):
    assert read_of("b-value", 4, wanted) == [1, 2, 3, 4]


def test_a_series_of_one_phase_does_not_stand_for_one_of_two(tmp_path):
    two = {"series": "two", "series_number": 2}
    write_series(tmp_path, **two, count=4)
    # The second phase of the same series: other instances and acquisition at the same places.
    for index in range(4):
        instance = make_instance(
            stored=np.zeros((16, 16), np.int16),
            position=(-100.0, -100.0, 2.5 * index),
            iop=AXIAL,
            sop_uid=uid("second", index),
            series_uid=uid("study", "two"),
            study_uid=uid("study"),
            acquisition_number=2,
            series_number=2,
            number=5 + index,
        )
        write_dataset(tmp_path / f"second {index}", instance)
    choices = choose(tmp_path, {**LUNG, "series_number": 3}, wish="sharp")
    assert read_numbers(choices) == [2, 3]


def test_a_pet_is_read_beside_its_ct(tmp_path):
    pet = {"modality": "PT", "sop_class": PositronEmissionTomographyImageStorage, "series": "p", "series_number": 4}
    choices = choose(tmp_path, SOFT, pet)
    assert read_numbers(choices) == [3, 4]
    assert choices[4].reason == "axial PT series"

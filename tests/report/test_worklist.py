"""The list of all studies in a real browser."""

from dataclasses import replace
from time import perf_counter

import pytest

from medvl.report.html import write_index
from medvl.report.write import write_study
from tests.report.examples import a_partial_report, a_report


def a_study(folder, number, *, name="Doe^Jane", date="20260101", report=None, finding_count=3):
    report = a_report() if report is None else report
    study = replace(report.study, key=f"s{number}", date=date)
    patient = replace(report.patient, name=name, id=f"MRN-{number}", key=f"p{number}")
    findings = report.findings[:finding_count]
    write_study(
        folder / f"p{number}" / f"s{number}", replace(report, study=study, patient=patient, findings=findings), {}
    )


@pytest.fixture
def worklist(tmp_path, open_page):
    """Ames 2024, Berg 2026 (partial), Cole 2025."""
    a_study(tmp_path, 1, name="Ames^Ann", date="20240301", finding_count=2)
    a_study(tmp_path, 2, name="Berg^Bo", date="20260301", report=a_partial_report())
    a_study(tmp_path, 10, name="Cole^Cy", date="20250301", finding_count=1)
    return open_page(write_index(tmp_path))


def names(page):
    return page.locator(".worklist tbody tr:visible th").all_inner_texts()


def test_the_newest_study_comes_first_whoever_it_is_of(worklist):
    assert names(worklist) == ["Berg, Bo", "Cole, Cy", "Ames, Ann"]


def test_every_word_searched_for_must_be_in_the_row(worklist):
    worklist.fill("[data-list=search]", "thorax 2025")
    assert names(worklist) == ["Cole, Cy"]
    assert worklist.inner_text("[data-list=state]") == "1 of 3 studies"
    worklist.fill("[data-list=search]", "nobody")
    assert names(worklist) == []
    worklist.fill("[data-list=search]", "")
    assert len(names(worklist)) == 3


def test_studies_are_chosen_by_status(worklist):
    worklist.select_option("[data-list=status]", "partial")
    assert names(worklist) == ["Berg, Bo"]


def test_a_heading_sorts_and_sorts_back(worklist):
    worklist.click("thead button >> text=Findings")
    assert names(worklist) == ["Cole, Cy", "Ames, Ann", "Berg, Bo"]
    assert worklist.get_attribute("th:has-text('Findings')", "aria-sort") == "ascending"
    worklist.click("thead button >> text=Findings")
    assert names(worklist) == ["Berg, Bo", "Ames, Ann", "Cole, Cy"]
    worklist.click("thead button >> text=Patient ID")
    assert names(worklist) == ["Ames, Ann", "Berg, Bo", "Cole, Cy"]  # MRN-10 after MRN-2


@pytest.mark.slow
def test_five_thousand_studies_are_listed_searched_and_sorted_without_waiting(tmp_path, open_page):
    for number in range(5000):
        a_study(tmp_path, number, name=f"Doe{number}^Jane", date=f"20{10 + number % 16}0301")
    begin = perf_counter()
    index = write_index(tmp_path)
    assert perf_counter() - begin < 20
    page = open_page(index)
    milliseconds = page.evaluate(
        """async () => {
          const frame = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
          const search = document.querySelector("[data-list=search]"), begin = performance.now();
          search.value = "doe4999";
          search.dispatchEvent(new Event("input"));
          await frame();
          const searched = performance.now();
          search.value = "";
          search.dispatchEvent(new Event("input"));
          document.querySelector("thead button").click();
          await frame();
          return [searched - begin, performance.now() - searched];
        }"""
    )
    assert max(milliseconds) < 2000, milliseconds

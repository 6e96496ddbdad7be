import json
import re
from base64 import b64decode, b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from time import perf_counter

import pytest

import medvl.report
from medvl.errors import InputError
from medvl.records import Density, SecondLook
from medvl.report.document import Impression, UnreadFile
from medvl.report.html import write_index, write_patient_page
from medvl.report.write import write_study
from tests.report.examples import (
    a_chinese_report,
    a_finding,
    a_hostile_report,
    a_partial_report,
    a_report,
    a_report_without_findings,
    pictures,
)

PACKAGE = Path(medvl.report.__file__).parent
VOID = {"meta", "img", "input", "link", "br", "hr", "rect"}


class Page(HTMLParser):
    """Elements and text of a page; fails on elements that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self._open = [], [], []
        self.feed(text)
        assert self._open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self._open):
            self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(tmp_path, *reports, deidentify=False):
    for report in reports:
        write_study(tmp_path / "p" / report.study.key, report, pictures(report))
    return Page(write_patient_page(tmp_path / "p", deidentify=deidentify).read_text("utf-8"))


EXAMPLES = [a_report, a_report_without_findings, a_partial_report, a_chinese_report, a_hostile_report]


@pytest.fixture(params=EXAMPLES, ids=lambda make: make.__name__)
def any_page(request, tmp_path):
    return page_of(tmp_path, request.param())


def test_a_page_shows_its_report_without_any_other_file_and_runs_one_script(any_page):
    assert {name for name, _ in any_page.elements} & {"link", "iframe", "object", "form", "base"} == set()
    assert any_page.all("script") == [{"type": "application/json"}, {}]
    for _, attributes in any_page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert attributes.get("src", "data:image/").startswith("data:image/")
        assert re.match(r"#|\.\./index\.html$", attributes.get("href", "#"))


@pytest.mark.parametrize("name", ["p/index.html", "index.html"])
def test_the_security_policy_allows_only_the_style_and_the_script_in_the_page(tmp_path, name):
    page_of(tmp_path, a_report())
    write_index(tmp_path)
    text = (tmp_path / name).read_text("utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    style, script = (
        b64encode(sha256(re.search(f"<{tag}>(.*)</{tag}>", text, re.DOTALL)[1].encode()).digest()).decode()
        for tag in ("style", "script")
    )
    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        f"style-src 'sha256-{style}'",
        f"script-src 'sha256-{script}' 'strict-dynamic'",
        "base-uri 'none'",
        "form-action 'none'",
    ]


def test_links_lead_somewhere_and_ids_are_unique(any_page):
    ids = [attributes["id"] for _, attributes in any_page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["href"][1:] for attributes in any_page.all("a") if attributes["href"].startswith("#")}
    assert targets <= set(ids)
    labels = {attributes["aria-labelledby"] for _, attributes in any_page.elements if "aria-labelledby" in attributes}
    assert labels <= set(ids)


def test_pictures_have_words_and_headers_a_scope(any_page):
    assert all(attributes["alt"].strip() for attributes in any_page.all("img"))
    assert {attributes["scope"] for attributes in any_page.all("th")} <= {"col", "row"}
    assert len(any_page.all("main")) == len(any_page.all("h1")) == 1
    assert any_page.all("a")[0]["href"] == "#main"


def test_every_study_opens_with_the_draft_banner(tmp_path):
    older = replace(a_report(), study=replace(a_report().study, key="older", date="20200101"))
    text = page_of(tmp_path, a_report(), older).text
    assert text.count("Research aid, not a diagnosis; to be checked by a radiologist.") == 2


def test_the_page_says_what_was_found_where_and_how_sure(tmp_path):
    text = page_of(tmp_path, a_report()).text
    for words in (
        "Doe, Jane",
        "1980-03-02 (46 years)",
        "2026-11-22 10:15",
        "Solid nodule · right upper lobe, posterior segment",
        "12 × 10 × 12",
        "41–44",
        "Token probability 0.87 wording 0.64; not calibrated",
        "Certainty probable model’s word",
        "the model said: right",
        "neither is the probability that the finding is real",
        "100 of 100 slices read in 11 chunks (lung WL −600 WW 1500; 512 px).",
        "Of 102 frames found in this study’s series, 100 were read and 2 were not.",
        "2 frames not read: localizer: Image Type (0008,0008) holds LOCALIZER",
        "gap after slice 57: 6 mm missing → averages no slices across the gap",
        "the reply named slice 912",
        "a dose report (Structured Report), not an image",
        "int8 (bitsandbytes), vision tower and lm_head bf16",
        "9f2c41d07ab3",
        "2 min 12 s",
    ):
        assert words in text, words


def test_impression_and_findings_and_pictures_are_linked(tmp_path):
    page = page_of(tmp_path, a_report())
    targets = [attributes["href"] for attributes in page.all("a")]
    assert targets.count("#s1-f1") == 2  # from the impression and from its key image
    assert targets.count("#s1-k1") == 1
    rows = [attributes.get("id") for attributes in page.all("li")]
    assert [row for row in rows if row] == ["s1-f1", "s1-f2", "s1-f3"]


def test_boxes_are_drawn_in_fractions_of_the_picture(tmp_path):
    rects = [rect for rect in page_of(tmp_path, a_report()).all("rect") if rect["class"] == "box"]
    assert [rects[0][name] for name in ("x", "y", "width", "height")] == ["0.3000", "0.4000", "0.0600", "0.0500"]


def test_axial_pictures_show_the_patients_right_on_the_left(tmp_path):
    page_of(tmp_path, a_report())
    text = (tmp_path / "p" / "index.html").read_text("utf-8")
    letters = re.findall(r'<span class="edge (\w+)" aria-hidden="true">(\w)</span>', text)
    assert letters[:4] == [("left", "R"), ("right", "L"), ("top", "A"), ("bottom", "P")]


def test_pictures_of_unknown_orientation_show_no_letters(tmp_path):
    report = a_report()
    report = replace(report, series=(replace(report.series[0], plane="oblique"), *report.series[1:]))
    page_of(tmp_path, report)
    assert 'class="edge' not in (tmp_path / "p" / "index.html").read_text("utf-8")


def test_stacks_of_one_series_keep_their_own_letters(tmp_path):
    report = a_report()
    axial = report.series[0]
    views = tuple(replace(view, name=f"stack 2, {view.name}") for view in axial.views)
    report = replace(report, series=(axial, replace(axial, plane="sagittal", views=views)))
    page_of(tmp_path, report)
    text = (tmp_path / "p" / "index.html").read_text("utf-8")
    assert set(re.findall(r'<span class="edge left" aria-hidden="true">(\w)</span>', text)) == {"R"}


def test_lost_images_are_told_from_files_with_nothing_to_read(tmp_path):
    report = a_report()
    lost = UnreadFile("CT_case/IM9", "truncated", "1.2.3", 2, lost=True)
    report = replace(report, unread_files=(*report.unread_files, lost))
    page_of(tmp_path, report)
    text = (tmp_path / "p" / "index.html").read_text("utf-8")
    assert '<strong class="red">Images that could not be read</strong> (2)' in text
    assert "Files with nothing to read (2)" in text
    frames = sum(len(series.slices) for series in report.series)
    assert f"Of {frames + 2} frames found" in text


def test_no_finding_never_reads_as_normal(tmp_path):
    page = page_of(tmp_path, a_report_without_findings())
    assert (
        "The model reported no finding in the slices it read. This does not mean that the study is normal" in page.text
    )
    assert page.text.count("normal") == 1


def test_no_finding_is_said_even_when_the_impression_is_empty(tmp_path):
    page = page_of(tmp_path, replace(a_report_without_findings(), impression=Impression((), "template")))
    assert "This does not mean that the study is normal" in page.text


def test_a_partial_study_is_marked_and_says_how_to_resume(tmp_path):
    page = page_of(tmp_path, a_partial_report())
    assert "chunks read so far, 6 of 11" in page.text
    assert "run the same medvl study command again" in page.text
    assert "55 of 100 slices read in 6 chunks" in page.text
    assert "5 chunks were not read." in page.text
    assert "Slices 56–100: not read the run was interrupted before this chunk" in page.text
    assert "INCOMPLETE" in page.text


def test_the_strip_draws_every_slice_once(tmp_path):
    rects = page_of(tmp_path, a_partial_report()).all("rect")
    widths = {kind: sum(int(r["width"]) for r in rects if r.get("class") == kind) for kind in ("read", "unread")}
    assert widths == {"read": 55, "unread": 45}


def test_chinese_reports_speak_chinese(tmp_path):
    page = page_of(tmp_path, a_chinese_report())
    assert page.all("html")[0]["lang"] == "zh-Hans"
    assert "研究辅助工具，非诊断结论；须由放射科医师核对。" in page.text
    assert "Wang, XiaoDong (王 小东)" in page.text
    assert "Findings" not in page.text
    assert "第 57 层之后有间隙：缺 6 mm → 不跨间隙平均层面" in page.text
    assert "gap after" not in page.text


def test_both_languages_have_the_same_words_with_the_same_placeholders():
    def shape(language):
        table = json.loads((PACKAGE / "words" / f"{language}.json").read_text("utf-8"))
        texts = {key: entry if isinstance(entry, str) else entry["other"] for key, entry in table.items()}
        return {key: sorted(re.findall(r"{(\w+)}", text)) for key, text in texts.items()}

    assert shape("en") == shape("zh")


def test_studies_are_newest_first_and_each_is_complete(tmp_path):
    older = replace(a_report(), study=replace(a_report().study, key="older", date="20200101"))
    page = page_of(tmp_path, older, a_report())
    assert [attributes["id"] for attributes in page.all("article")] == ["s1", "s2"]
    assert page.text.index("2026-11-22") < page.text.index("2020-01-01")
    assert page.text.count("How this report was made") == 2


def test_one_broken_report_does_not_take_the_others_with_it(tmp_path):
    broken = tmp_path / "p" / "broken"
    broken.mkdir(parents=True)
    (broken / "report.json").write_text("{")
    page = page_of(tmp_path, a_report())
    assert "Solid nodule" in page.text
    assert "p/broken/report.json cannot be used" in page.text
    index = Page(write_index(tmp_path).read_text("utf-8"))
    assert "p/broken/report.json cannot be used" in index.text
    assert [row["data-status"] for row in index.all("tr") if "data-status" in row] == ["complete", "unreadable"]


def test_a_patient_without_any_report_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"holds no report\.json"):
        write_patient_page(tmp_path, deidentify=False)


def test_a_missing_picture_is_said(tmp_path):
    write_study(tmp_path / "p" / "s", a_report(), {})
    page = Page(write_patient_page(tmp_path / "p", deidentify=False).read_text("utf-8"))
    assert page.text.count("This picture is missing on disk.") == 4


def test_a_report_cannot_make_the_page_read_another_file(tmp_path):
    (tmp_path / "secret.webp").write_bytes(b"private")
    image = replace(a_report().key_images[0], file="../../../secret.webp")
    write_study(tmp_path / "p" / "s", a_report(key_images=(image,)), {})
    text = write_patient_page(tmp_path / "p", deidentify=False).read_text("utf-8")
    assert b64encode(b"private").decode() not in text


def test_hostile_text_is_inert_visible_and_bounded(tmp_path):
    page = page_of(tmp_path, a_hostile_report())
    text = (tmp_path / "p" / "index.html").read_text("utf-8")
    assert len(page.all("script")) == 2
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert "W" * 601 not in text
    assert "<script>alert(1)</script>" in page.text  # shown as what it is
    assert "… (+99,400)" in page.text


def test_a_hostile_index_is_inert(tmp_path):
    write_study(tmp_path / "p" / "s", a_hostile_report(), {})
    text = write_index(tmp_path).read_text("utf-8")
    assert len(Page(text).all("script")) == 1
    assert "<script>alert" not in text
    assert "\u202e" not in text


def test_the_index_lists_patients_by_newest_study_with_working_links(tmp_path):
    write_study(tmp_path / "a" / "old", replace(a_report(), study=replace(a_report().study, date="20200101")), {})
    write_study(tmp_path / "b" / "new", a_partial_report(), {})
    (tmp_path / "notes").mkdir()
    page = Page(write_index(tmp_path).read_text("utf-8"))
    links = [attributes["href"] for attributes in page.all("a")]
    assert links == ["#main", "b/index.html#s1", "a/index.html#s1"]
    assert "2 patients, 2 studies" in page.text
    assert "Doe, Jane MRN-4711 2026-11-22 CT Thorax with contrast INCOMPLETE 3" in page.text


def test_an_empty_folder_has_an_index_that_says_so(tmp_path):
    assert "There is no report in this folder yet." in Page(write_index(tmp_path).read_text("utf-8")).text


def test_pictures_are_in_the_page_byte_for_byte(tmp_path):
    report = a_report()
    images = pictures(report)
    sources = [attributes["src"] for attributes in page_of(tmp_path, report).all("img")]
    assert [b64decode(source.removeprefix("data:image/webp;base64,")) for source in sources] == [
        *(images[key.file] for key in report.key_images),
        images["lung-sheet.webp"],
    ]


def test_a_page_is_made_again_quickly_and_stays_small(tmp_path):
    page_of(tmp_path, a_report())
    begin = perf_counter()
    page = write_patient_page(tmp_path / "p", deidentify=False)
    assert perf_counter() - begin < 0.3
    assert page.stat().st_size < 2_000_000


def _colours(css, start):
    block = css[css.index(":root", css.index(start)) :]
    return dict(re.findall(r"--([\w-]+): (#\w{6})", block[: block.index("}")]))


def _luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [":root", "@media screen and (prefers-color-scheme: dark)"], ids=["light", "dark"])
def test_text_and_marks_keep_the_contrast_of_wcag_aa(scheme):
    colours = _colours((PACKAGE / "templates" / "style.css").read_text("utf-8"), scheme)

    def contrast(one, other):
        light, dark = sorted((_luminance(colours[one]), _luminance(colours[other])), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    texts = [("ink", "paper"), ("ink", "wash"), ("soft", "paper"), ("soft", "wash"), ("soft", "accent-wash")]
    texts += [("accent", "paper"), ("accent", "accent-wash"), ("on-accent", "accent"), ("draft", "draft-wash")]
    texts += [("draft", "paper"), ("red", "red-wash"), ("red", "paper")]
    assert {pair: round(contrast(*pair), 1) for pair in texts if contrast(*pair) < 4.5} == {}
    marks = [(mark, "paper") for mark in ("read", "unread", "chunk", "found")]
    assert {pair: round(contrast(*pair), 1) for pair in marks if contrast(*pair) < 3} == {}


def test_what_was_not_measured_is_not_shown(tmp_path):
    text = page_of(tmp_path, a_report()).text
    for name in ("Axes", "Density", "Second look", "Along the stack"):
        assert name not in text


def test_measured_values_come_with_their_error_and_contradict_the_model(tmp_path):
    measured = a_finding(
        long_axis_mm=19.84,
        short_axis_mm=16.5,
        axis_error_mm=1.1,
        typed_mm=12.0,
        density=Density(32.4, -12.0, 61.2, "soft tissue"),
        second_look=SecondLook("contradicted", 0.123),
    )
    text = page_of(tmp_path, a_report(findings=(measured,))).text
    assert "Axes 19.8 × 16.5 mm ± 1.1 mm the model wrote 12 mm" in text
    assert "Density 32 HU −12 to 61 HU in 90 % of the box; like soft tissue" in text
    assert "Second look contradicted probability of yes 0.12" in text


def test_a_typed_size_within_the_error_is_no_contradiction(tmp_path):
    measured = a_finding(long_axis_mm=12.9, short_axis_mm=9.0, axis_error_mm=1.0, typed_mm=12.0)
    assert "the model wrote" not in page_of(tmp_path, a_report(findings=(measured,))).text

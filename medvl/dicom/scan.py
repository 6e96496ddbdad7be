"""Finds studies and series where the user pointed, from headers alone.

Every file ends up in exactly one place: a frame of a series, or unread with a reason.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from medvl.dicom.attempt import Unreadable
from medvl.dicom.bulk import read_headers
from medvl.dicom.header import NOT_DICOM
from medvl.dicom.instance import Instance, SeriesFacts, StudyFacts
from medvl.dicom.kinds import kind_of
from medvl.dicom.layout import NO_PIXELS
from medvl.dicom.shelves import HeaderCache
from medvl.dicom.source import find_sources
from medvl.errors import InputError
from medvl.records import Frame, Patient, Scan, Series, Source, Study, Unread

_KEY_LENGTH = 12  # hexadecimal digits: among a million patients, two share one with a chance of 0.2 %


def scan(
    paths: Sequence[Path],
    *,
    progress: Callable[[int], None] | None = None,
    cache: HeaderCache | None = None,
    processes: int | None = None,
) -> Scan:
    """Read the headers of every file under `paths`: folders of any depth, files, a DICOMDIR, zip archives.

    progress: told the number of files seen, after each. cache: where headers are kept between scans; a file that has
    not changed is not opened again. processes: how many may read; None: one for each core. Neither changes the result.
    Studies come newest first, series by number. Raises InputError when a path does not exist.
    """
    found = _Found()
    with closing(read_headers(find_sources(paths), cache, processes)) as headers:
        for count, header in enumerate(headers, start=1):
            if isinstance(header, Unread):
                found.unread.append(replace(header, lost=True))
            else:
                found.add(*header)
            found.file_count = count
            if progress is not None:
                progress(count)
    return found.result()


def require_images(scan: Scan) -> None:
    """Raise InputError when a scan found nothing to read, naming the most frequent reasons."""
    series = [one for study in scan.studies for one in study.series]
    if any(not one.not_read_because for one in series):
        return
    reasons = Counter(unread.reason for unread in scan.unread)
    reasons.update(unread.reason for study in scan.studies for unread in study.unread)
    reasons.update({one.not_read_because: len(one.frames) for one in series})
    listed = "; ".join(f"{reason}: {count}" for reason, count in reasons.most_common(3))
    raise InputError(
        f"No image worth reading among {scan.file_count} files" + (f" ({listed})" if listed else ""),
        expected="CT, MR, PET, X-ray or ultrasound images are needed",
        todo="Check the path, or name a listed series with --series UID",
    )


@dataclass(slots=True)
class _SeriesParts:
    """A series being gathered."""

    facts: SeriesFacts
    frames: dict[str, list[Frame]] = field(default_factory=dict)  # by reason not to read; "" for those to read


@dataclass(slots=True)
class _StudyParts:
    """A study being gathered."""

    facts: StudyFacts
    series: dict[str, _SeriesParts] = field(default_factory=dict)
    unread: list[Unread] = field(default_factory=list)


@dataclass(slots=True)
class _PatientParts:
    """A patient being gathered."""

    studies: dict[str, _StudyParts] = field(default_factory=dict)  # by key
    first_names: dict[str, str] = field(default_factory=dict)  # file, by SOP Instance UID


@dataclass(slots=True)
class _Found:
    """What has been found so far."""

    patients: dict[str, _PatientParts] = field(default_factory=dict)  # by key
    unread: list[Unread] = field(default_factory=list)
    file_count: int = 0
    _last: tuple[StudyFacts, _PatientParts, _StudyParts] | None = None

    def add(self, source: Source, header: Instance | Unreadable) -> None:
        if isinstance(header, Unreadable):
            self.unread.append(Unread(source, header.reason, lost=header.reason != NOT_DICOM))
        elif header.study.uid or header.frames:
            self._file(header)
        else:
            self.unread.append(_unread(header, kind_of(header).no_image_because))

    def _file(self, instance: Instance) -> None:
        """Put an instance where it belongs in its study."""
        patient, study = self._place_of(instance.study)
        kind = kind_of(instance)
        name = instance.source.name
        first_name = patient.first_names.setdefault(instance.sop_instance_uid or name, name)
        if first_name != name:
            study.unread.append(_unread(instance, f"duplicate of {first_name} (same SOP Instance UID)"))
        elif kind.no_image_because:
            study.unread.append(_unread(instance, kind.no_image_because))
        else:
            series = study.series.get(instance.series.uid)
            if series is None:
                series = study.series[instance.series.uid] = _SeriesParts(instance.series)
            series.frames.setdefault(kind.not_read_because, []).extend(instance.frames)
            if instance.unread_because:
                study.unread.append(_unread(instance, instance.unread_because))

    def _place_of(self, facts: StudyFacts) -> tuple[_PatientParts, _StudyParts]:
        """A study's UID alone is not trusted: two patients never share a report."""
        if self._last is None or self._last[0] is not facts:  # mostly it is that of the file before
            patient = self.patients.setdefault(patient_key(facts), _PatientParts())
            study = patient.studies.setdefault(study_key(facts), _StudyParts(facts))
            self._last = facts, patient, study
        return self._last[1:]

    def result(self) -> Scan:
        studies = [_study_of(parts) for patient in self.patients.values() for parts in patient.studies.values()]
        studies.sort(key=lambda study: (study.date, study.time, study.uid), reverse=True)
        return Scan(tuple(studies), tuple(self.unread), self.file_count)


@lru_cache(maxsize=256)  # most files belong to the same study as the one before
def patient_key(facts: StudyFacts) -> str:
    """Hash what identifies a patient: the ID and who issued it, else name and birth date, else the study."""
    if facts.patient_id:
        return _short_hash("id", facts.patient_id, facts.patient_id_issuer)
    if facts.patient_name:
        return _short_hash("name", facts.patient_name, facts.birth_date)
    return study_key(facts)


@lru_cache(maxsize=256)
def study_key(facts: StudyFacts) -> str:
    """Hash a study's UID, or where it was removed everything else that tells it from others."""
    if facts.uid:
        return _short_hash("study", facts.uid)
    return _short_hash("nameless", *map(str, astuple(facts)))


def _short_hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:_KEY_LENGTH]


def _study_of(parts: _StudyParts) -> Study:
    facts = parts.facts
    series: list[Series] = []
    unread = list(parts.unread)
    for gathered in parts.series.values():
        series.append(_series_of(gathered))
        unread.extend(_left_out(gathered))
    series.sort(key=lambda one: (one.number is None, one.number or 0, one.uid))
    return Study(
        uid=facts.uid,
        key=study_key(facts),
        patient=Patient(facts.patient_id, facts.patient_name, facts.birth_date, facts.sex, patient_key(facts)),
        date=facts.date,
        time=facts.time,
        description=facts.description,
        accession=facts.accession,
        series=tuple(series),
        unread=tuple(unread),
    )


def _series_of(parts: _SeriesParts) -> Series:
    facts, because = parts.facts, _main_reason(parts)
    return Series(
        uid=facts.uid,
        number=facts.number,
        modality=facts.modality,
        description=facts.description,
        body_part=facts.body_part,
        frames=tuple(parts.frames[because]),
        protocol=facts.protocol,
        kernel=facts.kernel,
        image_type=facts.image_type,
        manufacturer=facts.manufacturer,
        contrast=facts.contrast,
        burned_in_annotation=facts.burned_in_annotation,
        not_read_because=because,
    )


def _main_reason(parts: _SeriesParts) -> str:
    """Tell why the series is not read: "" when some of its frames are worth reading, else the commonest reason."""
    return "" if "" in parts.frames else max(parts.frames, key=lambda reason: len(parts.frames[reason]))


def _left_out(parts: _SeriesParts) -> Iterator[Unread]:
    """Yield the frames that are of another kind than their series, e.g. a scout stored among axial slices."""
    main = _main_reason(parts)
    for reason, frames in parts.frames.items():
        if reason != main:
            yield from unread_frames(frames, reason, parts.facts.uid)


def unread_frames(frames: Iterable[Frame], reason: str, series_uid: str) -> Iterator[Unread]:
    """Say of each frame that it is not read, and why."""
    for frame in frames:
        yield Unread(frame.source, reason, series_uid, frame.sop_instance_uid, frame.index)


def _unread(instance: Instance, reason: str) -> Unread:
    """Say why the frames of an instance that were not gathered are not read."""
    gathered = len(instance.frames) if reason == instance.unread_because else 0
    return Unread(
        source=instance.source,
        reason=reason,
        series_uid=instance.series.uid,
        sop_instance_uid=instance.sop_instance_uid,
        frame_index=gathered,
        frame_count=instance.frame_count - gathered,
        # An object without pixels may be no image; one that does not even name its study is a damaged file.
        lost=reason == instance.unread_because and (reason != NO_PIXELS or not instance.study.uid),
    )

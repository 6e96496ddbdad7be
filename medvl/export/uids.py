"""Names and moments that depend on a report alone, so that exporting it twice gives the same objects."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from medvl.errors import InputError
from medvl.report.document import ReportDocument
from medvl.report.review import ReviewedReport

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:medvl:export")


def export_uuid(reviewed: ReviewedReport, role: str) -> str:
    """Make the UUID of one exported object. role: what it is among those of the report, "key image 3"."""
    return str(_uuid(reviewed.document.study.uid, reviewed.digest, role))


def export_uid(reviewed: ReviewedReport, role: str) -> str:
    """Make the UID of one exported object (PS3.5 B.2: a UUID as a number under 2.25)."""
    return f"2.25.{_uuid(reviewed.document.study.uid, reviewed.digest, role).int}"


def tracking_uid(reviewed: ReviewedReport, number: int) -> str:
    """Make the UID of a finding; a review of the report does not change it."""
    return f"2.25.{_uuid(reviewed.document.study.uid, reviewed.draft_digest, f'finding {number}').int}"


def device_uid(document: ReportDocument) -> str:
    """Make the UID of what observed: this version of medvl with this model."""
    maker = document.provenance
    return f"2.25.{_uuid(maker.medvl_version, maker.reader.model, maker.reader.fingerprint).int}"


def written_at(document: ReportDocument) -> datetime:
    """Tell when the report was finished, in UTC. Raises InputError if it does not say."""
    try:
        moment = datetime.fromisoformat(document.timing.finished)
    except ValueError as error:
        raise InputError(
            "The report does not say when it was written", todo="Run medvl study again on the same input"
        ) from error
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _uuid(*parts: str) -> uuid.UUID:
    return uuid.uuid5(_NAMESPACE, "\0".join(parts))

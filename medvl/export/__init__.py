"""Hands a report's findings to the systems that hospitals use: DICOM, FHIR, PDF, tables."""

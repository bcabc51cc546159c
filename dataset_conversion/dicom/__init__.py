"""Reads DICOM: series, RTSTRUCT, DICOM-SEG."""

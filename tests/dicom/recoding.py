"""Compresses pixels into the transfer syntaxes that pydicom's encoders do not write."""

from __future__ import annotations

from pathlib import Path

import gdcm

GDCM_SYNTAXES = {
    "JPEG lossless, any predictor": gdcm.TransferSyntax.JPEGLosslessProcess14,
    "JPEG lossless, first predictor": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    "JPEG-LS": gdcm.TransferSyntax.JPEGLSLossless,
    "JPEG 2000": gdcm.TransferSyntax.JPEG2000Lossless,
    "RLE": gdcm.TransferSyntax.RLELossless,
    "implicit": gdcm.TransferSyntax.ImplicitVRLittleEndian,
    "big endian": gdcm.TransferSyntax.ExplicitVRBigEndian,
    "deflated": gdcm.TransferSyntax.DeflatedExplicitVRLittleEndian,
}


def recode(source: Path, target: Path, syntax: str) -> Path:
    """Write `source` again in a transfer syntax of `GDCM_SYNTAXES`."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(GDCM_SYNTAXES[syntax]))
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(target))
    assert reader.Read()
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return target

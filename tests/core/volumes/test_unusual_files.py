"""Files that are unusual but fine, against ITK, the library that 3D Slicer reads files with, through SimpleITK."""

import gzip
import struct
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from lib.core.volumes.reading import read_volume
from saved_volumes import numbers

VOXELS = numbers((4, 3, 2))
BYTES = VOXELS.tobytes(order="F")
SWAPPED = VOXELS.byteswap().tobytes(order="F")
TEXT = b" ".join(b"%d" % value for value in VOXELS.ravel(order="F"))


def nrrd(
    *fields: str, encoding: str = "raw", type: str = "int16", sizes: str = "4 3 2", endian: str = "little"
) -> bytes:
    """Return a header."""
    lines = ["NRRD0004", f"type: {type}", f"dimension: {len(sizes.split())}", f"sizes: {sizes}", f"endian: {endian}"]
    return "\n".join([*lines, f"encoding: {encoding}", *fields, "", ""]).encode()


def mha(*fields: str, sizes: str = "4 3 2", type: str = "MET_SHORT") -> bytes:
    """Return a header."""
    lines = ["ObjectType = Image", f"NDims = {len(sizes.split())}", f"DimSize = {sizes}", f"ElementType = {type}"]
    return "\n".join([*lines, *fields, "ElementDataFile = LOCAL", ""]).encode()


def nifti(start: int = 352, order: str = "<") -> bytes:
    """Return a header, filled up to the first voxel, with an extension where there is room for one."""
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(np.int16)
    header.set_data_shape(VOXELS.shape)
    header["vox_offset"], header["magic"] = start, b"n+1"
    extension = struct.pack(order + "4B2i", 1, 0, 0, 0, start - 352, 6) if start > 352 else bytes(4)
    return (header.binaryblock + extension).ljust(start, b"x")


def in_members(content: bytes, size: int = 11) -> bytes:
    """Compress by gzip, in members."""
    return b"".join(gzip.compress(content[at : at + size]) for at in range(0, len(content), size))


NAMED = (
    gzip.compress(b"")[:3] + b"\x08" + gzip.compress(BYTES)[4:10] + b"name" * 1000 + b"\0" + gzip.compress(BYTES)[10:]
)
"""Compressed by gzip, with a file name."""

LONG_HEADER = mha("HeaderSize = 200")

UNUSUAL = {
    "raw.nrrd": nrrd() + BYTES,
    "big endian.nrrd": nrrd(endian="big") + SWAPPED,
    "trailing bytes.nrrd": nrrd() + BYTES + b"more",
    "carriage returns.nrrd": nrrd().replace(b"\n", b"\r\n") + BYTES,
    "capitals.nrrd": nrrd(encoding="RAW", type="Int16") + BYTES,
    "byte skip.nrrd": nrrd("byte skip: 3") + b"abc" + BYTES,
    "byte skip from the end.nrrd": nrrd("byte skip: -1") + b"abc" + BYTES,
    "byte skip to before the end.nrrd": nrrd("byte skip: -3") + b"abc" + BYTES + b"de",
    "line skip.nrrd": nrrd("line skip: 2") + b"abc\n\r\n" + BYTES,
    "line and byte skip.nrrd": nrrd("line skip: 2", "byte skip: 2") + b"abc\n\nxy" + BYTES,
    "gzip.nrrd": nrrd(encoding="gz") + gzip.compress(BYTES),
    "gzip, big endian.nrrd": nrrd(encoding="gzip", endian="big") + gzip.compress(SWAPPED),
    "gzip in members.nrrd": nrrd(encoding="gzip") + in_members(BYTES),
    "gzip with a name.nrrd": nrrd(encoding="gzip") + NAMED,
    "gzip, an empty member.nrrd": nrrd(encoding="gzip") + gzip.compress(b"") + gzip.compress(BYTES),
    "gzip, trailing bytes.nrrd": nrrd(encoding="gzip") + gzip.compress(BYTES + b"more") + b"junk",
    "gzip after a line skip.nrrd": nrrd("line skip: 1", encoding="gzip") + b"abc\n" + gzip.compress(BYTES),
    "gzip with a byte skip.nrrd": nrrd("byte skip: 3", encoding="gzip") + gzip.compress(b"abc" + BYTES),
    "gzip, byte skip from the end.nrrd": nrrd("byte skip: -1", encoding="gzip") + gzip.compress(b"abc" + BYTES),
    "text.nrrd": nrrd(encoding="text") + TEXT + b"\nmore",
    "text after a line skip.nrrd": nrrd("line skip: 1", encoding="ascii") + b"abc\n" + TEXT.replace(b" ", b"\n"),
    "text of floats.nrrd": nrrd(encoding="txt", type="float") + TEXT.replace(b" 7 ", b" 7.5 "),
    "hexadecimal.nrrd": nrrd(encoding="hex") + b"\n".join(b"%02x" % byte for byte in BYTES),
    "scalar axis.nrrd": nrrd("kinds: scalar domain domain domain", sizes="1 4 3 2") + BYTES,
    "tabs.nrrd": nrrd("kinds:  domain\tdomain\tdomain vector", sizes="2\t3  2 2") + BYTES,
    "raw.mha": mha() + BYTES,
    "big endian.mha": mha("ElementByteOrderMSB = True") + SWAPPED,
    "big endian twice.mha": mha("BinaryDataByteOrderMSB = T", "ElementByteOrderMSB = F") + SWAPPED,
    "little endian twice.mha": mha("BinaryDataByteOrderMSB = False", "ElementByteOrderMSB = True") + BYTES,
    "trailing bytes.mha": mha() + BYTES + b"more",
    "carriage returns.mha": mha().replace(b"\n", b"\r\n") + BYTES,
    "colons.mha": mha().replace(b" = ", b":") + BYTES,
    "voxels at the end.mha": mha("HeaderSize = -1") + b"abc" + BYTES,
    "long header.mha": LONG_HEADER.ljust(200, b"x") + BYTES,
    "zlib.mha": mha("CompressedData = True", f"CompressedDataSize = {len(zlib.compress(BYTES))}")
    + zlib.compress(BYTES),
    "text.mha": mha("BinaryData = False") + TEXT + b"\n",
    "text with commas.mha": mha("BinaryData = False") + TEXT.replace(b" ", b",") + b"\n7",
    "components.mha": mha("ElementNumberOfChannels = 2", sizes="3 2 2") + BYTES,
    "channels last.mha": mha(sizes="2 2 2 3") + BYTES,
    "unknown field.mha": mha("Colour = blue") + BYTES,
    "big endian.nii": nifti(order=">") + SWAPPED,
    "trailing bytes.nii": nifti() + BYTES + b"more",
    "extension.nii": nifti(100_000) + BYTES,
    "extension.nii.gz": gzip.compress(nifti(100_000) + BYTES),
    "in members.nii.gz": in_members(nifti() + BYTES),
    "trailing bytes.nii.gz": gzip.compress(nifti() + BYTES + bytes(5_000_000)) + b"junk",
    "raw by content.nii.gz": nifti() + BYTES,
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_files_are_read_as_by_itk(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(UNUSUAL[name])
    image = sitk.ReadImage(str(tmp_path / name))
    expected = sitk.GetArrayFromImage(image).T
    if image.GetNumberOfComponentsPerPixel() == 1:
        # ITK has channels that lie one volume after the other as a fourth axis.
        expected = np.moveaxis(expected.reshape(*expected.shape[:3], -1), 3, 0)
    np.testing.assert_array_equal(read_volume(tmp_path / name).array, expected)
    assert {0, 5, 23} <= set(expected.ravel().tolist())

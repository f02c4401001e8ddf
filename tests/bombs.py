"""Small files that make careless readers allocate gigabytes, loop without end, or read other files."""

import gzip
import io
import struct
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import h5py
import nibabel
import numpy as np

import nd2_files
from czi_files import Block, czi
from imaris_files import characters, write_imaris
from lif_files import Series, framed, lif

MANY = 1 << 23
"""Bytes of a file that is as small as a usual label, and far too large for a header."""

VOXELS = np.arange(24, dtype="<i2").tobytes()
"""The voxels of a volume of 4×3×2."""


@cache
def zeros(gigabytes: int) -> bytes:
    """Gigabytes of zeros, compressed by gzip to megabytes."""
    megabyte, count = bytes(1 << 20), gigabytes << 10
    compress = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    # After a full flush, compressed data can be repeated.
    block = compress.compress(megabyte) + compress.flush(zlib.Z_FULL_FLUSH)
    checksum = 0
    for _ in range(count):
        checksum = zlib.crc32(megabyte, checksum)
    end = struct.pack("<2I", checksum, (count << 20) % 2**32)
    return gzip.compress(b"")[:10] + block * count + compress.flush() + end


def nifti(shape: tuple[int, ...] = (4, 3, 2), start: float = 352, **fields: Any) -> bytes:
    """The header of a NIfTI file of int16, up to the first voxel."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header["dim"] = [len(shape), *shape, *[1] * (7 - len(shape))]
    header["vox_offset"], header["magic"] = start, b"n+1"
    for name, value in fields.items():
        header[name] = value
    return bytes(header.binaryblock) + bytes(4)


def nrrd(*fields: str, encoding: str = "raw", sizes: str = "4 3 2") -> bytes:
    """The header of an NRRD file of int16."""
    lines = ["NRRD0004", "type: int16", f"dimension: {len(sizes.split())}", f"sizes: {sizes}", "endian: little"]
    return "\n".join([*lines, f"encoding: {encoding}", *fields, "", ""]).encode()


def mha(*fields: str, sizes: str = "4 3 2", axes: str = "3", last: str = "ElementDataFile = LOCAL") -> bytes:
    """The header of a MetaImage file of int16."""
    lines = ["ObjectType = Image", f"NDims = {axes}", f"DimSize = {sizes}", "ElementType = MET_SHORT"]
    return "\n".join([*lines, *fields, last, ""]).encode()


def members(content: bytes, count: int) -> bytes:
    """The same content compressed by gzip again and again."""
    return gzip.compress(content) * count


def with_name(content: bytes) -> bytes:
    """Content compressed by gzip, with a file name that is as long as a file."""
    whole = gzip.compress(content)
    return whole[:3] + b"\x08" + whole[4:10] + b"x" * MANY + b"\0" + whole[10:]


def tiff(
    *contents: bytes, width: int = 4, height: int = 3, compression: int = 1, text: bytes = b"", **other: int
) -> bytes:
    """A TIFF of uint16 with a page for each content, which is its only strip; ``other`` are tags by ``tNUMBER``."""
    file = bytearray(b"II*\0" + struct.pack("<I", 8))
    for content in contents:
        tags = {256: width, 257: height, 258: 16, 259: compression, 262: 1, 277: 1, 278: height, 279: len(content)}
        tags |= {int(tag[1:]): value for tag, value in other.items()}
        here, count = len(file), len(tags) + 1 + bool(text)
        after = here + 2 + 12 * count + 4
        entries = {tag: struct.pack("<2H2I", tag, 4, 1, value) for tag, value in tags.items()}
        entries[273] = struct.pack("<2H2I", 273, 4, 1, after + len(text))
        if text:
            entries[270] = struct.pack("<2H2I", 270, 2, len(text), after)
        following = after + len(text) + len(content)
        following = 0 if content is contents[-1] else following
        file += struct.pack("<H", count) + b"".join(entries[tag] for tag in sorted(entries))
        file += struct.pack("<I", following) + text + content
    return bytes(file)


def ome(*inner: str, z: int = 2) -> bytes:
    """OME-XML of a stack of uint16."""
    sizes = f'SizeX="4" SizeY="3" SizeZ="{z}" SizeC="1" SizeT="1" Type="uint16" DimensionOrder="XYZCT"'
    head = '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    return f'{head}<Image ID="Image:0"><Pixels ID="P:0" {sizes}>{"".join(inner)}</Pixels></Image></OME>\0'.encode()


DEFLATE, LZW, PACKBITS = 8, 5, 32773
PLANE = VOXELS[:24]

EMPTY_BLOCKS = gzip.compress(b"")[:10] + b"\0\0\0\xff\xff" * (MANY // 5)
"""Compressed by gzip in blocks that hold nothing."""

COMPRESSED = "CompressedData = True"


def lif_bomb(old: str = "", new: str = "") -> bytes:
    """A LIF file of 4×3×2 whose XML is changed."""
    whole = lif(Series("a", np.arange(24, dtype="<u2").reshape(2, 3, 4), "zyx"))
    end = 13 + 2 * struct.unpack("<I", whole[9:13])[0]
    return framed(whole[13:end].decode("utf-16-le").replace(old, new)) + whole[end:]


def nd2_bomb(old: bytes = b"", new: bytes = b"", count: int = -1, **chunks: bytes) -> bytes:
    """An ND2 file of 4×3×2 in which bytes, or the metadata with some names, are changed."""
    changed = {name.encode() + b"LV!": content for name, content in chunks.items()}
    array = np.arange(24, dtype="<u2").reshape(2, 3, 4, 1)
    return nd2_files.chunks({**nd2_files.nd2_chunks(array), **changed}).replace(old, new, count)


def czi_bomb(metadata: str | None = None, **at: int) -> bytes:
    """A CZI file of 4×3×2 with metadata, and another tile at some place."""
    planes = np.arange(24, dtype="<u2").reshape(2, 3, 4)
    return czi(
        [*(Block(plane, {"Z": z}) for z, plane in enumerate(planes)), Block(planes[0], {"Z": 0, **at})], metadata
    )


def imaris_bomb(size: int, chunk: bytes) -> bytes:
    """An Imaris file of 4×4×4 that declares a size along each axis, and whose chunk is stored as these bytes."""
    file = io.BytesIO()
    write_imaris(file, [np.ones((1, 1, 4, 4, 4), np.uint16)])
    with h5py.File(file, "a") as content:
        group = content["DataSet/ResolutionLevel 0/TimePoint 0/Channel 0"]
        del group["Data"]
        data = group.create_dataset("Data", (size,) * 3, np.uint16, chunks=(4, 4, 4), compression="gzip")
        data.id.write_direct_chunk((0, 0, 0), chunk)
        for axis in "XYZ":
            group.attrs[f"ImageSize{axis}"] = characters(size)
    return file.getvalue()


BOMBS: dict[str, Callable[[], bytes]] = {
    "declares 6 GB.nii": lambda: nifti((1500, 1000, 2000)),
    "declares 6 GB.nii.gz": lambda: gzip.compress(nifti((1500, 1000, 2000))),
    "holds 6 GB.nii.gz": lambda: gzip.compress(nifti((1500, 1000, 2000))) + zeros(6),
    "inflates to 2 GB.nii.gz": lambda: gzip.compress(nifti() + VOXELS) + zeros(2),
    "inflates to 2 GB at once.nii.gz": lambda: zeros(2),
    "long name.nii.gz": lambda: with_name(nifti() + VOXELS),
    "empty members.nii.gz": lambda: members(b"", MANY // 20) + gzip.compress(nifti() + VOXELS),
    "empty members after the header.nii.gz": lambda: gzip.compress(nifti()) + members(b"", MANY // 20),
    "tiny members.nii.gz": lambda: gzip.compress(nifti() + VOXELS) + members(b"x", MANY // 20),
    "empty blocks.nii.gz": lambda: EMPTY_BLOCKS,
    "no end.nii.gz": lambda: gzip.compress(nifti() + VOXELS)[:-4],
    "far voxels.nii.gz": lambda: gzip.compress(nifti(start=1.9e9)) + zeros(2),
    "far voxels.nii": lambda: nifti(start=2e9),
    "voxels at infinity.nii": lambda: nifti(start=np.inf) + VOXELS,
    "voxels nowhere.nii": lambda: nifti(start=np.nan) + VOXELS,
    "long extension.nii": lambda: nifti(start=MANY)[:348] + struct.pack("<4B2i", 1, 0, 0, 0, 2**31 - 16, 6) + VOXELS,
    "directions that are no numbers.nii": lambda: nifti(sform_code=1, srow_y=[0, 0, np.nan, 1e-43]) + VOXELS,
    "no voxels.nii": lambda: nifti((4, 0, 2)) + VOXELS,
    "negative size.nii": lambda: nifti((-4, -3, 2)) + VOXELS,
    "no axes.nii": lambda: nifti(dim=[0, 4, 3, 2, 1, 1, 1, 1]) + VOXELS,
    "many axes.nii": lambda: nifti(dim=[900, 4, 3, 2, 1, 1, 1, 1]) + VOXELS,
    "long fourth axis.nii": lambda: nifti((1000, 1000, 1000, 32767)) + VOXELS,
    "long fifth axis.nii.gz": lambda: gzip.compress(nifti((1000, 1000, 1000, 1, 32767))) + zeros(2),
    "more than 64 bits.nii": lambda: nifti((32767,) * 7) + VOXELS,
    "unknown type.nii": lambda: nifti(datatype=99) + VOXELS,
    "type without size.nii": lambda: nifti((3000, 3000, 3000), datatype=1, bitpix=1) + VOXELS,
    "declares 6 GB.nrrd": lambda: nrrd(sizes="1500 1000 2000"),
    "holds 6 GB.nrrd": lambda: nrrd(sizes="1500 1000 2000", encoding="gzip") + zeros(6),
    "inflates to 2 GB.nrrd": lambda: nrrd(encoding="gzip") + zeros(2),
    "inflates to 2 GB after a line skip.nrrd": lambda: nrrd("line skip: 1", encoding="gzip") + b"\n" + zeros(2),
    "long name.nrrd": lambda: nrrd(encoding="gzip") + with_name(VOXELS),
    "line skip.nrrd": lambda: nrrd("line skip: 1000000000") + VOXELS,
    "line skip over many lines.nrrd": lambda: nrrd("line skip: 1000000000") + b"\n" * MANY,
    "negative line skip.nrrd": lambda: nrrd("line skip: -1") + b"\n" * MANY,
    "byte skip.nrrd": lambda: nrrd("byte skip: 1000000000000000000") + VOXELS,
    "byte skip over 2 GB.nrrd": lambda: nrrd("byte skip: 1999999000", encoding="gzip") + zeros(2),
    "byte skip from the end of 2 GB.nrrd": lambda: nrrd("byte skip: -1", encoding="gzip") + zeros(2),
    "size of 33 bits.nrrd": lambda: nrrd(sizes="4294967297 3 2") + VOXELS,
    "size of 65 bits.nrrd": lambda: nrrd(sizes="18446744073709551617 3 2") + VOXELS,
    "size of many digits.nrrd": lambda: nrrd(sizes=f"{'9' * 5000} 3 2") + VOXELS,
    "no voxels.nrrd": lambda: nrrd(sizes="0 3 2") + VOXELS,
    "negative size.nrrd": lambda: nrrd(sizes="-4 -3 2") + VOXELS,
    "many axes.nrrd": lambda: nrrd(sizes=" ".join("1" * 16)) + VOXELS,
    "many channels.nrrd": lambda: nrrd("kinds: vector domain domain domain", sizes="2000000000 2 2 2") + VOXELS,
    "many channels as text.nrrd": lambda: nrrd("kinds: list space space space", sizes="9999999 2 2 2", encoding="txt"),
    "long line.nrrd": lambda: nrrd("key:=" + "x" * MANY) + VOXELS,
    "many lines.nrrd": lambda: nrrd(*[f"{key}:=" for key in range(MANY // 8)]) + VOXELS,
    "header without an end.nrrd": lambda: nrrd()[:-1] + b"# x\n" * (MANY // 4),
    "long field.nrrd": lambda: nrrd(f"units: {'m' * 5000}") + VOXELS,
    "line without a field.nrrd": lambda: nrrd("x" * 5000) + VOXELS,
    "block type.nrrd": lambda: nrrd("block size: 1000000000").replace(b"int16", b"block") + VOXELS,
    "one long number.nrrd": lambda: nrrd(encoding="text") + b"1" * MANY,
    "another file.nrrd": lambda: nrrd("data file: /etc/passwd"),
    "another file behind a carriage return.nrrd": lambda: nrrd("content: x\rdata file: /etc/passwd") + VOXELS,
    "many segments.nrrd": lambda: nrrd("Segment0_ID:=a\nSegment999999999_Name:=inside") + VOXELS,
    "segment of many digits.nrrd": lambda: nrrd(f"Segment0_Name:=a\nSegment{'9' * 5000}_Name:=a") + VOXELS,
    "value of many digits.nrrd": lambda: nrrd(f"Segment0_Name:=inside\nSegment0_LabelValue:={'9' * 5000}") + VOXELS,
    "declares 6 GB.mha": lambda: mha(sizes="1500 1000 2000"),
    "holds 6 GB.mha": lambda: mha(COMPRESSED, sizes="1500 1000 2000") + zeros(6),
    "inflates to 2 GB.mha": lambda: mha(COMPRESSED) + zeros(2),
    "compressed size.mha": lambda: mha(COMPRESSED, "CompressedDataSize = 1000000000000") + zlib.compress(VOXELS),
    "negative number of axes.mha": lambda: mha(axes="-1") + VOXELS,
    "number of axes.mha": lambda: mha(axes="99999999999") + VOXELS,
    "negative size.mha": lambda: mha(sizes="-4 3 2") + VOXELS,
    "size of 33 bits.mha": lambda: mha(sizes="4294967297 3 2") + VOXELS,
    "more than 64 bits.mha": lambda: mha(sizes="2147483647 2147483647 2147483647") + VOXELS,
    "no voxels.mha": lambda: mha(sizes="0 3 2") + VOXELS,
    "many channels.mha": lambda: mha("ElementNumberOfChannels = 2000000000") + VOXELS,
    "negative channels.mha": lambda: mha("ElementNumberOfChannels = -2") + VOXELS,
    "header size.mha": lambda: mha("HeaderSize = 1000000000000") + VOXELS,
    "negative header size.mha": lambda: mha("HeaderSize = -5") + VOXELS,
    "long line.mha": lambda: mha("Comment = " + "x" * MANY) + VOXELS,
    "long name.mha": lambda: mha("Name = " + "1 " * 200) + VOXELS,
    "many lines.mha": lambda: mha(*["Comment = x"] * (MANY // 12)) + VOXELS,
    "another file.mha": lambda: mha(last="ElementDataFile = /etc/passwd"),
    "another file in small letters.mha": lambda: mha(last="elementdatafile = LOCAL\nElementDataFile = /etc/passwd"),
    "files by numbers.mha": lambda: mha(last="ElementDataFile = %d.raw 1 2000000000 1"),
    "list of files.mha": lambda: mha(last="ElementDataFile = LIST"),
    "one long number.mha": lambda: mha("BinaryData = False") + b"1" * MANY,
    "declares 6 GB.tif": lambda: tiff(PLANE, width=60000, height=50000),
    "declares 6 GB in pages.tif": lambda: tiff(*[bytes(24) for _ in range(300)], width=4000, height=2500),
    "holds 6 GB.tif": lambda: tiff(
        zlib.compress(b"")[:2] + zeros(6)[10:], PLANE, width=60000, height=50000, compression=DEFLATE
    ),
    "inflates to 2 GB.tif": lambda: tiff(zlib.compress(b"")[:2] + zeros(2)[10:], PLANE, compression=DEFLATE),
    "inflates by LZW.tif": lambda: tiff(b"\x80" + bytes(MANY), PLANE, width=60000, height=50000, compression=LZW),
    "inflates by PackBits.tif": lambda: tiff(
        b"\x81\0" * (MANY // 2), PLANE, width=60000, height=50000, compression=PACKBITS
    ),
    "page in a circle.tif": lambda: tiff(PLANE, PLANE).replace(
        struct.pack("<I", 0) + PLANE, struct.pack("<I", 8) + PLANE
    ),
    "page beyond the end.tif": lambda: tiff(PLANE, PLANE)[:60],
    "many pages.tif": lambda: tiff(*[bytes(24) for _ in range(MANY // 150)], width=3, height=4, t256=5),
    "many tags.tif": lambda: b"II*\0" + struct.pack("<IH", 8, 65535) + bytes(MANY),
    "strips without end.tif": lambda: tiff(PLANE, PLANE, t278=0),
    "rows of 32 bits.tif": lambda: tiff(PLANE, PLANE, height=2**32 - 1),
    "samples of 32 bits.tif": lambda: tiff(PLANE, PLANE, t277=2**32 - 1),
    "strip beyond the end.tif": lambda: tiff(PLANE, PLANE, t279=2**31),
    "no pixels.tif": lambda: tiff(PLANE, PLANE, width=0),
    "another file.tif": lambda: tiff(
        PLANE, PLANE, text=ome('<TiffData IFD="0"><UUID FileName="/etc/passwd">urn:uuid:0</UUID></TiffData>')
    ),
    "many planes.tif": lambda: tiff(PLANE, PLANE, text=ome("<TiffData/>", z=2**31)),
    "entities.tif": lambda: tiff(PLANE, text=b'<!DOCTYPE x [<!ENTITY a "aaaa">]><OME>&a;</OME>\0'),
    "deep XML.tif": lambda: tiff(PLANE, PLANE, text=ome("<a>" * (MANY // 4))),
    "declares 6 GB.lif": lambda: lif_bomb('NumberOfElements="4"', 'NumberOfElements="500000000"'),
    "many times.lif": lambda: lif_bomb('DimID="3" NumberOfElements="2"', 'DimID="4" NumberOfElements="2000000000"'),
    "long XML.lif": lambda: lif_bomb()[:9] + b"\xff" * 4 + lif_bomb()[13:],
    "entities.lif": lambda: lif_bomb("<LMS", '<!DOCTYPE x [<!ENTITY a "aaaa">]><LMS'),
    "deep XML.lif": lambda: lif_bomb("<LMS", "<a>" * (MANY // 8) + "<LMS"),
    "deep series.lif": lambda: lif_bomb("<Children>", "<Children>" + "<Element><Children>" * 50_000),
    "declares 6 GB.nd2": lambda: nd2_bomb(b"i\0W\0i\0d\0t\0h\0\0\0\4\0\0\0", b"i\0W\0i\0d\0t\0h\0\0\0\0\0\0\x20"),
    "inflates to 2 GB.nd2": lambda: nd2_bomb(ImageMetadata=b"L\0" + bytes(10) + zlib.compress(b"")[:2] + zeros(2)[10:]),
    "long metadata.nd2": lambda: nd2_bomb(struct.pack("<IIQ", 0x0ABECEDA, 4072, 80)[:8], struct.pack("<II", 1, 1)),
    "deep metadata.nd2": lambda: nd2_bomb(ImageMetadata=b"\x0b\1\0\0" * (MANY // 4)),
    "text without end.nd2": lambda: nd2_bomb(ImageMetadata=b"\x08\1\0\0" + b"x\0" * (MANY // 4)),
    "declares 16 EB.czi": lambda: czi_bomb(X=2**31 - 10, Y=2**31 - 10),
    "many planes.czi": lambda: czi_bomb(Z=2**31 - 10),
    "many times.czi": lambda: czi_bomb(T=2**31 - 10),
    "many channels.czi": lambda: czi_bomb(C=2**31 - 10),
    "inflates to 2 GB.czi": lambda: czi(
        [Block(np.broadcast_to(np.uint16(0), (1 << 14, 1 << 14)), {"Z": z}, 1, 5, b"1") for z in range(4)]
    ),
    "entities.czi": lambda: czi_bomb('<!DOCTYPE x [<!ENTITY a "aaaa">]><ImageDocument>&a;</ImageDocument>'),
    "deep XML.czi": lambda: czi_bomb("<a>" * (MANY // 4)),
    "declares 6 GB.ims": lambda: imaris_bomb(1500, zlib.compress(bytes(128))),
    "inflates to 2 GB.ims": lambda: imaris_bomb(4, zlib.compress(b"")[:2] + zeros(2)[10:]),
    "long description.tif": lambda: tiff(PLANE, text=b"ImageJ=1.11a\nimages=1000000000\nslices=1000000000\n" * 9999),
}
"""The content of each file by its name, whose ending says how it is read."""

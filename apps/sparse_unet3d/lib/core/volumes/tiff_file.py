"""Open TIFF files by tifffile, which otherwise leaves out what is damaged, and opens other files that one names."""

import logging
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree  # nosec B405 - document types, which XML attacks need, are refused before parsing

from tifffile import TIFF, TiffFile, TiffPageSeries

from lib.core.errors import InputError

from .xml_checks import check_xml

# What tifffile warns of is refused here, or doesn't matter. On the server's terminal nobody can act on it.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

_MOST_TAGS = 4096
"""Most tags of a page; tifffile reads no more."""

_MOST_SHARED = 4
"""How often, on average, the tags of a file's pages may use the same bytes."""


@contextmanager
def opened(path: Path) -> Iterator[tuple[list[TiffPageSeries], TiffFile, list[ElementTree.Element]]]:
    """Open a file, check its metadata, and turn every error into an ``InputError``.

    Yields:
        Its images, pyramids by their largest level; the file; and, if it is an OME-TIFF, each image's ``Pixels``.

    Raises:
        InputError: no such file, not TIFF, damaged, of a format of a microscope's vendor, planes in other files.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    try:
        # As these two formats, tifffile would open other files.
        with TiffFile(path, is_mmstack=False, is_ndtiff=False) as file:
            _check_pages(file)
            description = file.ome_metadata
            if description is None:
                yield _series(path, file, 0), file, []
                return
            ome = _checked_ome(path, description)
        with TiffFile(path, omexml=ElementTree.tostring(ome, "unicode"), is_mmstack=False, is_ndtiff=False) as file:
            pixels = [pixels for image in _inside(ome, "Image") for pixels in _inside(image, "Pixels")]
            yield _series(path, file, len(pixels)), file, pixels
    except (InputError, MemoryError):
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}); check the permissions of the file and the disk") from error
    # tifffile raises errors of many types for damaged files.
    except Exception as error:
        raise InputError(
            f"{path}: cannot be read ({error}); the file is damaged or incomplete, or no TIFF file; copy or export it "
            "again"
        ) from error


def _check_pages(file: TiffFile) -> None:
    """Follow the chain of pages; tifffile ignores what is beyond the end, and follows some circles for ever.

    Raises:
        ValueError, EOFError, struct.error: the chain is damaged.
    """
    form, handle = file.tiff, file.filehandle
    tag_format = form.tagformat1 + form.tagformat2[1:]
    offset, seen, size = file.pages.first.offset, set[int](), 0
    while offset:
        page = f"page {len(seen) + 1}"
        if offset in seen:
            raise ValueError(f"{page} is an earlier page again")
        if offset >= handle.size:
            raise EOFError(f"{page} is beyond the end of the file")
        seen.add(offset)
        handle.seek(offset)
        (tags,) = struct.unpack(form.tagnoformat, handle.read(form.tagnosize))
        if tags > _MOST_TAGS:
            raise ValueError(f"{page} has {tags} tags")
        content = handle.read(tags * form.tagsize + form.offsetsize)
        for code, kind, count, value in struct.iter_unpack(tag_format, content[: tags * form.tagsize]):
            length = count * struct.calcsize(TIFF.DATA_FORMATS.get(kind, "1B"))
            size += length
            place = struct.unpack(form.offsetformat, value)[0] if length > form.tagoffsetthreshold else 0
            if place + length > handle.size:
                raise EOFError(f"tag {code} of {page} is beyond the end of the file")
        if size > _MOST_SHARED * handle.size:
            raise ValueError(f"the tags up to {page} have {size} bytes, more than the file")
        (offset,) = struct.unpack(form.offsetformat, content[tags * form.tagsize :])


def _checked_ome(path: Path, description: str) -> ElementTree.Element:
    """Parse the metadata of an OME-TIFF, and remove the names of files, since tifffile would open them.

    Raises:
        InputError: planes or metadata are in other files, or there are axes beyond X, Y, Z, C and T.
        ValueError, ElementTree.ParseError: damaged, or more planes than the file can hold.
    """
    check_xml(description)
    root = ElementTree.fromstring(description)  # nosec B314 - see the import
    if _inside(root, "BinaryOnly"):
        raise _in_other_files(path)
    if any(element.get("Namespace", "").endswith("modulo") for element in root.iter()):
        raise InputError(
            f"{path}: the OME-XML declares axes beyond X, Y, Z, C and T (modulo), which can't be used; save each of "
            "their steps as one OME-TIFF"
        )
    size, planes, files = path.stat().st_size, 0, {root.get("UUID")}
    for element in list(root.iter()):
        if element.tag.endswith("Pixels"):
            sizes = [int(element.attrib[f"Size{axis}"]) for axis in "ZCT"]
            planes += sizes[0] * sizes[1] * sizes[2]
            if min(sizes) < 1 or planes > size:
                raise ValueError(f"its OME-XML declares {planes} planes, which {size} bytes can't hold")
        elif element.tag.endswith("TiffData"):
            if max(int(element.get(name, "0")) for name in ("PlaneCount", "NumPlanes", "IFD")) > size:
                raise ValueError("its OME-XML declares more planes than the file can hold")
            for uuid in _inside(element, "UUID"):
                files.add(uuid.text.strip() if uuid.text else uuid.get("FileName"))
                element.remove(uuid)
    # A file that was renamed names itself by its old name, but there is no second one.
    if len(files - {None}) > 1:
        raise _in_other_files(path)
    return root


def _series(path: Path, file: TiffFile, declared: int) -> list[TiffPageSeries]:
    """Return the images, if tifffile understands the metadata that there is.

    Args:
        path: of the file.
        file: the file.
        declared: how many images the OME-XML declares, if there is one.

    Raises:
        InputError: it doesn't.
    """
    series = list(file.series)
    kinds = {image.kind for image in series}
    expected = next((kind for kind in ("ome", "shaped", "imagej") if getattr(file, f"is_{kind}")), "")
    if not kinds <= ({expected} if expected else {"uniform", "generic"}) or (file.is_micromanager and not expected):
        raise InputError(
            f"{path}: the metadata can't be used (found {expected or 'no known metadata'}, read as "
            f"{', '.join(sorted(kinds))}); expected TIFF, OME-TIFF or an ImageJ stack, with metadata that fits its "
            "pages; save it as OME-TIFF, e.g. with Fiji"
        )
    size = path.stat().st_size
    for image in series:
        shape = image.get_shape(False)
        if not 0 < math.prod(shape) <= size * image.keyframe.size:
            raise InputError(
                f"{path}: an image of shape {shape} is declared, which {size} bytes can't hold; the file is damaged, "
                "copy or export it again"
            )
    if not series or (declared and declared != len(series)):
        raise InputError(
            f"{path}: {len(series)} images can be read, expected {declared or 'at least 1'}; the file is damaged or "
            "incomplete, copy or export it again"
        )
    # tifffile finds an OME-TIFF's smaller levels, and not all of the others.
    return series if declared else [image for image in series if not image.keyframe.is_reduced] or series


def _inside(element: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    """Return the children with a name, in any namespace, as tifffile finds them."""
    return [child for child in element if child.tag.endswith(name)]


def _in_other_files(path: Path) -> InputError:
    return InputError(
        f"{path}: one of the files of an OME-TIFF in several files; save the image as one file, e.g. with Fiji's "
        "Bio-Formats Exporter"
    )

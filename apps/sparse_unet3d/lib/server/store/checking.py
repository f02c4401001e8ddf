"""Compares stored labels with their checksums, and the index with the files."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lib.core.errors import InputError

from .annotations import FINAL, VERSION, AnnotationReader
from .folder_store import READY_MADE
from .label_files import crc32_of, digests_of
from .stored_info import read_label_info


@dataclass(frozen=True)
class Findings:
    """What a check has found.

    Attributes:
        images: number of images.
        labels: number of labels that are as they were stored.
        faults: what is damaged or gone, and what to do.
        notes: what the next server puts right.
    """

    images: int
    labels: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check(store: AnnotationReader) -> Findings:
    """Check a folder: whether each image can be read, each label is as it was stored, and the index lists all.

    Nothing is changed, and a server may go on using the folder.

    Raises:
        Locked: another process has been changing the folder for too long.
    """
    said, found = store.said_and_found()
    labels, faults, notes = 0, list[str](), list[str]()
    for name in said.keys() - found.keys():
        faults.append(f"{name}: the index lists this image, but the folder has no file of it; put it back")
    for name, tags in store.labels_without_image().items():
        faults.append(f"{name}: there are labels ({', '.join(tags)}) but no image; put its file back")
    for name, entry in found.items():
        if store.listed.is_missing(name):
            notes.append(f"{name}: still in the archive alone; it is fetched when somebody wants it")
            continue
        try:
            store.read_image(name)
        except InputError as error:
            faults.append(str(error))
        known = said[name].labels if name in said else {}
        gone = [tag for tag in known if tag not in entry.labels and tag != READY_MADE and not tag.startswith(VERSION)]
        faults += [f"{_place(tag, name)}: gone; put it back" for tag in gone]
        notes += [f"{_place(tag, name)}: not in the index yet" for tag in entry.labels if tag not in known]
        faults += _gaps(store, name)
        for tag, label in entry.labels.items():
            fault = _fault(store, name, tag, label.ext)
            if fault is None:
                notes.append(f"{_place(tag, name)}: has no checksum")
            elif fault:
                faults.append(fault)
            else:
                labels += 1
    return Findings(len(found), labels, sorted(faults), sorted(notes))


def _gaps(store: AnnotationReader, name: str) -> Iterator[str]:
    """Name the versions that must have existed and are gone."""
    known = store.versions(name)
    for number in range(1, store.last_version(name) + 1):
        if number not in known:
            yield f"{name}: version {number} is gone; put {_place(f'{VERSION}{number}', name)} back"


def _fault(store: AnnotationReader, name: str, tag: str, ext: str) -> str | None:
    """Say what is wrong with a label; "" if nothing is, None if it has no checksum."""
    path = Path(store.get_label_uri(name, tag))
    info_path = path.with_name(f"{name}.json")
    while True:
        info = read_label_info(info_path) or store.get_label_info(name, tag)
        try:
            now = digests_of(path) if "sha256" in info else {"crc32": crc32_of(path)} if "crc32" in info else None
        except OSError as error:
            return f"{path}: can't be read ({error.strerror})"
        # A server that goes on may have replaced both.
        if info == (read_label_info(info_path) or store.get_label_info(name, tag)):
            break
    if now is None:
        return None
    if any(info[key] != value for key, value in now.items()):
        remedy = (
            f"if nobody replaced it on purpose, remove it, and the server makes it again from the newest {VERSION}N"
            if tag == FINAL
            else "put it back from a backup"
            if tag.startswith(VERSION)
            else "remove it; it can be made again"
        )
        return f"{path}: not as it was stored (its SHA-256 or CRC-32 differs); {remedy}"
    return "" if info_path.is_file() else f"{info_path}: gone; put it back from a backup"


def _place(tag: str, name: str) -> str:
    return f"labels/{tag}/{name}"

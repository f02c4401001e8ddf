"""A DICOM archive behind DICOMweb: lists series (QIDO), fetches their files (WADO), and stores annotations (STOW)."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pydicom
import pydicom.config
import requests
from dicomweb_client import DICOMwebClient
from pydicom import Dataset

from lib.core.errors import InputError, Stopped
from lib.server.stopping import raise_if_stopping
from lib.server.store.listed_images import is_uid

from .bounded import BoundedSession, TooLarge
from .errors import ArchiveError, Refused

logger = logging.getLogger(__name__)

# Their messages would go to the server's log, at each request, and may quote what an archive sent.
for name in ("dicomweb_client", "retrying"):
    logging.getLogger(name).setLevel(logging.CRITICAL)
pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE

MODALITIES = ("CT", "MR", "PT")
"""How images are recorded that can be stacks of slices."""

PAGE = 500
"""Results of a search that are asked for at a time."""

MOST_SERIES = 10_000
"""The most series that are listed; a person finds no image among more."""

LONGEST_ANSWER = 1 << 26
"""Bytes of the answer to a search, or to storing."""

ANSWER, TRANSFER = 120.0, 3600.0
"""Seconds in which an answer, and the files of a series, must have come."""

SERIES_UID, STUDY_UID, INSTANCE_UID = "0020000E", "0020000D", "00080018"
MODALITY, DESCRIPTION, INSTANCES = "00080060", "0008103E", "00201209"

DUPLICATE = 0x0111
"""Why an archive refuses a file that it has."""


class Archive:
    """An archive. No message quotes what it says of a patient."""

    def __init__(
        self,
        address: str,
        largest: int,
        login: tuple[str, str] | None = None,
        only: Mapping[str, str] | None = None,
    ) -> None:
        """Use the archive at ``address``; nothing is asked yet.

        Args:
            address: as of ``check_address``.
            largest: bytes that the files of a series may have together.
            login: name and password.
            only: what the series must have to be listed, by the keyword of DICOM; None: one of ``MODALITIES``.
        """
        self.address, self._largest, self._login, self._only = address, largest, login, only

    def series(self) -> dict[str, str]:
        """List the series that may be images: the unique id of the study of each.

        Raises:
            ArchiveError: it can't be asked.
        """
        filters = [self._only] if self._only else [{"Modality": modality} for modality in MODALITIES]
        found: dict[str, str] = {}
        with self._asking("search for series (QIDO-RS)") as client:
            for filter in filters:
                for item in self._search(client, None, filter, "NumberOfSeriesRelatedInstances"):
                    count = _value(item, INSTANCES)
                    if _value(item, MODALITY) == "SEG" or (isinstance(count, int) and count < 2):
                        continue
                    if len(found) == MOST_SERIES:
                        logger.warning(
                            "%s: has more than %d series; only so many are listed. Choose those of this project by "
                            "MONAI_LABEL_DICOMWEB_SEARCH_FILTER",
                            self.address,
                            MOST_SERIES,
                        )
                        return found
                    found[_uid(item, SERIES_UID)] = _uid(item, STUDY_UID)
        return found

    def segmentations(self, description: str, study: str | None = None) -> dict[str, str]:
        """List the series of segmentations: the unique id of the study of each.

        Args:
            description: how the description of the series begins.
            study: the unique id of the only study to look into.

        Raises:
            ArchiveError: it can't be asked.
        """
        with self._asking("search for segmentations (QIDO-RS)") as client:
            return {
                _uid(item, SERIES_UID): study or _uid(item, STUDY_UID)
                for item in self._search(client, study, {"Modality": "SEG"}, "SeriesDescription")
                if str(_value(item, DESCRIPTION) or "").startswith(description)
            }

    def download(self, study: str, series: str, folder: Path) -> None:
        """Write all files of a series into a folder, each named by its unique id.

        Raises:
            ArchiveError: the archive can't be reached, or doesn't send the whole series.
            OSError: the disk failed.
            Stopped: the process is to end.
        """
        wanted = self._instances(study, series)
        for instance in self.retrieve(study, series):
            raise_if_stopping()
            uid = str(instance.get("SOPInstanceUID", ""))
            if uid in wanted:
                wanted.remove(uid)
                self._write(folder / f"{uid}.dcm", instance)
        if wanted:
            raise ArchiveError(
                f"{self.address}: {len(wanted)} files of series {series} haven't come; they are asked for again when "
                "the image is wanted next"
            )

    def _write(self, path: Path, instance: Dataset) -> None:
        try:
            pydicom.dcmwrite(path, instance)
        except (OSError, MemoryError):
            raise
        except Exception as error:
            raise ArchiveError(
                f"{self.address}: sent a file that can't be written as DICOM ({type(error).__name__}): {path.stem}"
            ) from None

    def _instances(self, study: str, series: str) -> set[str]:
        with self._asking(f"search for the files of series {series} (QIDO-RS)") as client:
            found: set[str] = set()
            while page := client.search_for_instances(study, series, limit=PAGE, offset=len(found)):
                before = len(found)
                found |= {_uid(item, INSTANCE_UID) for item in page}
                if len(found) == before:
                    break
            return found

    def retrieve(self, study: str, series: str) -> Iterator[Dataset]:
        """Fetch the files of a series, as they are stored.

        Raises:
            ArchiveError: the archive can't be reached, or its answer is no DICOM, or too large.
        """
        with self._asking(f"fetch series {series} (WADO-RS)", self._largest, TRANSFER) as client:
            # Without the asterisk, the archive would have to decompress the voxels.
            yield from client.iter_series(study, series, media_types=(("application/dicom", "*"),))

    def store(self, instance: Dataset) -> None:
        """Store a file in its study. If the archive has it already, nothing changes.

        Raises:
            ArchiveError: the archive can't be reached, refuses it, or doesn't confirm that it has it.
        """
        with self._asking("store an annotation (STOW-RS)", seconds=TRANSFER) as client:
            answer = client.store_instances([instance], instance.StudyInstanceUID)
            stored = [item.ReferencedSOPInstanceUID for item in answer.get("ReferencedSOPSequence") or ()]
            reasons = [int(item.get("FailureReason") or 0) for item in answer.get("FailedSOPSequence") or ()]
        if instance.SOPInstanceUID not in stored and reasons != [DUPLICATE]:
            why = f"DICOM failure reason {reasons[0]:04X}" if reasons else "its answer doesn't confirm it"
            raise Refused(f"{self.address}: hasn't stored the annotation ({why}); its log may say more")

    def _search(
        self, client: DICOMwebClient, study: str | None, filters: Mapping[str, str], field: str
    ) -> Iterator[Mapping[str, Any]]:
        """Yield each series that fits ``filters``, page by page."""
        seen: set[str] = set()
        offset = 0
        while page := client.search_for_series(
            study, search_filters=dict(filters), fields=[field], limit=PAGE, offset=offset
        ):
            # Some archives ignore the offset, and send the same page again.
            news = [item for item in page if _uid(item, SERIES_UID) not in seen]
            if not news:
                return
            seen |= {_uid(item, SERIES_UID) for item in news}
            offset += len(page)
            yield from news

    @contextmanager
    def _asking(self, what: str, largest: int = LONGEST_ANSWER, seconds: float = ANSWER) -> Iterator[DICOMwebClient]:
        """Yield a client, and turn its exceptions into ours.

        Args:
            what: what the archive is asked for.
            largest: bytes that the answer may have.
            seconds: in which it must have come.

        Raises:
            ArchiveError: see the class.
        """
        session = BoundedSession(largest, seconds)
        session.auth = self._login
        client = DICOMwebClient(self.address, session)
        # The caller tries again, and meanwhile tells people.
        client.set_http_retry_params(retry=False)
        try:
            with session:
                yield client
        except requests.HTTPError as error:
            raise self._refused(what, 0 if error.response is None else error.response.status_code) from None
        except TooLarge:
            raise Refused(
                f"{self.address}: the answer to '{what}' is larger than {largest / 1e9:.2g} GB; if that is right, "
                "start the server with a larger --conf upload"
            ) from None
        except (requests.JSONDecodeError, requests.exceptions.ContentDecodingError) as error:
            raise self._no_dicomweb(what, error) from None
        except requests.RequestException as error:
            raise ArchiveError(
                f"{self.address}: can't be reached to {what} ({type(error).__name__}); check the address, and whether "
                "the archive runs"
            ) from None
        except (InputError, Stopped, OSError, MemoryError):
            raise
        except Exception as error:
            # What the libraries say of it may quote it.
            raise self._no_dicomweb(what, error) from None

    def _no_dicomweb(self, what: str, error: Exception) -> ArchiveError:
        return ArchiveError(
            f"{self.address}: the answer to '{what}' is no DICOMweb ({type(error).__name__}); check the address, which "
            "often ends in /dicom-web"
        )

    def _refused(self, what: str, status: int) -> ArchiveError:
        known = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
        reason = f"{status} {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else str(status)
        advice = (
            "set MONAI_LABEL_DICOMWEB_USERNAME and MONAI_LABEL_DICOMWEB_PASSWORD to a login that may do this"
            if status in known
            else "check the address, which often ends in /dicom-web, and the archive's log"
        )
        is_about_request = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
        kind = Refused if is_about_request and status not in known else ArchiveError
        return kind(f"{self.address}: can't {what}; it answers {reason}. {advice[0].upper()}{advice[1:]}")


def _value(item: Mapping[str, Any], tag: str) -> object:
    """Return the first value of a tag; None if there is none."""
    values = item.get(tag, {}).get("Value") or [None]
    return values[0]


def _uid(item: Mapping[str, Any], tag: str) -> str:
    """Return a unique id.

    Raises:
        ValueError: it is none.
    """
    value = _value(item, tag)
    if not is_uid(value):
        raise ValueError(tag)
    return str(value)

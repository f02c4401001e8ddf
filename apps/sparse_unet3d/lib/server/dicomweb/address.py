"""The address of a DICOM archive, in place of a studies folder."""

import re
from pathlib import Path
from urllib.parse import urlsplit

from lib.core.errors import InputError

EXAMPLE = "http://archive.example.org:8042/dicom-web"


def is_address(studies: str) -> bool:
    """Tell whether ``--studies`` is an address, not a folder."""
    return re.match(r"\w\w+:/{1,2}[^/\\]", studies) is not None


def check_address(studies: str) -> str:
    """Return the address of an archive as it is used: without a slash at its end.

    Raises:
        InputError: it is no address of DICOMweb, or has a password, which everybody on this computer could read.
    """
    try:
        parts = urlsplit(studies)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    # MONAI Label takes an address with another beginning for a folder, and makes that.
    if not host or not studies.startswith(("http://", "https://")) or parts.query or parts.fragment:
        raise InputError(
            f"--studies {studies}: neither a folder nor the address of a DICOM archive; an archive is given by its "
            f"DICOMweb address, e.g. {EXAMPLE}"
        )
    if parts.username is not None:
        raise InputError(
            f"--studies {parts.scheme}://…@{host}: everybody on this computer can read a name and a password in an "
            "address; leave them out, and set MONAI_LABEL_DICOMWEB_USERNAME and MONAI_LABEL_DICOMWEB_PASSWORD"
        )
    return studies.rstrip("/")


def default_project(address: str) -> Path:
    """Return the project folder of an archive: named after its address, in the working folder."""
    return Path(re.sub(r"[^A-Za-z0-9.]+", "-", address.partition("://")[2]).strip("-."))

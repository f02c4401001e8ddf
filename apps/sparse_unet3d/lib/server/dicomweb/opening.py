"""Opens the project folder of an archive, with the login that MONAI Label's settings have for it."""

from pathlib import Path

from monailabel.config import settings

from lib.core.annotation.slices import Unpainted
from lib.core.labels import LabelScheme
from lib.server.store.masks import ZeroMeans

from .archive import Archive
from .exchanging_store import ExchangingStore

FILTER = "MONAI_LABEL_DICOMWEB_SEARCH_FILTER"


def open_archived(
    folder: Path,
    address: str,
    scheme: LabelScheme,
    unpainted: Unpainted,
    unlabelled: ZeroMeans | None,
    largest_upload: int,
) -> ExchangingStore:
    """Open the project folder ``folder`` of the archive at ``address``; for other arguments see ``AnnotationStore``.

    The environment variables are those of MONAI Label: ``MONAI_LABEL_DICOMWEB_USERNAME`` and ``…_PASSWORD``, and
    ``…_SEARCH_FILTER`` with what series must have, as JSON.
    """
    return ExchangingStore(folder, open_archive(address, largest_upload), scheme, unpainted, unlabelled, largest_upload)


def open_archive(address: str, largest: int) -> Archive:
    """Return the archive at ``address``; for ``largest`` see ``Archive``, for the login ``open_archived``."""
    login = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    # MONAI Label's own default lists CT alone.
    is_set = FILTER in settings.model_fields_set
    only = {key: str(value) for key, value in settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER.items()} if is_set else None
    return Archive(address, largest, login if login[0] else None, only)

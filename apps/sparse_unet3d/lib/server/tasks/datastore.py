"""The datastore of a project, for the server and for all processes that work for it."""

from lib.server.conf import Conf
from lib.server.store.datastore import AnnotationStore


def open_datastore(conf: Conf) -> AnnotationStore:
    """Open the project folder that the options name; its images may come from an archive."""
    if not conf.archive:
        return AnnotationStore(str(conf.folder), conf.scheme, conf.plan.unpainted, conf.unlabelled, conf.upload)
    # Imported here because its packages take a second, and most projects have no archive.
    from lib.server.dicomweb.opening import open_archived

    return open_archived(conf.folder, conf.archive, conf.scheme, conf.plan.unpainted, conf.unlabelled, conf.upload)

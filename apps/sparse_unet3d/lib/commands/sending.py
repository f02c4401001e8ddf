"""Sends predictions to the DICOM archive that a project's images come from."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lib.core.errors import InputError
from lib.core.volumes.dicom import DicomSource
from lib.core.volumes.grids import onto_grid
from lib.core.volumes.reading import read_label_map
from lib.server.dicomweb.opening import open_archive
from lib.server.dicomweb.segmentations import make_prediction
from lib.server.store.annotations import AnnotationReader
from lib.server.store.datastore import PREDICTION
from lib.server.store.decoding import default_limit


def send_predictions(project: Path, images: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Store the latest prediction of images in the archive, as DICOM segmentations made automatically.

    To send one twice changes nothing.

    Args:
        project: the project folder.
        images: their names; none for all that have a prediction.

    Yields:
        For each image, what became of its prediction, and whether the archive has it.

    Raises:
        InputError: there is no such project, its images don't come from an archive, or nothing is predicted.
    """
    if not project.is_dir():
        raise InputError(f"--studies {project}: there is no such folder; give the project folder")
    store = AnnotationReader(str(project))
    address = store.listed.address
    if address is None:
        raise InputError(f"{project}: the images of this project don't come from a DICOM archive")
    predicted = [name for name in store.list_images() if PREDICTION in store.get_labels_by_image_id(name)]
    if not predicted:
        raise InputError(f"{project}: no image has a prediction yet; press Run in 3D Slicer, or segment all by batch")
    archive = open_archive(address, default_limit())
    for name in images or predicted:
        try:
            if name not in predicted:
                raise InputError(f"there is no prediction of it; images with one: {', '.join(predicted)}")
            source = DicomSource(project / name)
            label = onto_grid(read_label_map(store.get_label_uri(name, PREDICTION)), source.geometry)
            archive.store(make_prediction(source, label.astype(np.uint8), store.get_label_info(name, PREDICTION)))
        except (InputError, OSError) as error:
            yield f"{name}: {error}", False
        else:
            yield f"{name}: the prediction is in the archive at {address}", True

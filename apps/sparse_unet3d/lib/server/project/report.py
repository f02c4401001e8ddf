"""All that the page of a project shows."""

from collections.abc import Callable
from datetime import datetime, timezone

from lib.core.errors import InputError
from lib.core.model.folder import ModelFolder
from lib.core.model.model import Model
from lib.report.project_page import ProjectReport, TrainingSection, VolumeSection
from lib.server.conf import Conf
from lib.server.slicer.replies import time_text
from lib.server.store.datastore import AnnotationStore
from lib.server.tasks.infer import Segmentation
from lib.server.tasks.suggestions import Suggestions

from .held_out import held_out_slices
from .training import describe_training
from .volumes import describe_volume


def project_report(
    conf: Conf, store: AnnotationStore, progress: Callable[[float], None] = lambda _: None
) -> ProjectReport:
    """Gather what the page of a project shows. Nothing is changed, and nothing is predicted.

    Args:
        conf: the options of the project.
        store: its datastore.
        progress: called with the fraction done.
    """
    segmentation = Segmentation(conf, store)
    suggestions = Suggestions(conf, store, segmentation)
    notes = [*store.describe_left_out()]
    model: Model | None = None
    try:
        model = segmentation.model()
    except InputError as error:
        if segmentation.folder.is_published():
            notes.append(str(error))
    split = model.split if model else None
    volumes, images = list[VolumeSection](), store.list_images()
    for done, image_id in enumerate(sorted(images), start=1):
        volumes.append(describe_volume(store, suggestions, conf.scheme, split, image_id))
        progress(done / (len(images) + 1))
    held_out, score = held_out_slices(store, model) if model else ([], None)
    training = describe_training(ModelFolder(conf.models), model, score)
    progress(1.0)
    return ProjectReport(
        conf.folder.resolve().name,
        f"As of {time_text(datetime.now(timezone.utc).isoformat())}.",
        conf.scheme,
        _summary(store, training, model),
        volumes,
        training,
        held_out,
        notes,
    )


def _summary(store: AnnotationStore, training: TrainingSection, model: Model | None) -> str:
    images, annotated = store.list_images(), store.get_labeled_images()
    slices = sum(
        sum(map(len, known["annotated_slices"])) for one in annotated if (known := store.current(one).get("statistics"))
    )
    said = (
        f"{len(images)} volume{'s' if len(images) != 1 else ''}, {len(annotated)} of them annotated, with {slices} "
        f"slice{'s' if slices != 1 else ''} in all."
    )
    return f"{said} {training.model}" if model else f"{said} No model is trained yet."

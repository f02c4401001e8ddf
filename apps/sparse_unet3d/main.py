"""The MONAI Label app: reads ``--conf`` and wires the tasks together."""

import logging
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from fastapi import HTTPException
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random

from lib.core.device.machine import default_device, describe_device
from lib.core.errors import InputError
from lib.core.model.folder import ModelFolder
from lib.core.plan.plan import PAPER_WIDTH
from lib.core.plan.planning import CPU_WIDTH
from lib.core.training.ranks import Ranks
from lib.server.conf import Conf
from lib.server.jobs.ending import end_on_signals
from lib.server.jobs.jobs import Busy, Jobs
from lib.server.jobs.process import METHODS
from lib.server.records import AnnotationInfo
from lib.server.slicer.replies import not_found, submission_reply
from lib.server.slicer.segments import all_segments
from lib.server.store import decoding
from lib.server.store.datastore import AnnotationStore, SubmittedLabel
from lib.server.store.studies import require_folder
from lib.server.tasks.accept_slice import AcceptSlice
from lib.server.tasks.batch import BatchResult, segment_images
from lib.server.tasks.datastore import open_datastore
from lib.server.tasks.infer import Segmentation
from lib.server.tasks.next_slices import NextSlices
from lib.server.tasks.scoring import IouScoring
from lib.server.tasks.strategies import NextSlice, Sparse
from lib.server.tasks.suggestions import Suggestions
from lib.server.tasks.trainer import Trainer, learnable_classes_of
from lib.server.temporary import use_own_folder
from lib.server.web.serving import web_application
from lib.server.web.takeover import answer_with, require_one_process, warn_if_open
from lib.server.web.users import Users

logger = logging.getLogger(__name__)

NAME = "sparse_unet3d"


class SparseUNet3D(MONAILabelApp):
    """3-D U-Net that learns a dense segmentation from a few annotated slices."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        try:
            self.settings = Conf.parse(conf or {}, studies)
            if settings.MONAI_LABEL_AUTH_ENABLE:
                raise InputError(
                    "MONAI_LABEL_AUTH_ENABLE: this app has users of its own; add them by 'python apps/sparse_unet3d "
                    "users add NAME' and unset this variable"
                )
            # Without its folder, the project of an archive is brought back from there.
            require_folder(str(self.settings.folder), self.settings.create or self.settings.archive is not None)
        except InputError as error:
            refuse_to_start(error)
        self.settings.use_voxel_sizes()
        super().__init__(
            app_dir=app_dir,
            studies=str(self.settings.folder),
            conf=conf,
            name="Sparse U-Net 3D",
            description="Learns a dense segmentation from a few annotated slices (Çiçek et al. 2016)",
            version="0.1.0",
            labels=list(all_segments(self.settings.scheme)),
        )
        # Otherwise MONAI Label starts a scoring process, which takes 10 s, at every Next Sample.
        self._auto_update_scoring = False
        self.jobs = Jobs(ModelFolder(self.settings.models), self.check_request)

    def init_datastore(self) -> AnnotationStore:
        return open_datastore(self.settings)

    def init_infers(self) -> dict[str, InferTask]:
        segmentation = Segmentation(self.settings, self._datastore)
        self._suggestions = Suggestions(self.settings, self._datastore, segmentation)
        return {
            NAME: segmentation,
            "accept_slice": AcceptSlice(self.settings, self._datastore, segmentation),
            "next_slices": NextSlices(self._suggestions),
        }

    def init_trainers(self) -> dict[str, Trainer]:
        return {NAME: Trainer(self.settings)}

    def init_strategies(self) -> dict[str, Any]:
        return {"random": Random(), "first": First(), "sparse": Sparse(), "next_slice": NextSlice(self._suggestions)}

    def init_scoring_methods(self) -> dict[str, IouScoring]:
        conf = self.settings
        return {"iou": IouScoring(conf.scheme, conf.plan.unpainted, ModelFolder(conf.models))}

    def on_init_complete(self) -> None:
        """Begin to serve. Only the server calls this; the processes that it starts only read."""
        try:
            require_one_process()
        except InputError as error:
            refuse_to_start(error)
        use_own_folder()
        logger.info("Classes: %s", self.settings.scheme.describe())
        logger.info("Device: %s", describe_device())
        decoding.start()
        if not settings.MONAI_LABEL_DATASTORE_READ_ONLY:
            try:
                self._datastore.serve(watch=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD)
            except InputError as error:
                refuse_to_start(error)
            self.jobs.folder.remove_abandoned()
        super().on_init_complete()
        end_on_signals(self.jobs)
        users = Users(self.studies)
        origins = [str(origin).rstrip("/") for origin in settings.MONAI_LABEL_CORS_ORIGINS]
        answer_with(web_application(self, users, self.settings.hosts, origins, self.settings.upload))
        warn_if_open(users)

    def info(self) -> dict[str, Any]:
        is_narrow = default_device() == "cpu" and self.settings.plan.recipe != "paper"
        width = self.settings.plan.width or (CPU_WIDTH if is_narrow else PAPER_WIDTH)
        notes = [
            self.description,
            describe_device(),
            f"width {width} (the paper's: {PAPER_WIDTH})",
            f"{self.settings.scheme.describe()}",
        ]
        if self.settings.plan.unpainted == "background":
            notes.append(f"unpainted voxels in annotated slices count as {self.settings.scheme.background}")
        if not self._datastore.list_images():
            notes.append(self._datastore.describe_emptiness())
        notes += self._datastore.describe_source()
        notes += self._datastore.describe_left_out()
        notes += self._datastore.header_notes()
        return {**super().info(), "train_stats": self._train_stats(), "description": "; ".join(notes)}

    def _train_stats(self) -> dict[str, Any]:
        """Return the last report of training; of a training that has failed, the message says why."""
        latest = self.jobs.status("train") or {}
        failure = {"message": latest["message"]} if "message" in latest else {}
        return {name: {**trainer.stats(), **failure} for name, trainer in self._trainers.items()}

    def infer(self, request: dict[str, Any], datastore: AnnotationStore | None = None) -> dict[str, Any]:
        """Run an infer task; never save its result as a label, even if the request asks for it.

        Args:
            request: ``model``; ``image``, a name in the datastore, or ``image_file``, the path of another image; and
                the task's options.
            datastore: has the image; the app's own by default.

        Raises:
            InputError: see the task.
            HTTPException: 404 for an unknown model or image.
        """
        store = datastore or self._datastore
        self._require(self._infers, request.get("model"), "model")
        image_id, path = request.get("image"), request.get("image_file")
        if path is None:
            if image_id not in store.list_images():
                not_found(f"there is no image {image_id!r} in the datastore")
            # MONAI Label would take the path of a missing file for the name of an unknown image.
            store.image_files(str(image_id))
            path = store.get_image_uri(str(image_id))
        else:
            image_id = None
        result: dict[str, Any] = super().infer(
            {**request, "save_label": False, "image_id": image_id, "image": path}, store
        )
        return result

    def join(self, ranks: Ranks) -> None:
        """Train as one of several processes from now on."""
        self._trainers[NAME].ranks = ranks

    def batch_infer(self, request: dict[str, Any], datastore: AnnotationStore | None = None) -> BatchResult:
        return segment_images(self._infers[request["model"]], datastore or self._datastore, request)

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        self._require(self._strategies, request.get("strategy") or "random", "strategy")
        sample: dict[str, Any] = super().next_sample(request)
        if not self._datastore.list_images():
            raise InputError(self._datastore.describe_emptiness())
        if sample:
            self._datastore.check_image(sample["id"])
            # Slicer on this computer opens that file itself.
            sample["path"] = str(self._datastore.path_for_slicer(sample["id"]))
            if notes := self._datastore.notes(sample["id"]):
                sample["notes"] = notes
            if left_out := self._datastore.describe_left_out():
                sample["left_out"] = left_out
        return sample

    def start_job(self, method: str, request: dict[str, Any]) -> Mapping[str, Any]:
        """Start ``train``, ``scoring`` or ``batch_infer`` in a process of its own; return its state.

        Raises:
            InputError: the request can't succeed.
            HTTPException: 404 for an unknown trainer, model or scoring method; 429 if such a job runs already.
        """
        try:
            return {**self.jobs.start(method, request)}
        except Busy as error:
            raise HTTPException(429, str(error)) from error

    def job(self, method: str, all: bool, check_if_running: bool) -> Any:
        """Return the state of the latest job, the states of all, or that of the running one.

        Raises:
            HTTPException: 404 if there is none.
        """
        if check_if_running:
            return self.jobs.running(method) or not_found(f"no {METHODS[method]} runs")
        states = self.jobs.all(method) or not_found(f"there has been no {METHODS[method]} yet")
        return states if all else states[-1]

    def stop_job(self, method: str) -> Any:
        """Stop the job that runs, and wait for its end; return its state, or None if none runs."""
        return self.jobs.stop(method)

    def check_request(self, method: str, request: dict[str, Any]) -> Mapping[str, object]:
        """Refuse a request that can't succeed, before a process is started for it.

        Returns:
            What to tell the client, by topic; may be empty.

        Raises:
            InputError: the request or the state of the datastore doesn't allow it.
            HTTPException: 404 for an unknown trainer, model or scoring method.
        """
        if method == "train":
            trainer: Trainer = self._require(self._trainers, request.get("model"), "trainer")
            return trainer.check(request, self._datastore)
        if method == "batch_infer":
            whole_images = {name: task for name, task in self._infers.items() if isinstance(task, Segmentation)}
            self._require(whole_images, request.get("model"), "model for whole images").model()
        elif method == "scoring":
            self._require(self._scoring_methods, request.get("method"), "scoring method")
        return {}

    def on_save_label(self, image_id: str, label_id: SubmittedLabel) -> dict[str, object]:
        """Tell the annotator how the submission was understood.

        The submission is stored by now, so nothing that fails here makes it fail.
        """
        try:
            return self._describe_submission(image_id, label_id.info)
        except Exception:
            logger.exception("The reply to a submission of %s can't be made", image_id)
            return {
                "message": f"Version {label_id.info['version']} of {image_id!r} is stored.",
                "warnings": ["The server can't describe the submission; its log says why."],
                "version": label_id.info["version"],
            }

    def _describe_submission(self, image_id: str, info: AnnotationInfo) -> dict[str, object]:
        return submission_reply(
            image_id,
            {**info, "warnings": [*info["warnings"], *self._datastore.notes(image_id)]},
            self.settings.scheme,
            self.settings.plan.unpainted,
            learnable_classes_of(self._datastore, self.settings, self._datastore.get_labeled_images()),
            self._suggestions.paint_next(image_id),
        )

    @staticmethod
    def _require(tasks: dict[str, Any], name: str | None, kind: str) -> Any:
        if name not in tasks:
            not_found(f"there is no {kind} {name!r}; known: {', '.join(tasks)}")
        return tasks[name]


def refuse_to_start(error: InputError) -> NoReturn:
    """End the process with a message that a person can read."""
    # The web server prints a traceback, in which the message would be hard to find.
    sys.tracebacklimit = 0
    raise SystemExit(f"\nThe server cannot start. {error}\n") from None

"""What the routes need of the MONAI Label app."""

from collections.abc import Mapping
from typing import Any, Protocol

from lib.server.store.datastore import AnnotationStore, SubmittedLabel


class LabelApp(Protocol):
    """The app that the server runs; ``SparseUNet3D`` in ``main.py``."""

    def info(self) -> dict[str, Any]:
        """Return what the app offers, and the state of training and datastore."""

    def datastore(self) -> AnnotationStore:
        """Return the images and annotations."""

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """Choose the next image by ``strategy``; empty if there is none."""

    def infer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run ``model`` on ``image``, a name in the datastore, or on ``image_file``; see MONAI Label."""

    def on_save_label(self, image_id: str, label_id: SubmittedLabel) -> dict[str, object]:
        """Return what to tell the annotator about a submission."""

    def model_file(self, model: str) -> str | None:
        """Return the file of a published model."""

    def model_info(self, model: str) -> dict[str, Any] | None:
        """Return checksum and time of a published model."""

    def start_job(self, method: str, request: dict[str, Any]) -> Mapping[str, Any]:
        """Start ``train``, ``scoring`` or ``batch_infer`` in a process of its own; return its state."""

    def job(self, method: str, all: bool, check_if_running: bool) -> Any:
        """Return the state of the latest job, or of all."""

    def stop_job(self, method: str) -> Any:
        """Stop the running job; return its state, or None if none runs."""

"""The whole loop with a simulated annotator: annotate slices, train, segment, and compare with the truth.

Everything goes over the network through MONAI Label's own client, as 3D Slicer's requests do.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
from monailabel.client import MONAILabelClient
from numpy.typing import NDArray

from lib.core.files import write_json
from lib.core.labels import UNLABELLED, LabelScheme
from lib.core.metrics import confusion, iou_per_class, mean_iou
from lib.core.volumes.grids import onto_grid
from lib.core.volumes.image_files import all_files
from lib.core.volumes.reading import read_label_map
from lib.core.volumes.volume import Volume
from lib.report.demo_report import Segmented, write_demo_report
from lib.report.demo_result import DemoResult, Epoch, Scores, Summary, Training, VolumeScores
from lib.report.page import two_digits
from lib.server.slicer.segments import predicted_segments
from lib.simulation.annotator import export_like_slicer, paint_slices, truth_as_annotation
from lib.simulation.cases import Case, label_scheme, read_cases

from .errors import ServerError
from .server_process import running_server

MODEL = "sparse_unet3d"
POLL_SECONDS = 2
SILENT_SECONDS = 30
MAX_EPOCHS = 100_000


@dataclass(frozen=True)
class DemoOptions:
    """The volumes of the demo, and how it runs.

    Args:
        images: folder of the volumes.
        truths: folder of dense label maps under the volumes' names, 0 background, 1 … K foreground.
        labels: names of the foreground classes, separated by commas; empty: ``class_1``, … for the truth's classes.
        slices_per_axis: number of slices to annotate per axis, on all volumes but one.
        minutes: training time.
        output: folder for ``report.html``, ``report.json`` and ``server.log``.
        seed: decides which slices are annotated.
    """

    images: Path
    truths: Path
    labels: str
    slices_per_axis: int
    minutes: float
    output: Path
    seed: int


class Clock:
    """Prints messages with the time since the start."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def say(self, text: str) -> None:
        minutes, seconds = divmod(int(self.seconds), 60)
        print(f"[{minutes:2d}:{seconds:02d}] {text}", flush=True)


def run_demo(options: DemoOptions) -> DemoResult:
    """Run the loop and write the report.

    Returns:
        The content of ``report.json``.

    Raises:
        InputError: the volumes or their truth can't be used.
        ServerError: the server failed.
    """
    clock = Clock()
    cases = read_cases(options.images, options.truths)
    scheme = label_scheme(options.labels, cases)
    conf = {"labels": ",".join(scheme.foreground), "background": scheme.background}
    with tempfile.TemporaryDirectory(prefix="sparse_unet3d_") as scratch:
        studies, downloads = Path(scratch, "studies"), Path(scratch, "downloads")
        studies.mkdir()
        downloads.mkdir()
        for case in cases.values():
            for path in case.files:
                for file in all_files(path):
                    target = studies / file.relative_to(path.parent)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, target)
        clock.say(f"Starting a server on copies of {len(cases)} volumes ...")
        with running_server(studies, conf, options.output / "server.log", downloads) as client:
            annotations = annotate(client, cases, scheme, options, downloads, clock)
            training = train(client, options.minutes, clock)
            segmented = []
            for image_id, case in cases.items():
                clock.say(f"Segmenting {image_id} ...")
                prediction = segment(client, image_id, case.volume, scheme)
                annotation = annotations.get(image_id, np.full_like(prediction, UNLABELLED))
                segmented.append(Segmented(image_id, case.volume, annotation, prediction, case.truth))
    result: DemoResult = {
        **summarise(segmented, scheme, training),
        "seconds": round(clock.seconds, 1),
        "slices_per_axis": options.slices_per_axis,
        "seed": options.seed,
        "command": " ".join(["python", *sys.argv]),
        "versions": {name: version(name) for name in ("torch", "monai", "monailabel", "numpy")},
    }
    write_json(options.output / "report.json", result)
    write_demo_report(options.output / "report.html", result, segmented, scheme)
    for means, text in (
        (result["semi_automated"], "annotated volumes"),
        (result["fully_automated"], "unannotated volume"),
    ):
        classes = ", ".join(f"{name} {two_digits(value)}" for name, value in means["iou"].items())
        clock.say(f"IoU on unpainted voxels, {text}: mean {two_digits(means['mean_foreground_iou'])} ({classes})")
    clock.say(f"Report with pictures: {options.output / 'report.html'}")
    return result


def annotate(
    client: MONAILabelClient,
    cases: Mapping[str, Case],
    scheme: LabelScheme,
    options: DemoOptions,
    downloads: Path,
    clock: Clock,
) -> dict[str, NDArray[np.uint8]]:
    """Annotate all volumes but one, in the order that the server suggests.

    Returns:
        The submitted annotations (X, Y, Z), 0 unlabelled, 1 … K+1, by image id.
    """
    rng = np.random.default_rng(options.seed)
    segments = list(client.info()["labels"])
    annotations: dict[str, NDArray[np.uint8]] = {}
    for _ in range(len(cases) - 1):
        image_id = next_image(client, cases, annotations)
        annotation = paint_slices(cases[image_id].truth, scheme, options.slices_per_axis, rng)
        label = downloads / f"{image_id}.nii.gz"
        params = export_like_slicer(label, annotation, cases[image_id].volume, scheme, segments)
        client.save_label(image_id, str(label), params=params)
        annotations[image_id] = annotation
        clock.say(f"Annotated {image_id}: {percent(annotation):.1f} % of its voxels painted and submitted.")
    return annotations


def next_image(client: MONAILabelClient, cases: Mapping[str, Case], annotated: Container[str]) -> str:
    """Ask for the next image to annotate, like the button "Next Sample"."""
    offered = client.next_sample("sparse", {}).get("id")
    if offered not in cases or offered in annotated:
        raise ServerError(f"The strategy 'sparse' offered {offered!r}; expected a volume without annotation.")
    return str(offered)


def train(client: MONAILabelClient, minutes: float, clock: Clock) -> Training:
    """Train, printing each epoch; return the trainer's last statistics and the ``history`` of all epochs.

    Raises:
        ServerError: training failed, or published no model.
    """
    clock.say(f"Training for {minutes:g} minutes ...")
    client.train_start(MODEL, {"max_minutes": minutes, "max_epochs": MAX_EPOCHS, "start": "afresh"})
    history: list[Epoch] = []
    status = "RUNNING"
    spoke = clock.seconds
    while status == "RUNNING":
        time.sleep(POLL_SECONDS)
        # Ask for the status first, so that the statistics are final once the status says that training has ended.
        task = client.train_status()
        status = task["status"]
        stats = client.info()["train_stats"][MODEL]
        if stats["epoch"] > (history[-1]["epoch"] if history else 0):
            history.append(_epoch(stats))
            left = max(minutes * 60 - stats["seconds"], 0)
            score = f", {stats['metric']} {two_digits(stats['score'])}" if stats["score"] is not None else ""
            clock.say(f"epoch {stats['epoch']}: loss {two_digits(stats['loss'])}{score}, {left / 60:.1f} minutes left")
            spoke = clock.seconds
        elif clock.seconds - spoke > SILENT_SECONDS:
            clock.say("... the next epoch is still running")
            spoke = clock.seconds
    if status != "DONE":
        details = "\n".join(f"  {line}" for line in task.get("details", []))
        raise ServerError(f"Training ended with the status {status}. Its last lines:\n{details}")
    if MODEL not in client.info()["models"]:
        raise ServerError("Training ended, but no model was published.")
    return cast(Training, {**stats, "history": history})


def _epoch(stats: Mapping[str, Any]) -> Epoch:
    return {
        "epoch": stats["epoch"],
        "seconds": stats["seconds"],
        "loss": stats["loss"],
        "metric": stats["metric"],
        "score": stats["score"],
        "iou": stats["iou"],
    }


def segment(client: MONAILabelClient, image_id: str, volume: Volume, scheme: LabelScheme) -> NDArray[np.uint8]:
    """Let the server segment an image, like the button "Run".

    Returns:
        The prediction (X, Y, Z) on the volume's grid: 0 background, 1 … K foreground.
    """
    path, params = client.infer(MODEL, image_id, {"result_extension": ".nrrd", "result_dtype": "uint8"})
    result = onto_grid(read_label_map(path), volume)
    names = params["label_names"]
    # A list names the values 1, 2, …; a dictionary gives the value of each name.
    values = names if isinstance(names, dict) else {name: value for value, name in enumerate(names, start=1)}
    prediction = np.zeros(result.shape, np.uint8)
    for value, name in enumerate(predicted_segments(scheme), start=1):
        prediction[result == values[name]] = value
    return prediction


def painted_slices(annotation: NDArray[np.uint8]) -> list[list[int]]:
    """Return, for each axis, the indices of the slices that are painted completely."""
    painted = annotation != UNLABELLED
    return [np.flatnonzero(painted.all(axis=others)).tolist() for others in ((1, 2), (0, 2), (0, 1))]


def percent(annotation: NDArray[np.uint8]) -> float:
    """Return the percentage of labelled voxels, 0 … 100."""
    return 100 * np.count_nonzero(annotation != UNLABELLED) / annotation.size


def summarise(segmented: Sequence[Segmented], scheme: LabelScheme, training: Training) -> Summary:
    """Compare predictions with the truth on the voxels that nobody painted."""
    volumes: list[VolumeScores] = []
    for case in segmented:
        unseen = truth_as_annotation(case.truth, scheme)
        unseen[case.annotation != UNLABELLED] = UNLABELLED
        iou = iou_per_class(confusion(case.prediction, unseen, scheme), scheme)
        volumes.append(
            {
                "id": case.id,
                "annotated": bool(case.annotation.any()),
                "annotated_slices": painted_slices(case.annotation),
                "labelled_voxels_percent": percent(case.annotation),
                "iou": iou,
                "mean_foreground_iou": mean_iou(iou),
            }
        )
    annotated = [case.annotation for case in segmented if case.annotation.any()]
    labelled = sum(np.count_nonzero(annotation) for annotation in annotated)
    return {
        "semi_automated": _mean_over([volume for volume in volumes if volume["annotated"]], scheme),
        "fully_automated": _mean_over([volume for volume in volumes if not volume["annotated"]], scheme),
        "labelled_voxels_percent": 100 * labelled / sum(annotation.size for annotation in annotated),
        "volumes": volumes,
        "training": training,
    }


def _mean_over(volumes: Sequence[Scores], scheme: LabelScheme) -> Scores:
    iou = {
        name: mean_iou({str(number): v["iou"][name] for number, v in enumerate(volumes)}) for name in scheme.foreground
    }
    return {"mean_foreground_iou": mean_iou(iou), "iou": iou}

"""The commands of this software: ``python apps/sparse_unet3d COMMAND``, from the project's folder."""

import sys
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from lib.commands.command_line import make_app, run
from lib.phantom.samples import make_samples

PROJECT = Path(__file__).resolve().parents[2]
DATASTORE = PROJECT / "datastore"
SAMPLE_TRUTH = PROJECT / "sample_truth"

app = make_app("Sparse U-Net for 3D Slicer.")
annotations = typer.Typer(no_args_is_help=True)
app.add_typer(
    annotations, name="annotations", help="List, compare and restore versions of annotations; check and move a project."
)
users = typer.Typer(no_args_is_help=True)
app.add_typer(users, name="users", help="Say who may use the server. Without users, everybody may.")

Studies = Annotated[Path, typer.Option(metavar="FOLDER", help="The folder that the server serves.")]
ImageName = Annotated[str, typer.Argument(metavar="IMAGE", help="Name of the image, as listed.")]
UserName = Annotated[str, typer.Argument(metavar="NAME", help="Name to log in with. Submissions are signed by it.")]
Version = Annotated[int, typer.Argument(metavar="VERSION", help="Number of the version, as listed.")]


@app.command()
def samples() -> None:
    """Make the sample volumes, unless they exist."""
    if not make_samples(DATASTORE, SAMPLE_TRUTH):
        print(f"Sample volumes already exist: {DATASTORE}")


@app.command()
def demo(
    studies: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder with images/ and dense labels/ (0 background, 1, 2, … classes). Default: the sample volumes.",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        str, typer.Option(metavar="NAMES", help="Class names, separated by commas. Default: class_1, …")
    ] = "",
    minutes: Annotated[float, typer.Option(help="How long to train.")] = 3.0,
    seed: Annotated[int, typer.Option(help="Random seed for the choice of slices to annotate.")] = 0,
    output: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the report goes.", show_default="demo")
    ] = PROJECT / "demo",
) -> None:
    """Simulate an annotator, train, segment and score; write report.html and report.json."""
    # Imported here because it imports MONAI Label, which takes seconds that the other commands don't need.
    from lib.commands.demo import DemoOptions, run_demo

    if studies is None:
        make_samples(DATASTORE, SAMPLE_TRUTH)
    run_demo(
        DemoOptions(
            images=studies / "images" if studies else DATASTORE,
            truths=studies / "labels" if studies else SAMPLE_TRUTH,
            labels=labels or ("" if studies else "inside,tubule"),
            slices_per_axis=1 if studies else 3,
            minutes=minutes,
            output=output,
            seed=seed,
        )
    )


@app.command(epilog="Example: python apps/sparse_unet3d train project/ --minutes 30")
def train(
    studies: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the project, with its annotations.")],
    minutes: Annotated[float, typer.Option(min=0, help="How long to train at most; 0 for no limit.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="How many epochs to train at most.")] = 100,
    afresh: Annotated[bool, typer.Option("--afresh", help="Start with an untrained network.")] = False,
    conf: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="An option of the server's --conf; may be given several times."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the last report as JSON, and nothing else.")] = False,
) -> None:
    """Train on the annotations of a project, as Slicer's Train button does.

    The classes are those of the project. Training goes on where it stood; Ctrl-C saves and ends it. On several GPUs:
    torchrun --nproc_per_node N apps/sparse_unet3d train FOLDER
    """
    from lib.commands.train import train_and_report

    request = {"max_epochs": epochs, "max_minutes": minutes, "start": "afresh" if afresh else "continue"}
    raise typer.Exit(train_and_report(studies, conf or [], request, as_json))


@app.command(
    epilog="Example: python apps/sparse_unet3d segment scans/ --model project/models/model.pt --out segmented/"
)
def segment(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT…", help="Images, or folders of images.")],
    model: Annotated[
        Path, typer.Option(metavar="MODEL", help="Model file, or folder of a project whose model is trained.")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the label maps go.")],
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes, each of which segments one volume. Default: as many as there are cores and memory for.",
            show_default=False,
        ),
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Let the workers of a dask.distributed scheduler do the work. They must see the same files.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, and nothing else.")] = False,
) -> None:
    """Segment volumes by a trained model. Those whose result is up to date are skipped.

    An image that can't be segmented is reported at the end, and makes the exit code 1. Interrupted work goes on where
    it stopped when the same command is given again.
    """
    from lib.commands.batch_report import segment_and_report

    raise typer.Exit(segment_and_report(inputs, model, out, workers, dask, as_json))


@app.command(epilog="Example: python apps/sparse_unet3d crops embryo.ome.zarr --size 256 --count 8 --studies project/")
def crops(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="An OME-Zarr image of any size.")],
    studies: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the project, which may be new.")],
    size: Annotated[int, typer.Option(min=16, help="Side of each box in voxels.")] = 256,
    count: Annotated[int, typer.Option(min=1, help="How many boxes to add.")] = 8,
    spacing: Annotated[
        str,
        typer.Option(
            metavar="X,Y,Z", help="Largest voxels in mm: they choose the level of the pyramid. Default: the finest."
        ),
    ] = "",
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL",
            help="Model file, or folder of a project: add boxes in which this model is least certain.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Put boxes of an image that is larger than memory into a project, to paint them in 3D Slicer.

    They don't overlap, and remember where they come from. A model that learns from them segments the whole image. The
    same command again adds further boxes; what is there stays as it is.
    """
    from lib.commands.crops import crop_and_report

    crop_and_report(image, studies, size, count, spacing, model)


@app.command(
    epilog="Example: python apps/sparse_unet3d evaluate predictions/ truth/ --classes inside,tubule --csv scores.csv"
)
def evaluate(
    predictions: Annotated[
        Path,
        typer.Argument(metavar="PREDICTIONS", help="Folder of label maps (0 background, 1, 2, … classes), or one."),
    ],
    labels: Annotated[
        Path, typer.Argument(metavar="LABELS", help="Folder of true label maps with the same names, or one.")
    ],
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the scores into this CSV file, in full precision.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON, and nothing else.")] = False,
    classes: Annotated[
        str,
        typer.Option(
            metavar="NAMES", help="Class names in order, separated by commas. Default: the values that occur."
        ),
    ] = "",
    ignore: Annotated[
        int | None,
        typer.Option(
            metavar="VALUE",
            help="Voxels of this value in LABELS don't count: the ignore label of nnU-Net; or 0 for annotations of "
            "this software, whose value after the last class is the background.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Score predictions: IoU, Dice, surface distances and voxel counts, by volume and class.

    A volume that can't be compared is reported at the end, and makes the exit code 1.
    """
    # Imported here because it imports torch, which takes seconds that the other commands don't need.
    from lib.commands.evaluation import run_evaluation

    raise typer.Exit(0 if run_evaluation(predictions, labels, csv, as_json, classes, ignore) else 1)


@app.command(epilog="Example: python apps/sparse_unet3d measure project/ --out measured/ --tubes tubule --surfaces stl")
def measure(
    labels: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Folder of a project, whose predictions are measured; a folder of label maps; or one label map.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the tables and surfaces go.")],
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Images of the label maps' names, for mean intensities. Default: those of the project.",
            show_default=False,
        ),
    ] = None,
    classes: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Class names in order, separated by commas. Default: those stored beside the label maps.",
        ),
    ] = "",
    tubes: Annotated[
        str, typer.Option(metavar="NAMES", help="Classes of tubes, whose length is measured, separated by commas.")
    ] = "",
    neighbours: Annotated[
        Literal["6", "18", "26"],
        typer.Option(help="Voxels of one object touch by faces (6), also by edges (18), also by corners (26)."),
    ] = "26",
    min_voxels: Annotated[int, typer.Option(min=1, help="Leave out objects with fewer voxels.")] = 1,
    split: Annotated[bool, typer.Option("--split", help="Split touching, round objects.")] = False,
    surfaces: Annotated[
        Literal["stl", "ply", "obj"] | None,
        typer.Option(help="Write the surface of each class, in LPS mm.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the measures as JSON, and nothing else.")] = False,
) -> None:
    """Measure classes and objects: volume, surface, place, intensity, length.

    Objects are connected components. A volume that can't be measured is reported at the end, and makes the exit code 1.
    """
    from lib.commands.measurement import measure_and_report
    from lib.core.measurement.measures import MeasuringOptions
    from lib.core.measurement.objects import Neighbours

    names = tuple(name.strip() for name in tubes.split(",") if name.strip())
    options = MeasuringOptions(cast(Neighbours, int(neighbours)), min_voxels, split, names)
    raise typer.Exit(0 if measure_and_report(labels, images, out, classes, options, surfaces, as_json) else 1)


@app.command(epilog="Example: python apps/sparse_unet3d inspect project/models/model.pt --json")
def inspect(
    path: Annotated[
        Path, typer.Argument(metavar="MODEL|FOLDER", help="A model file, or the folder that the server serves.")
    ],
    models: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The folder of --conf models, if the server has one.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")] = False,
) -> None:
    """Show what is known of a model, or the images, annotations, predictions and model of a project.

    Only headers are read, and nothing is written. A fault in a project makes the exit code 1.
    """
    from lib.commands.inspection_report import inspect_and_report

    raise typer.Exit(inspect_and_report(path, models, as_json))


@app.command(epilog="Example: python apps/sparse_unet3d report project/ --out report.html")
def report(
    studies: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the project.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="HTML file to write. Default: report.html in the folder.", show_default=False
        ),
    ] = None,
    conf: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="An option of the server's --conf; may be given several times."),
    ] = None,
) -> None:
    """Write a page that shows where a project stands: volumes, paint, predictions, training, held-out slices, versions.

    It is one file, for people without the server. The classes are those of the project.
    """
    from lib.commands.report import write_report

    print(write_report(studies, out or studies / "report.html", conf or []))


@app.command(epilog="Example: python apps/sparse_unet3d export project/ --as onnx --out exported/")
def export(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Model file, or folder of a project whose model is trained.")
    ],
    kind: Annotated[
        Literal["bundle", "onnx", "bioimageio", "torchscript"],
        typer.Option("--as", help="MONAI bundle, ONNX with a runner, BioImage.IO package, or TorchScript."),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="A new folder.")],
    statistics_of: Annotated[
        Path | None,
        typer.Option(
            metavar="IMAGE",
            help="Freeze the statistics that Run takes for this image. Default: the averages over training tiles.",
            show_default=False,
        ),
    ] = None,
    licence: Annotated[
        str, typer.Option(metavar="NAME", help="Licence of the model, an SPDX identifier such as CC-BY-4.0.")
    ] = "",
    provenance: Annotated[
        bool,
        typer.Option("--provenance", help="Tell in the model card which versions of annotations it learnt, and whose."),
    ] = False,
) -> None:
    """Export a trained model for other software, with a model card.

    Statistics of batch normalisation are frozen. A model that takes those of each image gets a warning, which says when
    the labels of the exported model are those of Run.
    """
    from lib.commands.exporting import export_and_report

    export_and_report(model, kind, out, statistics_of, licence, provenance)


@app.command(
    "import-nnunet",
    epilog="Example: python apps/sparse_unet3d import-nnunet nnUNet_raw/Dataset004_Hippocampus --studies hippocampus",
)
def import_nnunet(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="Folder of a dataset of nnU-Net v2.")],
    studies: Annotated[Path, typer.Option(metavar="FOLDER", help="A new folder, for the server to serve.")],
    background: Annotated[str, typer.Option(metavar="NAME", help="What to call the background here.")] = "outside",
    ignore: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="VALUE",
            help="Leave voxels of this value unlabelled, if dataset.json has no label 'ignore'.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make a project of a dataset of nnU-Net v2, with its labels as annotations.

    The background becomes the background class, and ignored voxels become unlabelled.
    """
    from lib.commands.nnunet import import_dataset

    print(import_dataset(dataset, studies, background, ignore))


@app.command(
    "export-nnunet",
    epilog="Example: python apps/sparse_unet3d export-nnunet nnUNet_raw/Dataset101_Kidney --studies kidneys",
)
def export_nnunet(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder for the dataset.")],
    studies: Studies = DATASTORE,
) -> None:
    """Make a dataset of nnU-Net v2 of all annotated images; unlabelled voxels get its label 'ignore'."""
    from lib.commands.nnunet import export_dataset

    print(export_dataset(studies, out))


@app.command("slicer-script")
def slicer_script() -> None:
    """Write a script of shortcuts for 3D Slicer into this folder, and print how to load it."""
    from lib.commands.slicer_script import write_slicer_script

    print(write_slicer_script(Path.cwd()))


@annotations.command("list")
def list_annotations(studies: Studies = DATASTORE) -> None:
    """List all versions of each image's annotation, and mark the current one."""
    from lib.commands.annotations import list_versions

    print(list_versions(studies))


@annotations.command("show")
def show_annotation(
    image: ImageName,
    version: Version,
    against: Annotated[
        int | None,
        typer.Option(
            metavar="OTHER",
            help="Version to compare with. Default: the current version; if VERSION is current, the previous one.",
            show_default=False,
        ),
    ] = None,
    studies: Studies = DATASTORE,
) -> None:
    """Compare a version of an annotation with another version."""
    from lib.commands.annotations import show_version

    print(show_version(studies, image, version, against))


@annotations.command("restore")
def restore_annotation(
    image: ImageName,
    version: Version,
    by_voxel: Annotated[
        bool, typer.Option("--by-voxel", help="Restore even if the image's geometry was corrected after the painting.")
    ] = False,
    studies: Studies = DATASTORE,
) -> None:
    """Make a version the current one, by storing it again as the newest; all others are kept."""
    from lib.commands.annotations import restore_version

    print(restore_version(studies, image, version, by_voxel))


@app.command(epilog="Example: python apps/sparse_unet3d send-predictions --studies archive.example.org-dicom-web/")
def send_predictions(
    images: Annotated[
        list[str] | None, typer.Argument(metavar="IMAGE", help="Images; all with a prediction if none is named.")
    ] = None,
    studies: Studies = DATASTORE,
) -> None:
    """Send predictions to the DICOM archive that a project's images come from.

    Each is stored as a DICOM segmentation, made automatically, in the study of its image.
    """
    from lib.commands.sending import send_predictions as send

    sent = True
    for text, is_sent in send(studies, images or ()):
        print(text)
        sent = sent and is_sent
    raise typer.Exit(0 if sent else 1)


@annotations.command("check")
def check_project(studies: Studies = DATASTORE) -> None:
    """Check that all images can be read and all labels are as they were stored; the exit code is 1 if not."""
    from lib.commands.project import check_text

    text, is_sound = check_text(studies)
    print(text)
    raise typer.Exit(0 if is_sound else 1)


@annotations.command("export")
def export_project(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="ZIP file to write.")],
    studies: Studies = DATASTORE,
    models: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The folder of --conf models, if the server has one.", show_default=False),
    ] = None,
) -> None:
    """Write images, all versions of the annotations and the models into one file, for a backup or another computer."""
    from lib.commands.project import export

    print(export(studies, models or studies / "models", file))


@annotations.command("import")
def import_project(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="ZIP file that was exported.")],
    studies: Annotated[Path, typer.Option(metavar="FOLDER", help="A new folder, for the server to serve.")],
) -> None:
    """Unpack an exported project into a new folder, and check each file."""
    from lib.commands.project import unpack

    print(unpack(file, studies))


@users.command("add")
def add(
    name: UserName,
    token: Annotated[bool, typer.Option("--token", help="For a program: make a token instead of a password.")] = False,
    studies: Studies = DATASTORE,
) -> None:
    """Add a user, or change the password. A running server takes it over at once."""
    from lib.commands.users import add_user

    print(add_user(studies, name, token))


@users.command("remove")
def remove(name: UserName, studies: Studies = DATASTORE) -> None:
    """Remove a user, and end the logins of this user."""
    from lib.commands.users import remove_user

    print(remove_user(studies, name))


@users.command("list")
def list_all(studies: Studies = DATASTORE) -> None:
    """List the users."""
    from lib.commands.users import list_users

    print(list_users(studies))


if __name__ == "__main__":
    sys.exit(run(app, "python apps/sparse_unet3d"))

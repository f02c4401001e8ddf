"""The commands of this software: ``python apps/sparse_unet3d COMMAND``, from the project's folder."""

import argparse
import os
import signal
import sys
from pathlib import Path

from lib.commands.errors import ServerError
from lib.commands.samples import make_samples
from lib.core.errors import InputError

PROJECT = Path(__file__).resolve().parents[2]
DATASTORE = PROJECT / "datastore"
SAMPLE_TRUTH = PROJECT / "sample_truth"
TABLES = ("table1", "table2", "table3", "figure3")
UNFINISHED = 3


def samples(_arguments: argparse.Namespace) -> None:
    """Run the command ``samples``."""
    if not make_samples(DATASTORE, SAMPLE_TRUTH):
        print(f"The sample volumes are there: {DATASTORE}")


def demo(arguments: argparse.Namespace) -> None:
    """Run the command ``demo``."""
    # Imported here as it brings MONAI Label, which takes seconds that the other commands don't need.
    from lib.commands.demo import DemoOptions, run_demo

    studies: Path | None = arguments.studies
    if studies is None:
        make_samples(DATASTORE, SAMPLE_TRUTH)
    run_demo(
        DemoOptions(
            images=studies / "images" if studies else DATASTORE,
            truths=studies / "labels" if studies else SAMPLE_TRUTH,
            labels=arguments.labels or ("" if studies else "inside,tubule"),
            slices_per_axis=1 if studies else 3,
            minutes=arguments.minutes,
            output=arguments.output,
            seed=arguments.seed,
        )
    )


def list_annotations(arguments: argparse.Namespace) -> None:
    """Run the command ``annotations list``."""
    from lib.commands.annotations import list_versions

    print(list_versions(arguments.studies))


def show_annotation(arguments: argparse.Namespace) -> None:
    """Run the command ``annotations show``."""
    from lib.commands.annotations import show_version

    print(show_version(arguments.studies, arguments.image, arguments.version, arguments.against))


def restore_annotation(arguments: argparse.Namespace) -> None:
    """Run the command ``annotations restore``."""
    from lib.commands.annotations import restore_version

    print(restore_version(arguments.studies, arguments.image, arguments.version, arguments.by_voxel))


def reproduce(arguments: argparse.Namespace) -> None:
    """Run the command ``reproduce`` for tables and figures."""
    from lib.experiments.reproduce import Options
    from lib.experiments.reproduce import reproduce as do

    finished = do(
        Options(
            tables=TABLES if arguments.what == "all" else (arguments.what,),
            size=arguments.size,
            folder=arguments.data,
            labels=arguments.labels,
            methods=arguments.methods.split(",") if arguments.methods else None,
            seeds=arguments.seeds,
            steps=arguments.steps,
            minutes=arguments.minutes,
            jobs=arguments.jobs,
            dask=arguments.dask,
            experiments=arguments.output,
        )
    )
    if not finished:
        sys.exit(UNFINISHED)


def pack(arguments: argparse.Namespace) -> None:
    """Run the command ``reproduce pack``."""
    from lib.experiments import travel

    travel.pack(PROJECT, arguments.archive, arguments.data)


def unpack(arguments: argparse.Namespace) -> None:
    """Run the command ``reproduce unpack``."""
    from lib.experiments import travel

    print(f"{travel.unpack(PROJECT, arguments.archive)} files taken from {arguments.archive}")


def simulate(arguments: argparse.Namespace) -> None:
    """Run the command ``simulate``."""
    from lib.experiments.annotators import Course
    from lib.experiments.simulate import Options
    from lib.experiments.simulate import simulate as do
    from lib.experiments.strategies import STRATEGIES

    do(
        Options(
            folder=arguments.data,
            labels=arguments.labels,
            volume=arguments.volume,
            strategies=arguments.strategies.split(",") if arguments.strategies else tuple(STRATEGIES),
            seeds=arguments.seeds,
            course=Course(most_slices=arguments.slices),
            jobs=arguments.jobs,
            experiments=arguments.output,
        )
    )


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    top = argparse.ArgumentParser(prog="python apps/sparse_unet3d", description="Sparse U-Net for 3D Slicer.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("samples", help="make the sample volumes, unless they are there")
    command.set_defaults(run=samples)
    command = commands.add_parser(
        "demo", help="annotate, train, segment and measure without a person; writes report.html and report.json"
    )
    command.add_argument(
        "--studies",
        type=Path,
        metavar="FOLDER",
        help="folder with images/ and dense labels/ (0 background, 1, 2, … classes); default: the sample volumes",
    )
    command.add_argument("--labels", metavar="NAMES", help="class names, separated by commas; default: class_1, …")
    command.add_argument("--minutes", type=float, default=3.0, help="how long to train (default: %(default)s)")
    command.add_argument("--seed", type=int, default=0, help="decides which slices are annotated (default: 0)")
    command.add_argument(
        "--output", type=Path, default=PROJECT / "demo", metavar="FOLDER", help="where the report goes (default: demo)"
    )
    command.set_defaults(run=demo)
    command = commands.add_parser("annotations", help="list, compare and restore the versions of annotations")
    _add_annotations(command.add_subparsers(required=True, metavar="ACTION"))
    command = commands.add_parser("reproduce", help="the paper's tables 1 to 3 and figure 3; can be continued")
    _add_reproduce(command.add_subparsers(required=True, metavar="WHAT", dest="what"))
    command = commands.add_parser("simulate", help="annotators who choose the next slice in different ways, compared")
    command.add_argument("--data", type=Path, metavar="FOLDER", help="with images/ and labels/; default: the phantom")
    command.add_argument("--labels", default="", metavar="NAMES", help="the folder's classes, separated by commas")
    command.add_argument("--volume", metavar="NAME", help="that is annotated; default: the first one")
    command.add_argument("--strategies", metavar="NAMES", help="separated by commas; default: all")
    command.add_argument("--seeds", type=int, default=8, metavar="N", help="how many (default: %(default)s)")
    command.add_argument("--slices", type=int, default=20, metavar="N", help="annotated at last (default: %(default)s)")
    command.add_argument("--jobs", type=int, metavar="N", help="at a time; default: one for each processor core")
    command.add_argument("--output", type=Path, default=PROJECT / "experiments", metavar="FOLDER")
    command.set_defaults(run=simulate)
    return top


def _add_reproduce(parts: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe what the command ``reproduce`` can do."""
    for what in (*TABLES, "all"):
        part = parts.add_parser(what, help="all of these" if what == "all" else f"the paper's {what}")
        part.add_argument("--size", choices=("small", "paper"), default="small", help="default: %(default)s")
        part.add_argument("--data", type=Path, metavar="FOLDER", help="with images/ and labels/; default: the phantom")
        part.add_argument("--labels", default="", metavar="NAMES", help="the folder's classes, separated by commas")
        part.add_argument("--methods", metavar="NAMES", help="separated by commas; default: those of each table")
        part.add_argument("--seeds", type=int, default=1, metavar="N", help="how many (default: %(default)s)")
        part.add_argument(
            "--steps", type=int, metavar="N", help="of each training, for a quick look; default: the size's"
        )
        part.add_argument("--minutes", type=float, metavar="M", help="then stop; the same command goes on later")
        part.add_argument("--jobs", type=int, metavar="N", help="runs at a time; default: one for each processor core")
        part.add_argument(
            "--dask",
            metavar="ADDRESS",
            help="of a scheduler of dask.distributed; its workers need apps/sparse_unet3d in PYTHONPATH",
        )
        part.add_argument(
            "--output",
            type=Path,
            default=PROJECT / "experiments",
            metavar="FOLDER",
            help="where results/ go, and work/ with the runs (default: experiments)",
        )
        part.set_defaults(run=reproduce)
    for what, run, text in (
        ("pack", pack, "write an archive of all that a rented machine needs, or has to bring back"),
        ("unpack", unpack, "take the results out of an archive that came back"),
    ):
        part = parts.add_parser(what, help=text)
        part.add_argument("archive", type=Path, metavar="FILE")
        if run is pack:
            part.add_argument(
                "--data", type=Path, metavar="FOLDER", help="with images/ and labels/, to be taken along as data/NAME"
            )
        part.set_defaults(run=run)


def _add_annotations(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the actions of the command ``annotations``."""
    action = actions.add_parser("list", help="list all versions of all images, and which is the current one")
    action.set_defaults(run=list_annotations)
    show = actions.add_parser("show", help="compare a version with another one")
    show.set_defaults(run=show_annotation)
    restore = actions.add_parser("restore", help="make a version the newest again; all others are kept")
    restore.set_defaults(run=restore_annotation)
    restore.add_argument(
        "--by-voxel", action="store_true", help="also where the image's geometry was corrected since it was painted"
    )
    for command in (show, restore):
        command.add_argument("image", metavar="IMAGE", help="name of the image, as listed")
        command.add_argument("version", type=int, metavar="VERSION", help="number of the version, as listed")
    show.add_argument(
        "--against",
        type=int,
        metavar="OTHER",
        help="version to compare it with (default: the current one; for that itself, the one before it)",
    )
    for command in (action, show, restore):
        command.add_argument(
            "--studies",
            type=Path,
            default=DATASTORE,
            metavar="FOLDER",
            help="the folder that is served (default: the sample volumes')",
        )


def main() -> int:
    """Run a command; return the exit code: 0 done, 1 the server failed, 2 bad input, 3 unfinished, 130 interrupted."""
    # Told to stop, end in order as on Ctrl-C, so that no server stays behind; also where a shell that started this in
    # the background had it ignore Ctrl-C.
    for told in (signal.SIGINT, signal.SIGTERM):
        signal.signal(told, signal.default_int_handler)
    # Pools of other software end their forked processes by SIGTERM, and would wait for ever for one that survives it.
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    arguments = parser().parse_args()
    try:
        arguments.run(arguments)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The paper's experiments from a shell: ``python -m experiments COMMAND``, from the project's folder."""

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from lib.commands.command_line import make_app, run

from . import PROJECT, UNFINISHED

app = make_app("The paper's tables 1 to 3 and figure 3, and simulated annotators.")


class What(str, Enum):
    """The paper's results."""

    TABLE1, TABLE2, TABLE3, FIGURE3, ALL = "table1", "table2", "table3", "figure3", "all"


class SizeName(str, Enum):
    """Sizes of volumes, networks and training."""

    SMALL, PAPER = "small", "paper"


Data = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Folder with images/ and dense labels/. Default: the phantom.", show_default=False
    ),
]
Labels = Annotated[
    str, typer.Option(metavar="NAMES", help="Class names, separated by commas. Default: class_1, …", show_default=False)
]
Jobs = Annotated[
    int | None,
    typer.Option(min=1, help="Number of parallel runs. Default: one for each processor core.", show_default=False),
]
Output = Annotated[
    Path,
    typer.Option(
        metavar="FOLDER", help="Folder for results/, and for work/ with the runs.", show_default="experiments"
    ),
]
OUTPUT = PROJECT / "experiments"


@app.command()
def reproduce(
    what: Annotated[What, typer.Argument(metavar="WHAT", help="What to reproduce.")],
    size: Annotated[
        SizeName,
        typer.Option(help="Size of volumes, networks and training: small runs on a laptop; paper needs a GPU."),
    ] = SizeName.SMALL,
    data: Data = None,
    labels: Labels = "",
    methods: Annotated[
        str,
        typer.Option(
            metavar="NAMES", help="Methods, separated by commas. Default: those of each table.", show_default=False
        ),
    ] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 1,
    steps: Annotated[
        int | None,
        typer.Option(help="Steps of each training, for a quick look. Default: the size's.", show_default=False),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Stop after this time; the same command continues later.", show_default=False),
    ] = None,
    jobs: Jobs = None,
    dask: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Let a dask.distributed scheduler do the runs. Its workers need this folder and apps/sparse_unet3d in "
            "PYTHONPATH.",
            show_default=False,
        ),
    ] = None,
    output: Output = OUTPUT,
) -> None:
    """Reproduce the paper's tables and figure. After an interruption the same command continues."""
    from .reproduce import ReproduceOptions
    from .reproduce import reproduce as make

    finished = make(
        ReproduceOptions(
            tables=[each.value for each in What if each is not What.ALL] if what is What.ALL else (what.value,),
            size=size.value,
            folder=data,
            labels=labels,
            methods=methods.split(",") if methods else None,
            seeds=seeds,
            steps=steps,
            minutes=minutes,
            jobs=jobs,
            dask=dask,
            experiments=output,
        )
    )
    if not finished:
        raise typer.Exit(UNFINISHED)


@app.command()
def simulate(
    data: Data = None,
    labels: Labels = "",
    volume: Annotated[
        str | None, typer.Option(metavar="NAME", help="Volume to annotate. Default: the first one.", show_default=False)
    ] = None,
    strategies: Annotated[
        str, typer.Option(metavar="NAMES", help="Strategies, separated by commas. Default: all.", show_default=False)
    ] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 8,
    slices: Annotated[int, typer.Option(help="Number of annotated slices at the end.")] = 20,
    steps: Annotated[
        int, typer.Option(min=1, help="Training steps after each further slice; three times as many at first.")
    ] = 100,
    jobs: Jobs = None,
    output: Output = OUTPUT,
) -> None:
    """Compare strategies for choosing the next slice to annotate, with simulated annotators."""
    from .annotators import Schedule
    from .simulate import SimulateOptions
    from .simulate import simulate as make
    from .strategies import STRATEGIES

    make(
        SimulateOptions(
            folder=data,
            labels=labels,
            volume=volume,
            strategies=strategies.split(",") if strategies else tuple(STRATEGIES),
            seeds=seeds,
            schedule=Schedule(3 * steps, steps, slices),
            jobs=jobs,
            experiments=output,
        )
    )


if __name__ == "__main__":
    sys.exit(run(app, "python -m experiments"))

"""The paper's experiments from a shell: ``python -m experiments COMMAND``, from the project's folder."""

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from lib.commands.command_line import make_app, run

from . import PROJECT

UNFINISHED = 3
"""Exit code if runs are left to do."""

app = make_app("The paper's tables 1 to 3 and figure 3, and simulated annotators.")


class What(str, Enum):
    """What the paper shows."""

    TABLE1, TABLE2, TABLE3, FIGURE3, ALL = "table1", "table2", "table3", "figure3", "all"


class SizeName(str, Enum):
    """How large volumes and networks are, and how long training is."""

    SMALL, PAPER = "small", "paper"


Data = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="With images/ and labels/. Default: the phantom.", show_default=False),
]
Labels = Annotated[str, typer.Option(metavar="NAMES", help="The folder's classes, separated by commas.")]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Runs at a time. Default: one for each processor core.", show_default=False)
]
Output = Annotated[
    Path,
    typer.Option(
        metavar="FOLDER", help="Where results/ go, and work/ with the unfinished runs.", show_default="experiments"
    ),
]
OUTPUT = PROJECT / "experiments"


@app.command()
def reproduce(
    what: Annotated[What, typer.Argument(help="One of the paper's results, or all of them.")],
    size: Annotated[SizeName, typer.Option(help="small runs on a laptop; paper needs a GPU.")] = SizeName.SMALL,
    data: Data = None,
    labels: Labels = "",
    methods: Annotated[
        str, typer.Option(metavar="NAMES", help="Separated by commas. Default: the methods of each table.")
    ] = "",
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 1,
    steps: Annotated[
        int | None, typer.Option(help="Steps of each training, for a quick look. Default: the size's.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop after so long; the same command goes on later.")] = None,
    jobs: Jobs = None,
    dask: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Of a dask.distributed scheduler. Its workers need this folder and apps/sparse_unet3d in PYTHONPATH.",
        ),
    ] = None,
    output: Output = OUTPUT,
) -> None:
    """Reproduce the paper's tables and figure; an interrupted command can be continued."""
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
        str | None, typer.Option(metavar="NAME", help="The volume to annotate. Default: the first one.")
    ] = None,
    strategies: Annotated[
        str, typer.Option(metavar="NAMES", help="Separated by commas. Default: all strategies.")
    ] = "",
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 8,
    slices: Annotated[int, typer.Option(help="Annotated slices at the end.")] = 20,
    jobs: Jobs = None,
    output: Output = OUTPUT,
) -> None:
    """Compare simulated annotators who choose the next slice in different ways."""
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
            schedule=Schedule(most_slices=slices),
            jobs=jobs,
            experiments=output,
        )
    )


if __name__ == "__main__":
    sys.exit(run(app, "python -m experiments"))

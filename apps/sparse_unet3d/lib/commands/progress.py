"""Shows on the terminal how far work is, and the time that is left."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn


def bars(console: Console, shown: bool = True) -> Progress:
    """Return a display of bars, each with what is done, how much of it in percent, and the time that is left.

    Args:
        console: where to.
        shown: whether they appear; of several processes that work together, they do so for one.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not shown)


def show_step(progress: Progress, bar: TaskID, what: str, fraction: float) -> None:
    """Show what is done at the moment and the fraction done; each step begins an empty bar."""
    if progress.tasks[bar].description != what:
        progress.reset(bar, description=what, total=1, visible=True)
    progress.update(bar, completed=fraction)

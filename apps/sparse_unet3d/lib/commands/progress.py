"""Shows on the terminal how far work is, and the time that is left."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn


def bars(console: Console) -> Progress:
    """Return a display of bars, each with what is done, how much of it in percent, and the time that is left."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def show_step(progress: Progress, bar: TaskID, what: str, fraction: float) -> None:
    """Show what is done at the moment and the fraction done; each step begins an empty bar."""
    if progress.tasks[bar].description != what:
        progress.reset(bar, description=what, total=1, visible=True)
    progress.update(bar, completed=fraction)

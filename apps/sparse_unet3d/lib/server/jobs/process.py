"""What a job's process does: reads the order from its server, works, and says how that ended."""

import contextlib
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypedDict

from lib.core.device.machine import is_out_of_memory
from lib.core.errors import InputError, Stopped
from lib.core.model.folder import ModelFolder
from lib.core.orphan import outlive_parent
from lib.server.stopping import raise_if_stopping

from .latest_training import LatestTraining
from .ranks import started, train
from .watch import Watch

logger = logging.getLogger(__name__)

FORMAT = "[%(asctime)s] [%(process)s] [%(threadName)s] [%(levelname)s] (%(name)s:%(lineno)d) - %(message)s"


METHODS = {"train": "training", "scoring": "scoring", "batch_infer": "batch inference"}
"""The kinds of jobs, and what to call them."""


class Order(TypedDict):
    """What the server writes to the standard input.

    Attributes:
        id: of the job.
        method: one of ``METHODS``.
        request: for the app's method of that name.
        server: number of the server's process.
        models: folder of the project's models.
        processes: how many processes train, this one included.
    """

    id: str
    method: str
    request: dict[str, Any]
    server: int
    models: str
    processes: int


class Outcome(TypedDict):
    """What the process writes to the standard output before it ends.

    Attributes:
        status: ``DONE``, ``STOPPED`` or ``ERROR``.
        message: why it failed, for people; else empty.
        result: what the app's method returned.
    """

    status: str
    message: str
    result: Any


def main() -> NoReturn:
    """Work, and end the process. The log goes to the standard error, that of a training also into its folder."""
    text = sys.stdin.read()
    if not text:
        # The server has ended since it started this process, and didn't record it.
        sys.exit(1)
    order: Order = json.loads(text)
    with _channel() as channel:
        latest = LatestTraining(ModelFolder(order["models"])) if order["method"] == "train" else None
        _log(latest.log if latest else None)
        Watch(order["server"], (latest, order["id"]) if latest else None)
        ending = threading.Lock()

        def end(outcome: Outcome) -> NoReturn:
            # The first one counts.
            with ending:
                with contextlib.suppress(OSError, InputError):
                    if latest:
                        latest.end(order["id"], outcome["status"], outcome["message"])
                # There may be no server any more.
                with contextlib.suppress(OSError):
                    json.dump(outcome, channel, default=str)
                    channel.flush()
                logging.shutdown()
                # Tidying up the interpreter takes seconds, and there is nothing left to tidy up.
                os._exit(int(outcome["status"] == "ERROR"))

        end(_outcome(order, lambda message: end(_failed(message))))


def _failed(message: str) -> Outcome:
    return {"status": "ERROR", "message": message, "result": None}


def _outcome(order: Order, fail: Callable[[str], NoReturn]) -> Outcome:
    what = METHODS[order["method"]]
    try:
        result = _work(order, fail)
    except (Stopped, KeyboardInterrupt):
        logger.info("Stopped")
        return {"status": "STOPPED", "message": "", "result": None}
    except InputError as error:
        logger.error(error)
        return _failed(str(error))
    except SystemExit as error:
        return _failed(str(error).strip())
    except BaseException as error:
        logger.exception("%s has failed", what.capitalize())
        if is_out_of_memory(error):
            return _failed(
                f"{what} has failed: memory is short ({type(error).__name__}: {error}); close other programs, or train "
                "with a smaller --conf width; the server's log says more"
            )
        return _failed(f"{what} has failed ({type(error).__name__}: {error}); the server's log says more")
    return {"status": "DONE", "message": "", "result": result}


def _work(order: Order, fail: Callable[[str], NoReturn]) -> Any:
    if order["method"] == "train":
        raise_if_stopping()
        with started(order["processes"], order["request"], fail) as ranks:
            outlive_parent()
            return train(ranks, order["request"])
    # These take seconds to import; by now the process is watched.
    from monailabel.interfaces.utils.app import app_instance

    raise_if_stopping()
    app = app_instance()
    outlive_parent()
    raise_if_stopping()
    works: dict[str, Callable[[dict[str, Any]], Any]] = {
        "scoring": app.scoring,
        "batch_infer": app.batch_infer,
    }
    return works[order["method"]](order["request"])


@contextlib.contextmanager
def _channel() -> Iterator[TextIO]:
    """Keep the standard output for the outcome: whatever else is printed goes to the log."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as channel:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        yield channel


def _log(file: Path | None) -> None:
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if file:
        with contextlib.suppress(OSError):
            handlers.append(_LogFile(file, mode="w", encoding="utf-8"))
    logging.basicConfig(level=logging.INFO, format=FORMAT, handlers=handlers)


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Go on without the file: on a full disk, the traceback would fill the other log."""

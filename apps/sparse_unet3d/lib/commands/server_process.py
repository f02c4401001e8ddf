"""A MONAI Label server of one's own, for as long as it is needed."""

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException

from .errors import ServerError

APP = Path(__file__).parents[2]
STOP_SECONDS = 20
"""After so long a server that was told to stop is killed. Nothing is lost: it stores before it answers."""
TAIL_LINES = 25


@contextmanager
def running_server(
    studies: Path, conf: Mapping[str, str], log: Path, downloads: Path, app: Path = APP
) -> Iterator[MONAILabelClient]:
    """Start a server on 127.0.0.1 at a free port; stop it, and all that it started, however the block ends.

    Args:
        studies: folder that it serves.
        conf: its ``--conf`` options.
        log: file for what it prints.
        downloads: folder where the client puts what it receives.
        app: folder of the MONAI Label app.

    Yields:
        A client of the server, which answers by now.

    Raises:
        ServerError: it does not start, stops by itself or answers a request in the block with an error.
    """
    port = _free_port()
    command = [sys.executable, "-m", "monailabel.main", "start_server"]
    command += ["--app", str(app), "--studies", str(studies), "--host", "127.0.0.1", "--port", str(port)]
    for key, value in conf.items():
        command += ["--conf", key, value]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as output:
        # A session of its own: Ctrl-C reaches this process alone, which then stops the server in order.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            client = MONAILabelClient(f"http://127.0.0.1:{port}", tmpdir=str(downloads))
            _wait_until_it_answers(client, process)
            yield client
        except MONAILabelClientException as error:
            raise ServerError(f"The server answered with an error. {error.msg}\n{_tail(log)}") from error
        except (ConnectionError, http.client.HTTPException) as error:
            raise ServerError(f"The server does not answer ({error!r}).\n{_tail(log)}") from error
        except ServerError as error:
            raise ServerError(f"{error}\n{_tail(log)}") from error
        finally:
            _stop(process)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def _wait_until_it_answers(client: MONAILabelClient, process: "subprocess.Popen[bytes]") -> None:
    # As long as its process lives, however slow the computer is.
    while process.poll() is None:
        with suppress(ConnectionError):
            client.info()
            return
        time.sleep(0.5)
    raise ServerError(f"The server stopped while it was starting (exit code {process.returncode}).")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    # Training runs in a process of its own, which outlives a server that is merely told to stop.
    children = []
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    while any(_is_running(child) for child in children):
        time.sleep(0.1)


def _is_running(process: psutil.Process) -> bool:
    # A zombie does nothing any more; whose child it is may never ask for it.
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([f"The end of its log ({log}):", *(f"  {line}" for line in lines[-TAIL_LINES:])])

"""A MONAI Label server that runs for the length of a block."""

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
STOP_SECONDS = 40
"""Time that a server has to stop before it is killed. Nothing is lost, because it stores before it answers."""
TAIL_LINES = 25


@contextmanager
def running_server(
    studies: Path, conf: Mapping[str, str], log: Path, downloads: Path, app: Path = APP
) -> Iterator[MONAILabelClient]:
    """Start a server on a free port of 127.0.0.1; stop it and all its processes when the block ends, even by an error.

    Args:
        studies: folder that the server serves.
        conf: its ``--conf`` options.
        log: file for its output.
        downloads: folder for what the client receives.
        app: folder of the MONAI Label app.

    Yields:
        A client of the server, once the server answers requests.

    Raises:
        ServerError: the server doesn't start, stops early, or answers a request in the block with an error.
    """
    port = _free_port()
    command = [sys.executable, "-m", "monailabel.main", "start_server"]
    command += ["--app", str(app), "--studies", str(studies), "--host", "127.0.0.1", "--port", str(port)]
    for key, value in conf.items():
        command += ["--conf", key, value]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as output:
        # Ctrl-C doesn't reach a server in its own session; ``_stop`` ends it properly.
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
    # There is no time limit, because a slow computer may take long; a server that fails ends its process.
    while process.poll() is None:
        with suppress(ConnectionError):
            client.info()
            return
        time.sleep(0.5)
    raise ServerError(f"The server stopped while it was starting (exit code {process.returncode}).")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    # Training runs in its own process, which would outlive the server if only the server were told to stop.
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
    # A zombie has ended; its parent may never collect it.
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([f"The end of its log ({log}):", *(f"  {line}" for line in lines[-TAIL_LINES:])])

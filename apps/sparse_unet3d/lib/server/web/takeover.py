"""Puts the app's own web application in the place of MONAI Label's, in one process, and warns about what is open."""

import argparse
import logging
import multiprocessing
import os
import sys
from contextlib import suppress
from ipaddress import ip_address

import psutil
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI

from lib.core.errors import InputError

from .limits import THREADS
from .users import Users

logger = logging.getLogger(__name__)


def require_one_process() -> None:
    """Refuse to be one of several server processes, each of which would have its own sessions and jobs.

    Raises:
        InputError: this is one of several; the others end too.
    """
    if multiprocessing.parent_process() is None:
        return
    # It would start another process in place of this one, again and again.
    with suppress(psutil.Error):
        psutil.Process(os.getppid()).terminate()
    raise InputError(
        "--workers or the variable WEB_CONCURRENCY asks for several server processes; leave both out. One process "
        "answers many requests at a time"
    )


def answer_with(web: FastAPI) -> None:
    """Answer all requests by ``web`` from now on.

    MONAI Label's server makes its web application before it makes the app, and has no hook for another. Only the
    server's event loop may call this.
    """
    # Importing it makes an application, which only a server needs.
    from monailabel.app import app

    app.middleware_stack = web
    current_default_thread_limiter().total_tokens = THREADS


def warn_if_open(users: Users, arguments: list[str] | None = None) -> None:
    """Warn if others in the network can reach the server, and anybody may use it or listen.

    Args:
        users: who may use the server.
        arguments: of ``monailabel start_server``; None: those of this process.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-i", "--host", default="0.0.0.0")
    parser.add_argument("--ssl_certfile")
    given, _ = parser.parse_known_args(sys.argv[1:] if arguments is None else arguments)
    if _is_loopback(given.host):
        return
    if not users.exist():
        logger.warning(
            "!!! EVERYBODY WHO REACHES THIS COMPUTER BY THE NETWORK CAN READ AND CHANGE ALL IMAGES AND ANNOTATIONS. "
            "Serve this computer alone (--host 127.0.0.1), or add users: python apps/sparse_unet3d users add NAME. "
            "See docs/deployment.md"
        )
    if not given.ssl_certfile:
        logger.warning(
            "!!! Passwords, images and annotations go through the network unencrypted. Give a certificate "
            "(--ssl_keyfile, --ssl_certfile) or put a proxy with TLS before the server. See docs/deployment.md"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""Carries out the Dockerfile's lines without Docker, and tries the server that they start.

A scratch folder holds the image's folders, and a new environment is its Python. Everything else is done as the
Dockerfile says: RUN lines by ``sh``, COPY lines as .dockerignore allows. As root on Linux, the server runs as another
user.

usage: .venv/bin/python .ci/dockerfile.py [VARIANT=gpu]
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import requests
from nibabel import Nifti1Image

PROJECT = Path(__file__).resolve().parents[1]
PATIENCE = 300
"""Seconds after which the server counts as hanging."""
STOPPING = 10
"""Seconds that ``docker stop`` waits before it kills."""
STRANGER = 54321
"""A user without a name, as in ``docker run --user``."""


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions, each as its name and the rest."""
    lines = [line for line in (PROJECT / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines())]


def is_ignored(path: Path) -> bool:
    """Tell whether .dockerignore keeps a path out: the last pattern that matches it or one of its parents decides."""
    ignored = False
    for line in (PROJECT / ".dockerignore").read_text().splitlines():
        pattern = re.escape(line.lstrip("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if not line.startswith("#") and any(re.fullmatch(pattern, one.as_posix()) for one in (path, *path.parents)):
            ignored = not line.startswith("!")
    return ignored


class Image:
    """What the instructions make: folders in a scratch folder, and how to start, reach and check the server."""

    def __init__(self, root: Path, arguments: dict[str, str]) -> None:
        self.root, self.arguments = root, arguments
        self.home, self.python = root / "root", root / "python"
        self.environment = {**os.environ, "HOME": str(self.home), "PATH": f"{self.python}/bin:{os.environ['PATH']}"}
        self.folder = root
        self.user = "root"
        steps = instructions()
        # The image's folders outside of its base
        folders = [rest for name, rest in steps if name in ("WORKDIR", "VOLUME")]
        self._own = re.compile(rf"(?<![\w./])(?={'|'.join(map(re.escape, folders))})")
        for name, rest in steps:
            print(f"--- {name} {rest}", flush=True)
            self._carry_out(name, rest)

    def inside(self, text: str) -> str:
        """Replace the image's folders by those in the scratch folder."""
        return self._own.sub(str(self.root), text)

    def _carry_out(self, name: str, rest: str) -> None:
        match name:
            case "FROM":
                self._from(rest)
            case "ARG":
                argument, default = rest.split("=", 1)
                self.environment[argument] = self.arguments.get(argument, default)
            case "WORKDIR":
                self.folder = Path(self.inside(rest))
                self.folder.mkdir(parents=True)
            case "COPY":
                self._copy(*rest.split())
            case "RUN":
                subprocess.run(["sh", "-c", self.inside(rest)], cwd=self.folder, env=self.environment, check=True)
                assert not (self.home / ".cache").exists(), "a cache would stay in the image"
            case "ENV":
                self.environment |= dict(word.split("=", 1) for word in shlex.split(self.inside(rest)))
            case "VOLUME":
                self.volume = Path(self.inside(rest))
            case "USER":
                self.user = rest
            case "EXPOSE":
                self.port = rest
            case "HEALTHCHECK":
                self.health = self._words(rest.split("CMD", 1)[1])
            case "ENTRYPOINT":
                self.entrypoint = self._words(rest)
            case _:
                sys.exit(f"{name}: not known here")

    def _words(self, command: str) -> list[str]:
        """Return a command that is given as a list; one that is given as text would keep signals from the server."""
        return [self.inside(word) for word in json.loads(command)]

    def _from(self, base: str) -> None:
        found = re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim-\w+", base)
        assert found, f"{base}: not a Python with three numbers"
        running = f"{sys.version_info.major}.{sys.version_info.minor}"
        if found[1] != running:
            print(f"The image has Python {found[1]}. This is tried with {running}.")
        subprocess.run([sys.executable, "-m", "venv", self.python], check=True)
        self.home.mkdir()

    def _copy(self, source: str, target: str) -> None:
        origin = PROJECT / source
        for file in [origin] if origin.is_file() else origin.rglob("*"):
            if file.is_file() and not is_ignored(file.relative_to(PROJECT)):
                to = self.folder / target / (file.name if file == origin else file.relative_to(origin))
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, to)


def as_stranger() -> list[str]:
    """Return what starts a command as a user who may write only what everybody may.

    The user may read everything, as the environment's Python may lie in another user's home.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        print("Not root on Linux: the server runs as you.")
        return []
    ids = [f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]
    return ["setpriv", *ids, "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]


def try_server(image: Image) -> None:
    """Start the server on another port, ask it, write to it, and stop it as ``docker stop`` does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def moved(command: list[str]) -> list[str]:
        assert image.port in command, command
        return [*prefix, *(port if word == image.port else word for word in command)]

    def is_healthy() -> bool:
        done = subprocess.run(moved(image.health), cwd=image.folder, env=image.environment, capture_output=True)
        return done.returncode == 0

    assert image.user.split(":")[0] not in ("root", "0"), "the image's user is root"
    prefix = as_stranger()
    assert not is_healthy(), "healthy without a server"
    with subprocess.Popen(moved(image.entrypoint), cwd=image.folder, env=image.environment) as server:
        try:
            end = time.monotonic() + PATIENCE
            while not is_healthy():
                assert server.poll() is None, f"the server ended with code {server.returncode}"
                assert time.monotonic() < end, "the server hangs"
                time.sleep(1)
            url = f"http://127.0.0.1:{port}"
            assert "sparse_unet3d" in requests.get(f"{url}/info/", timeout=PATIENCE).json()["trainers"]
            image_file = {"file": ("a.nii", Nifti1Image(np.ones((8, 8, 8), np.uint8), np.eye(4)).to_bytes())}
            requests.put(f"{url}/datastore/image?image=a", files=image_file, timeout=PATIENCE).raise_for_status()
            assert (image.volume / "a.nii").is_file(), "the image that was sent isn't in the volume"
            server.terminate()
            server.wait(STOPPING)
        finally:
            server.kill()
    assert not is_healthy(), "healthy after its end"


def main() -> None:
    """Make the image's folders, and try them."""
    # Whoever ends this ends the server too, and removes the scratch folder.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        try_server(Image(root, dict(word.split("=", 1) for word in sys.argv[1:])))
    print("The Dockerfile's steps work outside Docker.")


if __name__ == "__main__":
    main()

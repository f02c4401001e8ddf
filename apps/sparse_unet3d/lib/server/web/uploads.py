"""Files that clients send: kept for as long as a request takes."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import Request, Response, UploadFile
from fastapi.routing import APIRoute
from starlette._utils import AwaitableOrContextManager
from starlette.datastructures import FormData

from lib.core.errors import InputError
from lib.core.volumes.formats import FORMATS, SEGMENTATION, split_ending

MOST_FILES, MOST_FIELDS, LONGEST_FIELD = 2, 20, 2**20
"""Files, other fields, and bytes of a field in one form."""


class _FormRequest(Request):
    def form(self, **_: Any) -> AwaitableOrContextManager[FormData]:
        return super().form(max_files=MOST_FILES, max_fields=MOST_FIELDS, max_part_size=LONGEST_FIELD)


class FormRoute(APIRoute):
    """A route whose form has no more and no longer fields than any client sends."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """Return the handler, which reads forms with limits."""
        handler = super().get_route_handler()

        async def limited(request: Request) -> Response:
            response: Response = await handler(_FormRequest(request.scope, request.receive))
            return response

        return limited


def sent_name(upload: UploadFile) -> str:
    """Return the name of an uploaded file, without folders: MONAI Label's client sends its whole path."""
    return os.path.basename((upload.filename or "").replace("\\", "/"))


@contextmanager
def received(upload: UploadFile, what: str) -> Iterator[str]:
    """Keep an uploaded file under a name with its ending, which says how to read it.

    Args:
        upload: the file.
        what: what to call it in messages, e.g. ``label``.

    Yields:
        Its path, until the block ends.

    Raises:
        InputError: unknown ending, or a format of more than one file.
    """
    name = sent_name(upload)
    ending = split_ending(name)[1]
    known = FORMATS.get(ending.lower().removeprefix(SEGMENTATION))
    if known is None or not known.is_one_file:
        single = ", ".join(ending for ending, known in FORMATS.items() if known.is_one_file)
        why = " and takes more than this file" if known else ""
        raise InputError(f"{what}: the file is named {name[-100:]!r}{why}; send one that ends in {single}")
    with tempfile.TemporaryDirectory(prefix="upload-") as folder:
        path = os.path.join(folder, f"{what}{ending}")
        with open(path, "wb") as file:
            shutil.copyfileobj(upload.file, file, 2**20)
        yield path

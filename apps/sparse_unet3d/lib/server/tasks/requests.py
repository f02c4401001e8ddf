"""Checks requests that run in their own process, before that process starts."""

from typing import Any

import monailabel.endpoints.batch_infer
import monailabel.endpoints.scoring
import monailabel.endpoints.train
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.async_tasks.task import AsyncTask

from lib.server.slicer.replies import errors_for_clients


class CheckedTask(AsyncTask):
    """Starts the process of a training, scoring or batch request unless the app's ``check_request`` refuses it."""

    @staticmethod
    @errors_for_clients()
    def run(method: str, request: Any = None, params: Any = None, **kwargs: Any) -> Any:
        known = app_instance().check_request(method, {**(request or {}), **(params or {})})
        started, detail = AsyncTask.run(method, request=request, params=params, **kwargs)
        return {**started, "check": known} if started and known else started, detail


def check_requests() -> None:
    """Make MONAI Label check requests first.

    MONAI Label has no hook for this. Without the check, it answers POST /train with 200, and the new process fails
    seconds later, unseen by the annotator.
    """
    for endpoint in (monailabel.endpoints.train, monailabel.endpoints.batch_infer, monailabel.endpoints.scoring):
        endpoint.AsyncTask = CheckedTask

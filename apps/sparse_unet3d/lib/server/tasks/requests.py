"""Checks requests that run in their own process, before that process starts."""

from typing import Any

from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.async_tasks.task import AsyncTask


class CheckedTask(AsyncTask):
    """Starts the process of a training, scoring or batch request unless the app's ``check_request`` refuses it."""

    @staticmethod
    def run(method: str, request: Any = None, params: Any = None, **kwargs: Any) -> Any:
        known = app_instance().check_request(method, {**(request or {}), **(params or {})})
        started, detail = AsyncTask.run(method, request=request, params=params, **kwargs)
        return {**started, "check": known} if started and known else started, detail

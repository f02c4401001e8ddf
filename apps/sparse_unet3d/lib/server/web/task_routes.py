"""Routes of what the server does on request: choose images, segment, train and score."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Form, Query, Request, Response, UploadFile
from fastapi.responses import FileResponse, JSONResponse
from monailabel.interfaces.tasks.batch_infer import BatchInferImageType
from requests_toolbelt import MultipartEncoder
from starlette.background import BackgroundTask

from lib.core.errors import InputError
from lib.server.slicer.replies import not_found

from .access import Access
from .label_app import LabelApp
from .requests import BatchRequest, InferParams, Name, SampleRequest, ScoringRequest, Text, TrainRequest, parse_params
from .sessions import Sessions
from .uploads import FormRoute, received

OutputType = Literal["image", "json", "all"]


def task_routes(app: LabelApp, access: Access, sessions: Sessions) -> APIRouter:
    """Return the routes of tasks that answer at once."""
    router = APIRouter(route_class=FormRoute)
    user = Depends(access.user)

    @router.get("/info/", tags=["App"], summary="What the server offers, and its state", dependencies=[user])
    def info() -> JSONResponse:
        return JSONResponse(app.info())

    @router.post("/activelearning/{strategy}", tags=["Active learning"], summary="Choose the next image")
    def next_sample(
        strategy: Name, request: Request, options: SampleRequest | None = None, name: str | None = user
    ) -> JSONResponse:
        given = options.given() if options else {}
        sample = app.next_sample({**given, "strategy": strategy})
        if not sample:
            return JSONResponse({})
        store = app.datastore()
        store.note_offer(sample["id"], strategy, name or given.get("client_id"))
        access.let_download(request, sample["id"])
        return JSONResponse({**store.get_image_info(sample["id"]), **sample})

    @router.post("/infer/{model}", tags=["Infer"], summary="Run a model on an image", dependencies=[user])
    def infer(
        model: Name,
        image: Annotated[Text, Query()] = "",
        session_id: Annotated[Text, Query()] = "",
        output: OutputType = "all",
        params: Annotated[str, Form()] = "{}",
        file: UploadFile | None = None,
    ) -> Response:
        given = parse_params(InferParams, params).given()
        with _image(image, session_id, file, sessions) as source:
            result = app.infer({**given, **source, "model": model})
        return _reply(result, output)

    @router.get("/model/{model}", tags=["Model"], summary="Download the published model", dependencies=[user])
    def model_file(model: Name) -> FileResponse:
        path = app.model_file(model)
        if not path or not os.path.isfile(path):
            not_found(f"no model {model!r} is published")
        return FileResponse(path, filename=f"{model}{os.path.splitext(path)[1]}")

    @router.get("/model/info/{model}", tags=["Model"], summary="Its checksum and time", dependencies=[user])
    def model_info(model: Name) -> JSONResponse:
        return JSONResponse(app.model_info(model) or not_found(f"no model {model!r} is published"))

    return router


def job_routes(app: LabelApp, access: Access) -> APIRouter:
    """Return the routes of jobs that run in a process of their own."""
    router = APIRouter(dependencies=[Depends(access.user)])

    @router.post("/train/", tags=["Train"], summary="Train all models")
    def train_all(options: dict[str, TrainRequest] | None = None) -> JSONResponse:
        given, models = options or {}, app.info()["trainers"]
        for model in given:
            if model not in models:
                not_found(f"there is no model {model!r} to train; known: {', '.join(models)}")
        jobs = {model: start("train", given.get(model), model=model) for model in models}
        return JSONResponse({model: {"result": job, "detail": None} for model, job in jobs.items()})

    @router.post("/train/{model}", tags=["Train"], summary="Train a model")
    def train(model: Name, options: TrainRequest | None = None) -> JSONResponse:
        return JSONResponse(start("train", options, model=model))

    @router.post("/scoring/{method}", tags=["Scoring"], summary="Compare predictions with annotations")
    def score(method: Name, options: ScoringRequest | None = None) -> JSONResponse:
        return JSONResponse(start("scoring", options, method=method))

    @router.post("/batch/infer/{model}", tags=["Batch"], summary="Segment many images")
    def segment(
        model: Name,
        images: BatchInferImageType = BatchInferImageType.IMAGES_ALL,
        options: BatchRequest | None = None,
    ) -> JSONResponse:
        return JSONResponse(start("batch_infer", options, model=model, images=images.value))

    def start(
        job: str, options: TrainRequest | ScoringRequest | BatchRequest | None, **request: str
    ) -> Mapping[str, Any]:
        return app.start_job(job, {**(options.given() if options else {}), **request})

    for path, job in (("/train/", "train"), ("/scoring/", "scoring"), ("/batch/infer", "batch_infer")):
        _add_state_routes(router, app, path, job)
    return router


def _add_state_routes(router: APIRouter, app: LabelApp, path: str, job: str) -> None:
    @router.get(path, tags=[job], summary=f"State of the latest {job}")
    def state(all: bool = False, check_if_running: bool = False) -> JSONResponse:
        return JSONResponse(app.job(job, all, check_if_running))

    @router.delete(path, tags=[job], summary=f"Stop the running {job}")
    def stop() -> JSONResponse:
        return JSONResponse(app.stop_job(job))


@contextmanager
def _image(image: str, session_id: str, file: UploadFile | None, sessions: Sessions) -> Iterator[dict[str, str]]:
    """Yield which image a request is about: its name in the datastore, or a file that came with the request."""
    if session_id:
        with sessions.using(session_id) as path:
            yield {"image_file": path}
    elif file:
        with received(file, "image") as path:
            yield {"image_file": path}
    elif image:
        yield {"image": image}
    else:
        raise InputError("image: none is named; give the name of an image in the datastore")


def _reply(result: Mapping[str, Any], output: OutputType) -> Response:
    """Send the result's file, its description, or both, as MONAI Label does; the file is removed then."""
    path, params = result["file"], result["params"]
    if output == "image":
        return FileResponse(path, filename=os.path.basename(path), background=BackgroundTask(os.remove, path))
    try:
        if output == "json":
            return JSONResponse(params)
        with open(path, "rb") as file:
            form = MultipartEncoder(
                {
                    "params": (None, json.dumps(params), "application/json"),
                    "image": (os.path.basename(path), file, "application/octet-stream"),
                }
            )
            return Response(form.to_string(), media_type=form.content_type)
    finally:
        os.remove(path)

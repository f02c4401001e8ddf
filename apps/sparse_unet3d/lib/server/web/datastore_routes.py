"""Routes of the datastore: images, labels, and what is known of them."""

import os
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Form, Query, UploadFile
from fastapi.responses import FileResponse, JSONResponse
from starlette.background import BackgroundTask

from lib.core.volumes.formats import split_ending
from lib.server.slicer.replies import not_found
from lib.server.store.annotations import FINAL

from .access import Access
from .label_app import LabelApp
from .requests import LARGEST_NUMBER, ImageParams, Name, SubmitParams, Text, parse_name, parse_params
from .uploads import FormRoute, received, sent_name


def datastore_routes(app: LabelApp, access: Access) -> APIRouter:
    """Return the routes below ``/datastore``."""
    router = APIRouter(prefix="/datastore", tags=["Datastore"], route_class=FormRoute)
    user = Depends(access.user)

    @router.get("/", summary="Images and labels", dependencies=[user])
    def index(output: Literal["stats", "train", "all"] = "stats") -> JSONResponse:
        store = app.datastore()
        return JSONResponse({"stats": store.status, "train": store.datalist, "all": store.json}[output]())

    @router.put("/", include_in_schema=False)
    @router.put("/image", summary="Upload an image")
    def add_image(
        file: UploadFile,
        image: Annotated[Text, Query()] = "",
        params: Annotated[str, Form()] = "{}",
        name: str | None = user,
    ) -> JSONResponse:
        client_id = name or parse_params(ImageParams, params).client_id
        with received(file, "image") as path:
            # Without a name of its own, an image is called as its file.
            image_id = image or parse_name(split_ending(sent_name(file))[0])
            stored = app.datastore().add_image(image_id, path, {"client_id": client_id} if client_id else {})
        return JSONResponse({"image": stored})

    @router.get("/image", summary="Download an image", dependencies=[Depends(access.viewer)])
    def image_file(image: Annotated[Name, Query()]) -> FileResponse:
        store, missing = app.datastore(), f"there is no image {image!r} in the datastore"
        return _file(str(store.path_for_slicer(image)) if store.get_image_uri(image) else "", missing)

    @router.get("/image/info", summary="What is known of an image", dependencies=[user])
    def image_info(image: Annotated[Name, Query()]) -> JSONResponse:
        return JSONResponse(app.datastore().get_image_info(image))

    @router.put("/label", summary="Submit a label")
    def save_label(
        label: UploadFile,
        image: Annotated[Name, Query()],
        tag: Annotated[Text, Query()] = FINAL,
        params: Annotated[str, Form()] = "{}",
        name: str | None = user,
    ) -> JSONResponse:
        given = parse_params(SubmitParams, params).given()
        if name:
            given["client_id"] = name
        with received(label, "label") as path:
            stored = app.datastore().save_label(image, path, tag or FINAL, given)
        return JSONResponse({**app.on_save_label(image, stored), "image": image, "label": stored})

    @router.get("/label", summary="Download a label", dependencies=[user])
    def label_file(label: Annotated[Name, Query()], tag: Annotated[Name, Query()]) -> FileResponse:
        return _file(app.datastore().get_label_uri(label, tag), f"image {label!r} has no label {tag!r}")

    @router.get("/label/info", summary="What is known of a label", dependencies=[user])
    def label_info(label: Annotated[Name, Query()], tag: Annotated[Name, Query()]) -> JSONResponse:
        return JSONResponse(app.datastore().get_label_info(label, tag))

    @router.get("/dataset", summary="Download the annotated images and their annotations as a ZIP file")
    def dataset(
        limit_cases: Annotated[int | None, Query(ge=1, le=LARGEST_NUMBER)] = None, name: str | None = user
    ) -> FileResponse:
        path = app.datastore().get_dataset_archive(limit_cases)
        return FileResponse(path, filename="dataset.zip", background=BackgroundTask(os.remove, path))

    return router


def _file(path: str, missing: str) -> FileResponse:
    """Send a file; 404 if there is none."""
    if not path or not os.path.isfile(path):
        not_found(missing)
    return FileResponse(path, filename=os.path.basename(path))

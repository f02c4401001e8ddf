"""The web application that answers every request to the server, in place of MONAI Label's own."""

import html
from collections.abc import Iterable, Iterator, Sequence

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.dependencies.models import Dependant
from fastapi.middleware import Middleware
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse

from .access import Access, LoginFirst, login_routes
from .datastore_routes import datastore_routes
from .errors import add_error_replies
from .guard import KnownHosts, SameOrigin, own_names
from .label_app import LabelApp
from .limits import BodyLimits, Crowd
from .sessions import Sessions, session_routes
from .task_routes import job_routes, task_routes
from .users import Users


def web_application(
    app: LabelApp, users: Users, hosts: Iterable[str] = (), origins: Sequence[str] = (), largest_upload: int = 2**32
) -> FastAPI:
    """Return the application.

    It has the requests that 3D Slicer's plugin, MONAI Label's client and the guide use, and no others. MONAI Label's
    own application has more, with which any client could run code and remove models, and answers one at a time.

    Args:
        app: does the work.
        users: who may use the server.
        hosts: names by which clients reach the server, besides those of this computer.
        origins: sites whose pages may use the server, e.g. ``https://viewer.example.org``.
        largest_upload: bytes of the largest file that clients may send.
    """
    access, sessions = Access(users), Sessions()
    middleware = [
        # By its host's name, a page of another site could pass for one of this server (DNS rebinding).
        Middleware(KnownHosts, names=[*own_names(), *hosts]),
        Middleware(SameOrigin, origins=origins),
        Middleware(LoginFirst, access=access),
        Middleware(Crowd),
        Middleware(BodyLimits, largest_upload=largest_upload),
    ]
    if origins:
        middleware.insert(
            1, Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["authorization"])
        )
    web = FastAPI(
        title="Sparse U-Net for 3D Slicer",
        docs_url=None,
        redoc_url=None,
        middleware=middleware,
        dependencies=[Depends(_refuse_unknown_options)],
    )
    for router in (
        login_routes(access),
        task_routes(app, access, sessions),
        job_routes(app, access),
        datastore_routes(app, access),
        session_routes(sessions, access),
    ):
        web.include_router(router)
    add_error_replies(web)

    @web.get("/", include_in_schema=False)
    def home() -> HTMLResponse:
        return HTMLResponse(_home_page(web))

    return web


def _refuse_unknown_options(request: Request) -> None:
    """Refuse options in the address that a request doesn't have: a misspelt one would do nothing, unseen."""
    route = request.scope["route"]
    known = set(_query_options(route.dependant))
    if unknown := sorted(set(request.query_params) - known):
        names = ", ".join(ascii(name[:50]) for name in unknown[:3])
        raise HTTPException(422, f"{names}: no option of this request; it has {', '.join(sorted(known)) or 'none'}")


def _query_options(dependant: Dependant) -> Iterator[str]:
    yield from (field.alias for field in dependant.query_params)
    for other in dependant.dependencies:
        yield from _query_options(other)


def _home_page(web: FastAPI) -> str:
    """Return what a browser shows at the server's address: what to do, and the list of requests."""
    rows = "".join(
        f"<tr><td><code>{method.upper()} {html.escape(path)}</code></td><td>{html.escape(request['summary'])}</td></tr>"
        for path, methods in web.openapi()["paths"].items()
        for method, request in methods.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Sparse U-Net for 3D Slicer</title>'
        "<style>:root{color-scheme:light dark}body{font:1rem system-ui;max-width:50rem;margin:2rem auto;padding:0 1rem}"
        "td{padding:.15rem 1rem .15rem 0}</style></head><body><h1>Sparse U-Net for 3D Slicer</h1>"
        "<p>The server is running. Open 3D Slicer, choose the module <b>MONAILabel</b>, and type the address of this "
        f"page into <i>MONAI Label server</i>.</p><h2>Requests</h2><table>{rows}</table></body></html>"
    )

"""A page on this machine: drop pictures on it, see the answers. For colleagues who type no commands.

Nobody else is let in: it listens on the loopback by default; a request must name this machine (a page elsewhere that
rebinds its name to 127.0.0.1 cannot), and come from the page itself. What is dropped passes the same checks as files.
"""

import asyncio
import ipaddress
import socket
import tempfile
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from rolltune.data.asked import picture_row, read_asked
from rolltune.errors import UserError, visible
from rolltune.evaluation import predicted
from rolltune.jobs.adopted import read_rolls
from rolltune.jobs.predict import Options, Predictor
from rolltune.jobs.serve_page import PAGE, SCRIPT, STYLE

MOST_FILES = 32  # at once
MOST_BYTES = 128 * 2**20  # of all files at once
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
Say = Callable[[str], None]
Message = MutableMapping[str, Any]


def serve(rolls: Sequence[Path], options: Options, host: str, port: int, say: Say) -> int:
    """Loads the rolls and answers until Ctrl-C. Raises UserError where the address cannot be listened on."""
    saved, arrays = read_rolls(rolls, options.asking, ())
    listening = listen(host, port)  # before the model is loaded: a taken port is told at once
    try:
        app = application(Predictor(saved, options, arrays), " + ".join(path.stem for path in rolls))
        address = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        port = listening.getsockname()[1]
        say(f"open http://{f'[{address}]' if ':' in address else address}:{port}/ in a browser; Ctrl-C ends this")
        if not is_loopback(host):
            say(f"--host {host}: whoever reaches this machine can use the page; nothing on it is encrypted")
        config = uvicorn.Config(app, log_level="warning", server_header=False, access_log=False)
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        listening.close()
    return 0


def listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--host {host} --port {port}: {reason}; name another port, or 0 for any that is free"
        ) from error


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def application(predictor: Predictor, name: str) -> "Guarded":
    """The page, and what it asks: POST /answers with files gives a list, an object a file, in their order."""
    one_at_a_time = asyncio.Lock()
    needs_question = any(not card.prompt for card in predictor.cards)

    async def page(request: Request) -> Response:
        return HTMLResponse(PAGE)

    async def about(request: Request) -> Response:
        told = {"roll": visible(name), "files": MOST_FILES, "bytes": MOST_BYTES, "asks": needs_question}
        return JSONResponse(told | {"prompt": next((card.prompt for card in predictor.cards if card.prompt), "")})

    async def answers(request: Request) -> Response:
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            raise HTTPException(411, "the request does not say how long it is")
        if int(length) > MOST_BYTES:  # no more than that is read: the server holds a request to its word
            raise HTTPException(413, f"{MOST_BYTES >> 20} MiB at once are the most: drop fewer pictures")
        with tempfile.TemporaryDirectory(prefix="rolltune-") as folder:
            async with request.form(max_files=MOST_FILES, max_fields=1) as form:
                sent = [one for _, one in form.multi_items() if not isinstance(one, str)]
                question = form.get("question", "")
                names = [visible(one.filename or "a picture without a name") for one in sent]
                paths = [Path(folder, f"{number}.picture") for number in range(len(sent))]
                for path, one in zip(paths, sent, strict=True):
                    await run_in_threadpool(_keep, one.file, path)
            if not paths:
                raise HTTPException(400, "no picture was sent")
            asked = question.strip() if isinstance(question, str) else ""
            if needs_question and not asked:
                raise HTTPException(400, "type a question first: the roll has none of its own")
            async with one_at_a_time:
                found = await run_in_threadpool(answer_files, predictor, paths, names, asked)
        return JSONResponse(found)

    async def told(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 400
        text = error.detail if isinstance(error, HTTPException) else visible(str(error))
        return JSONResponse({"error": text}, status)

    def asset(text: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
        async def give(request: Request) -> Response:
            return Response(text, media_type=kind)

        return give

    routes = [
        Route("/", page),
        Route("/about", about),
        Route("/page.css", asset(STYLE, "text/css")),
        Route("/page.js", asset(SCRIPT, "text/javascript")),
        Route("/answers", answers, methods=["POST"]),
    ]
    return Guarded(Starlette(routes=routes, exception_handlers={HTTPException: told, UserError: told}))


def answer_files(
    predictor: Predictor, paths: Sequence[Path], names: Sequence[str], question: str = ""
) -> list[dict[str, Any]]:
    """An object a file: {"name", "rows": [{"answer", "probabilities", "near", "threshold", "votes", "boxes"}]}; or
    {"name", "error"}. Boxes are in pixels of the picture as a browser shows it, upright.

    An animation may have several rows, where the roll's frame policy makes them.
    """
    asked = read_asked(paths)  # decodes each: what is no picture is told, and keeps no other from its answer
    good = {example.source for example in asked.examples}
    rows = [picture_row(path, path.as_posix(), question) for path in paths if path.as_posix() in good]
    made = predictor.answer(type(asked)(rows, asked.problems))
    wrong = {problem.where: problem.message for problem in made.problems}
    by_file: dict[str, list[dict[str, Any]]] = {}
    for row in made.rows:
        told = predicted.plain(row)
        by_file.setdefault(row.source, []).append(
            {key: told.get(key) for key in ("answer", "probabilities", "near", "threshold", "votes", "boxes")}
        )
    found = []
    for path, name in zip(paths, names, strict=True):
        place = path.as_posix()
        error = visible(wrong.get(place, "it has no answer").replace(place, "it"))
        found.append({"name": name, "rows": by_file[place]} if place in by_file else {"name": name, "error": error})
    return found


def _keep(file: Any, path: Path) -> None:
    with path.open("wb") as kept:
        while part := file.read(1 << 20):
            kept.write(part)


class Guarded:
    """An application behind its checks: who is asked for, and from where; with the headers that hold the page to it."""

    def __init__(self, inner: Any):
        self.inner = inner

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        if not is_this_machine(host):
            refused = JSONResponse({"error": "this page is asked for by the machine's address, or as localhost"}, 421)
            await refused(scope, receive, sending)
        elif origin is not None and origin != f"http://{host}":
            await JSONResponse({"error": "asked from another page"}, 403)(scope, receive, sending)
        else:
            await self.inner(scope, receive, sending)


def is_this_machine(host: str) -> bool:
    """Whether a Host header names an address in numbers, or a name of this machine that no stranger can have.

    Against DNS rebinding: a stranger's page whose name is made to mean 127.0.0.1 comes with that name.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name in ("localhost", socket.gethostname().lower()):
            return True
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True

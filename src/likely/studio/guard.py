"""What the studio lets in: who may ask, for which pages, and how much.

`Guard` stands before everything else. It refuses, with a sentence: a Host that is not this server's (a foreign name
that was made to point here: DNS rebinding); an Origin that is not the page's own; a request without the token, where
one is needed; any path that the page does not use, such as a web framework's proxies and file readers; bodies that are
too long or too slow. What it lets out carries headers by which a browser loads nothing from anywhere else.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True)
class Limits:
    """How much may be asked for at once."""

    upload: int = 10 << 20
    """Bytes of an uploaded file; an upload of several may have four times as many."""
    files: int = 32
    """Pictures of one upload."""
    n: int = 64
    """Draws."""
    evaluations: int = 500
    """Evaluations of a network for one draw."""
    work: int = 20_000_000
    """Draws times evaluations times dimensions."""
    waiting: int = 24
    """Questions that wait in the queue."""
    body: int = 2 << 20
    """Bytes of any other request."""
    seconds: float = 60.0
    """For a request's body to arrive."""


LIMITS = Limits()


def affordable(n: int, evaluations: int, dims: int, limits: Limits = LIMITS) -> None:
    """Raise `ValueError` for more than may be asked for, before anything is allocated."""
    for name, value, most in (("n", n, limits.n), ("evaluations", evaluations, limits.evaluations)):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise ValueError(f"{name} is {value!r}; the studio accepts 1 .. {most}")
    if n * evaluations * dims > limits.work:
        fits = max(1, limits.work // (evaluations * dims))
        raise ValueError(
            f"{n} draws of {dims} values in {evaluations} evaluations each are more than the studio takes on; "
            f"accepts {fits} draws, or fewer evaluations"
        )


COOKIE = "likely_studio"
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; frame-src 'self'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
]
PAGES = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)"
    r"|/(assets|static|svelte)/[\w.~@+-]+(/[\w.~@+-]+)*"
    r"|/gradio_api/(queue/(join|data)|upload|upload_progress|cancel|reset|startup-events|heartbeat/\w+|info)/?"
)
"""The paths that the page uses; there is nothing else here."""


def loopback(host: str) -> bool:
    """Whether a server bound to this host is seen from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """An ASGI application in front of another. `host` is what the server is bound to; `token` is what visitors must
    bring in the address, once, if not None; `names` are further host names by which the server may be called."""

    def __init__(
        self, app: Any, host: str, token: str | None = None, names: Iterable[str] = (), limits: Limits = LIMITS
    ) -> None:
        if token is None and not loopback(host):
            raise ValueError(f"host is {host}, which others can reach; that takes a token")
        self.app, self.token, self.limits = app, token, limits
        self.exposed = not loopback(host)
        self.names = {"localhost", host.lower(), *(name.lower() for name in names)}
        if self.exposed:
            self.names.add(socket.gethostname().lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:  # nothing here speaks over web sockets
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refused(scope, headers)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        if self.token is not None and not self._known(headers):
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
            if not _same(given, self.token):
                await _answer(
                    send, 401, "open the studio by the address that `likely studio` printed: it has the token"
                )
                return
            cookie = f"{COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path=/"
            extra = [(b"location", b"/"), (b"set-cookie", cookie.encode())]
            await _answer(send, 303, "", extra)  # the token leaves the address bar
            return
        began, sent, size = time.monotonic(), False, 0
        most = self._most(scope["path"])

        async def bounded() -> MutableMapping[str, Any]:
            nonlocal size
            if sent:  # all that comes after an answer began is that the visitor has gone
                return await receive()
            left = self.limits.seconds - (time.monotonic() - began)
            message = await asyncio.wait_for(receive(), max(left, 0.01))
            size += len(message.get("body", b""))
            if size > most:
                raise _TooLarge
            return message

        async def guarded(message: MutableMapping[str, Any]) -> None:
            nonlocal sent
            if message["type"] == "http.response.start":
                sent = True
                kept = [(k, v) for k, v in message["headers"] if not k.lower().startswith(b"access-control-")]
                message = {**message, "headers": [*kept, *HEADERS]}
            await send(message)

        try:
            await self.app(scope, bounded, guarded)
        except (_TooLarge, TimeoutError) as error:
            if sent:
                raise
            slow = isinstance(error, TimeoutError)
            await _answer(send, 408 if slow else 413, "too slow" if slow else f"too large; accepts {most:,} bytes")

    def _refused(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and sentence for what is not let in, or None."""
        if not self._ours(headers.get("host", "")):
            return 421, "this server does not go by that name"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != headers["host"].lower():
            return 403, "only the studio's own page may ask"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate":
            return 403, "only the studio's own page may ask"
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, "accepts GET and POST"
        if not PAGES.fullmatch(scope["path"]) or ".." in scope["path"]:
            return 404, "there is no such page"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > self._most(scope["path"]):
            return 413, f"too large; accepts {self._most(scope['path']):,} bytes"
        return None

    def _ours(self, host: str) -> bool:
        """Whether a Host header names this server: a foreign name that points here does not."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.exposed or address.is_loopback

    def _known(self, headers: dict[str, str]) -> bool:
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and self.token is not None and _same(cookie.value, self.token)

    def _most(self, path: str) -> int:
        return 4 * self.limits.upload if path.rstrip("/") == "/gradio_api/upload" else self.limits.body


class _TooLarge(Exception):
    """A body beyond its limit."""


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


async def _answer(send: Send, status: int, text: str, extra: Iterable[tuple[bytes, bytes]] = ()) -> None:
    body = f"likely studio: {text}\n".encode() if text else b""
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *HEADERS, *extra]})
    await send({"type": "http.response.body", "body": body})

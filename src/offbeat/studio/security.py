"""The guard before every route: who may ask, from where, how much; and what browsers are told.

Against another page in the same browser: the host must be one of ours (a name that is rebound to
this machine is not), an unsafe request must come from our own page, nothing may be read across
origins, and nothing here may be shown in a frame.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.exceptions import HTTPException

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("offbeat.studio")
SAFE = ("GET", "HEAD", "OPTIONS")
MAX_BODY = 2**20
"""Bytes of a request that is no upload."""
OPEN_PATHS = ("/login", "/favicon.ico")
"""What one may ask for without a token: the page that asks for it."""
POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
REPORT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox; frame-ancestors 'self'"
)
"""Of a run's own report, which holds no script."""
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-frame-options": "SAMEORIGIN",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


@dataclass(frozen=True, slots=True)
class Rules:
    """Who is let in."""

    key: bytes
    """That signs sessions; another token, another key."""
    hosts: frozenset[str]
    """Names by which this server may be called; addresses as well, if it listens beyond itself."""
    cookie: str
    token: str | None = None
    addresses: bool = False
    upload_bytes: int = 2**25

    @classmethod
    def of(
        cls, secret: bytes, *, host: str, port: int, token: str | None, names: tuple[str, ...] = ()
    ) -> Rules:
        """Return the rules of a server that listens on ``host``."""
        key = hmac.digest(secret, (token or "").encode(), "sha256")
        own = {"localhost", "127.0.0.1", "::1", host.lower(), *(name.lower() for name in names)}
        return cls(
            key=key,
            hosts=frozenset(own),
            cookie=f"offbeat-{port}",
            token=token,
            addresses=not is_loopback(host),
        )

    def allows_host(self, header: str) -> bool:
        """Return whether a Host header names this server.

        Addresses cannot be rebound, so any will do where the server listens beyond itself.
        """
        try:
            name = urlsplit(f"//{header}").hostname or ""
        except ValueError:
            return False
        if name in self.hosts:
            return True
        return self.addresses and _is_address(name)

    def allows_token(self, given: str) -> bool:
        """Return whether this is the token, in the same time whatever it is."""
        return self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())

    def new_cookie(self) -> str:
        """Return the cookie of a new session."""
        name = secrets.token_urlsafe(24)
        return f"{name}.{self._signature(name)}"

    def session_of(self, cookie: str) -> str | None:
        """Return the session of a cookie that this server signed."""
        name, _, signature = cookie.partition(".")
        if not name or not hmac.compare_digest(signature.encode(), self._signature(name).encode()):
            return None
        return hashlib.sha256(name.encode()).hexdigest()[:32]

    def set_cookie(self, cookie: str) -> str:
        """Return the header that sets it."""
        return f"{self.cookie}={cookie}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000"

    def _signature(self, name: str) -> str:
        return hmac.digest(self.key, name.encode(), "sha256").hex()


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """Lets a request through, or answers it; an ASGI middleware."""

    def __init__(self, app: App, rules: Rules) -> None:
        self.app, self.rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
        refusal = self._refusal(scope, headers)
        session, cookie, known = self._session(headers)
        if refusal is None and not known:
            refusal = self._login(scope)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        scope.setdefault("state", {})["session"] = session
        limit = self.rules.upload_bytes if _is_upload(scope) else MAX_BODY
        if int(headers.get("content-length") or 0) > limit:
            await _answer(send, 413, "too_large", f"expected at most {limit >> 20} MiB")
            return
        set_cookie = None if cookie is None else self.rules.set_cookie(cookie)
        await self.app(scope, _limited(receive, limit), _with_headers(send, set_cookie))

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str, str] | None:
        host = headers.get("host", "")
        if not self.rules.allows_host(host):
            return 400, "bad_request", "the host is none of this server's; see --allow-host"
        length = headers.get("content-length", "0")
        if not length.isdigit() or len(length) > 15:
            return 400, "bad_request", "content-length: expected a number"
        if scope["method"] in SAFE:
            return None
        origin = headers.get("origin")
        theirs = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
        if theirs or headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "forbidden", "another site asked for this; only the studio's own page may"
        return None

    def _session(self, headers: dict[str, str]) -> tuple[str, str | None, bool]:
        """Return the session, a cookie to set, and whether whoever asks is known."""
        try:
            jar = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            jar = SimpleCookie()
        given = jar[self.rules.cookie].value if self.rules.cookie in jar else ""
        session = self.rules.session_of(given)
        if session is not None:
            return session, None, True
        cookie = self.rules.new_cookie()
        scheme, _, token = headers.get("authorization", "").partition(" ")
        bearer = scheme.lower() == "bearer" and self.rules.allows_token(token.strip())
        known = self.rules.token is None or bearer
        return self.rules.session_of(cookie) or "", cookie if known else None, known

    def _login(self, scope: Scope) -> tuple[int, str, str] | None:
        path = str(scope["path"])
        if path in OPEN_PATHS:
            return None
        if path.startswith("/api/") or scope["method"] not in SAFE:
            return 401, "login", "expected the token: Authorization: Bearer TOKEN, or /login"
        return 303, "login", "/login?next=" + quote(path)


def _is_upload(scope: Scope) -> bool:
    return str(scope["path"]).rstrip("/") in ("/api/v1/uploads", "/api/v1/recall")


def _limited(receive: Receive, limit: int) -> Receive:
    """Return what reads at most ``limit`` bytes of a body, whatever its header says."""
    seen = 0

    async def read() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise HTTPException(413, f"expected at most {limit >> 20} MiB")
        return message

    return read


def _with_headers(send: Send, set_cookie: str | None) -> Send:
    async def write(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = {name.lower() for name, _ in message["headers"]}
            added = dict(HEADERS)
            if b"content-security-policy" not in own:
                added["content-security-policy"] = POLICY
            if b"cache-control" not in own:
                added["cache-control"] = "no-store"
            if set_cookie is not None and b"set-cookie" not in own:
                added["set-cookie"] = set_cookie
            message["headers"] = [
                *message["headers"],
                *((name.encode(), value.encode("latin-1")) for name, value in added.items()),
            ]
        await send(message)

    return write


async def _answer(send: Send, status: int, kind: str, text: str) -> None:
    """Answer in place of the application."""
    extra = {"location": text, "content-type": "text/plain"} if status == 303 else {}
    body = (
        b"" if status == 303 else json.dumps({"error": text, "kind": kind, "fields": []}).encode()
    )
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "content-security-policy": POLICY,
        "connection": "close",
        **HEADERS,
        **extra,
    }
    start = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})

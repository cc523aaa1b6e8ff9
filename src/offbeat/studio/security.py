"""Access control before every route: hosts, origins, tokens, limits, security headers.

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
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
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
WRONG_TOKENS = 10
"""From one address in a minute, by header and by form together; then it must wait."""
NEW_SESSIONS = 120
"""Changes asked for without a session's cookie, from one address in a minute."""
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


PROGRAM = "offbeat-session"
"""Header by which a program that sends the token names its session; without, they share one."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Hosts, token and signing key of a server."""

    key: bytes
    """That signs sessions; another token, another key."""
    hosts: frozenset[str]
    """Names by which this server may be called; addresses as well, if it listens beyond itself."""
    cookie: str
    """Its name: of the studio's folder, so that another port finds the same session."""
    token: str | None = None
    addresses: bool = False
    upload_bytes: int = 2**25

    @classmethod
    def of(
        cls, secret: bytes, *, host: str, token: str | None, names: tuple[str, ...] = ()
    ) -> Rules:
        """Return the rules of a server that listens on ``host``."""
        key = hmac.digest(secret, (token or "").encode(), "sha256")
        known = {"localhost", "127.0.0.1", "::1", host.lower(), *(name.lower() for name in names)}
        return cls(
            key=key,
            hosts=frozenset(known),
            cookie=f"offbeat-{hashlib.sha256(secret).hexdigest()[:8]}",
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
        """Return whether this is the token; the comparison takes constant time."""
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

    def program_session(self, name: str) -> str:
        """Return the session of a program that sends the token: one for each name, no cookie."""
        return hmac.digest(self.key, f"program {name[:200]}".encode(), "sha256").hex()[:32]

    def set_cookie(self, cookie: str, *, is_secure: bool) -> str:
        """Return the header that sets it; behind TLS it is never sent in the clear."""
        text = f"{self.cookie}={cookie}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000"
        return f"{text}; Secure" if is_secure else text

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


class Counter:
    """Counts events by address in a window of time; the oldest addresses are forgotten."""

    def __init__(self, limit: int, *, seconds: float = 60.0, max_addresses: int = 10_000) -> None:
        self.limit, self.seconds, self.max_addresses = limit, seconds, max_addresses
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def is_full(self, address: str) -> bool:
        """Return whether an address has reached the limit."""
        times = self._times.get(address) or deque()
        return len(times) >= self.limit and time.monotonic() - times[0] < self.seconds

    def add(self, address: str) -> None:
        """Count one event of an address."""
        self._times.setdefault(address, deque(maxlen=self.limit)).append(time.monotonic())
        self._times.move_to_end(address)
        if len(self._times) > self.max_addresses:
            self._times.popitem(last=False)


def address_of(scope: Scope) -> str:
    """Return the address that a request comes from; of IPv6 the network, which one user has."""
    host = str((scope.get("client") or ("", 0))[0])
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 6 and not address.is_loopback:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class Guard:
    """ASGI middleware that passes a request on, or refuses it."""

    def __init__(
        self, app: App, rules: Rules, wrong_tokens: Counter, has_sessions: bool = True
    ) -> None:
        self.app, self.rules = app, rules
        self.wrong_tokens, self.has_sessions = wrong_tokens, has_sessions
        self.new_sessions = Counter(NEW_SESSIONS)

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
        session, cookie, known = self._session(headers, address_of(scope))
        if refusal is None and not known:
            refusal = self._login(scope, headers)
        if refusal is None and cookie is not None:
            refusal = self._without_cookie(scope)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        scope.setdefault("state", {})["session"] = session
        limit = self.rules.upload_bytes if _is_upload(scope) else MAX_BODY
        if int(headers.get("content-length") or 0) > limit:
            await _answer(send, 413, "too_large", f"expected at most {limit >> 20} MiB")
            return
        is_secure = scope.get("scheme") == "https"
        set_cookie = None if cookie is None else self.rules.set_cookie(cookie, is_secure=is_secure)
        await self.app(scope, _limited(receive, limit), _with_headers(send, set_cookie))

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str, str] | None:
        host = headers.get("host", "")
        if not self.rules.allows_host(host):
            return (
                400,
                "bad_request",
                "this server does not answer to that host name; see --allow-host",
            )
        length = headers.get("content-length", "0")
        if not length.isdigit() or len(length) > 15:
            return 400, "bad_request", "content-length: expected a number"
        if scope["method"] in SAFE:
            return None
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        is_json = kind == "application/json" or kind.endswith("+json")
        has_body = length != "0" or "transfer-encoding" in headers
        is_call = str(scope["path"]).startswith("/api/") and not _is_upload(scope)
        if is_call and has_body and not is_json:
            got = kind or "none"
            return 415, "media_type", f"expected Content-Type: application/json, got {got}"
        origin = headers.get("origin")
        theirs = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
        if theirs or headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "forbidden", "another site asked for this; only the studio's own page may"
        return None

    def _session(self, headers: dict[str, str], address: str) -> tuple[str, str | None, bool]:
        """Return the session, a cookie to set, and whether the request may pass."""
        if not self.has_sessions:
            return "", None, True
        session = self.rules.session_of(_cookie(headers.get("cookie", ""), self.rules.cookie))
        if session is not None:
            return session, None, True
        known = self.rules.token is None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and not known and not self.wrong_tokens.is_full(address):
            if self.rules.allows_token(token.strip()):
                return self.rules.program_session(headers.get(PROGRAM, "")), None, True
            self.wrong_tokens.add(address)
        cookie = self.rules.new_cookie()
        return self.rules.session_of(cookie) or "", cookie if known else None, known

    def _without_cookie(self, scope: Scope) -> tuple[int, str, str] | None:
        """Refuse an address that changes things again and again as somebody new.

        The limits of a session would mean nothing if every request could be a new session.
        """
        if scope["method"] in SAFE:
            return None
        address = address_of(scope)
        if self.new_sessions.is_full(address):
            return 429, "busy", "send the cookie that this server sets: it is your session"
        self.new_sessions.add(address)
        return None

    def _login(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str, str] | None:
        path = str(scope["path"])
        if path in OPEN_PATHS:
            return None
        if "authorization" in headers and self.wrong_tokens.is_full(address_of(scope)):
            return 429, "busy", "too many wrong tokens from this address; wait a minute"
        if path.startswith("/api/") or scope["method"] not in SAFE:
            return 401, "login", "expected the token: Authorization: Bearer TOKEN, or /login"
        return 303, "login", "/login?next=" + quote(path)


def _cookie(header: str, name: str) -> str:
    """Return one cookie of a header, whatever other programs on this host put beside it."""
    for pair in header.split(";"):
        key, _, value = pair.strip().partition("=")
        if key == name:
            return value.strip('"')
    return ""


def _is_upload(scope: Scope) -> bool:
    return str(scope["path"]).rstrip("/") in ("/api/v1/uploads", "/api/v1/recall")


def _limited(receive: Receive, limit: int) -> Receive:
    """Return a reader of at most ``limit`` bytes of a body, whatever its header says."""
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
            present = {name.lower() for name, _ in message["headers"]}
            added = dict(HEADERS)
            if b"content-security-policy" not in present:
                added["content-security-policy"] = POLICY
            if b"cache-control" not in present:
                added["cache-control"] = "no-store"
            if set_cookie is not None and b"set-cookie" not in present:
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

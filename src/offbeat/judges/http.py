"""An HTTP client for one address: deadline, retries, budget; the key goes nowhere else.

It uses the standard library, so that a judge does not decide which HTTP package a user has.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import SplitResult, urlsplit

import torch

from offbeat.core.rng import stream
from offbeat.errors import ConfigError

OWN_KEY, OPENAI_KEY = "OFFBEAT_API_KEY", "OPENAI_API_KEY"
OPENAI = "https://api.openai.com/v1"
MAX_ANSWER = 2**20
"""Bytes of an answer; more is not read."""
_CHUNK = 2**14
REFUSED = (400, 422)
"""The server does not take the request as it is; another form of it may do."""
_AGAIN = {408, 409, 425, 429}
_LOCAL = ("localhost", "127.0.0.1", "::1")


class Unanswered(Exception):
    """No usable answer came; ``final`` if asking again cannot help."""

    def __init__(self, why: str, *, final: bool = False, status: int = 0, wait: float = 0) -> None:
        super().__init__(why)
        self.final, self.status, self.wait = final, status, wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How long and how often an address is asked."""

    timeout: float = 60.0
    """Seconds after which one request is given up, from its start to the end of its answer."""
    num_tries: int = 4
    """Requests of one question at most, 1 or more."""
    backoff: float = 1.0
    """Seconds before the second try; doubled each time, up to 60, less up to a half by chance."""
    max_requests: int = 2000
    """Of all questions together."""
    max_seconds: float = 1800.0
    """Spent on requests and on waiting for the next, together."""
    max_failures: int = 3
    """Questions in a row without an answer after which nothing more is asked."""

    def __post_init__(self) -> None:
        for name in ("timeout", "num_tries", "max_requests", "max_seconds", "max_failures"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: expected more than 0, got {getattr(self, name)}")
        if not self.backoff >= 0:
            raise ConfigError(f"backoff: expected 0 or more, got {self.backoff}")


class Client:
    """Posts JSON to one address and counts what that costs."""

    def __init__(self, url: str, budget: Budget, *, seed: int = 0) -> None:
        self.url, self.parts = url, checked_url(url)
        self.budget = budget
        self.num_requests = 0
        self.seconds = 0.0
        self.closed = ""
        """Why nothing more is asked; empty while it is."""
        self._failures = 0
        self._noise = stream(seed, "api-retry")
        self._key = _key_for(self.parts)

    def post(
        self,
        path: str,
        body: Mapping[str, Any],
        read: Callable[[Any], Any],
        *,
        negotiable: Collection[int] = REFUSED,
        uncounted: Collection[int] = (),
    ) -> Any:
        """Post a request and return ``read(answer)``; a bad answer is requested again.

        Args:
            path: Below the address.
            body: As JSON.
            read: Given the answer; raises ``Unanswered`` if it is not what was asked for.
            negotiable: Statuses after which the caller can ask in another form: such a refusal is
                neither tried again here nor counted as a failure.
            uncounted: Further statuses after which the caller can ask in another form, tried again
                here first; they count as no failure.

        Raises:
            Unanswered: If none came in time, or the budget is spent.
        """
        if self.closed:
            raise Unanswered(self.closed, final=True)
        failed = Unanswered("not asked")
        for number in range(self.budget.num_tries):
            try:
                if number:
                    self._wait(number - 1, failed)
                self._check_budget(str(failed) if number else "")
                answer = read(self._once(path, body))
            except Unanswered as error:
                failed = error
                if error.final or error.status in negotiable:
                    break
            else:
                self._failures = 0
                return answer
        else:
            failed = Unanswered(
                f"{failed}; tried {self.budget.num_tries} times", status=failed.status
            )
        if failed.status not in (*negotiable, *uncounted):
            self._count(failed)
        raise failed

    def _once(self, path: str, body: Mapping[str, Any]) -> Any:
        started = time.monotonic()
        self.num_requests += 1
        try:
            raw = self._exchange(path, json.dumps(body).encode())
            return json.loads(raw)
        except urllib.error.HTTPError as error:
            raise self._refused(error) from None
        except (TimeoutError, urllib.error.URLError, http.client.HTTPException, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise Unanswered(self._clean(f"no answer ({_named(reason)})")) from None
        except (ValueError, RecursionError) as error:  # neither JSON nor UTF-8, or nested too deep
            raise Unanswered(self._clean(f"the answer is not JSON ({error})")) from None
        finally:
            self.seconds += time.monotonic() - started

    def _exchange(self, path: str, data: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        headers["User-Agent"] = "offbeat"
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.url.rstrip("/") + path, data, headers, method="POST")
        deadline = Deadline(self.budget.timeout)
        handlers: list[Any] = [_NoRedirect(), *deadline.handlers()]
        if self.parts.hostname in _LOCAL:  # a proxy is for what is far
            handlers.append(urllib.request.ProxyHandler({}))
        opener = urllib.request.build_opener(*handlers)
        with deadline, opener.open(request, timeout=self.budget.timeout) as response:
            body = b""
            while part := response.read1(_CHUNK):
                body += part
                if len(body) > MAX_ANSWER:
                    raise Unanswered(f"the answer is longer than {MAX_ANSWER} bytes")
            return body

    def _refused(self, error: urllib.error.HTTPError) -> Unanswered:
        with error:
            code = error.code
            if 300 <= code < 400:
                to = urlsplit(error.headers.get("Location", ""))
                where = f"{to.scheme}://{to.hostname}" if to.hostname else "another path"
                return Unanswered(
                    self._clean(f"redirected to {where}, which is not followed; give that address"),
                    final=True,
                    status=code,
                )
            try:
                text = error.read1(400).decode("utf-8", "replace")
            except (OSError, http.client.HTTPException):
                text = ""
            wait = _retry_after(error.headers.get("Retry-After", ""))
        again = code >= 500 or code in _AGAIN or code in REFUSED
        why = self._clean(f"status {code}: {' '.join(text.split())[:200]}")
        return Unanswered(why, final=not again, status=code, wait=wait)

    def _check_budget(self, after: str) -> None:
        spent = ""
        if self.num_requests >= self.budget.max_requests:
            spent = f"the budget of {self.budget.max_requests} requests is spent"
        elif self.seconds >= self.budget.max_seconds:
            spent = f"the budget of {self.budget.max_seconds:g} seconds is spent"
        if spent:
            raise Unanswered(f"{spent}{f' after: {after}' if after else ''}", final=True)

    def _wait(self, number: int, error: Unanswered) -> None:
        jitter = 1 - float(torch.rand((), generator=self._noise)) / 2
        seconds = max(min(60.0, self.budget.backoff * 2**number) * jitter, error.wait)
        if self.seconds + seconds >= self.budget.max_seconds:
            raise Unanswered(
                f"{error}; the next try in {seconds:.0f} s would be past the budget of "
                f"{self.budget.max_seconds:g} seconds",
                final=True,
            )
        time.sleep(seconds)
        self.seconds += seconds

    def _count(self, failed: Unanswered) -> None:
        if failed.final:
            self.closed = str(failed)
        else:
            self._failures += 1
            if self._failures >= self.budget.max_failures:
                self.closed = f"{self._failures} questions in a row got no answer; last: {failed}"

    def _clean(self, text: str) -> str:
        """Return a text without the key, should a server have sent it back."""
        return text.replace(self._key, "***") if self._key else text

    def __repr__(self) -> str:
        return f"Client({self.url!r})"


class Deadline:
    """Ends a whole request in time, however slowly its bytes come.

    The time limit of a socket starts anew with every byte, so a server that drips its answer would
    hold a search for hours. This shuts the sockets of the request down instead.
    """

    def __init__(self, seconds: float) -> None:
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._seconds, self._is_over = seconds, False

    def __enter__(self) -> Deadline:
        self._timer.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._timer.cancel()
        if self._is_over:  # whatever the shut socket led to, this is why
            raise TimeoutError(f"no whole answer within {self._seconds:g} seconds") from None

    def handlers(self) -> list[urllib.request.BaseHandler]:
        """Return handlers for an opener whose connections this ends."""
        sockets = self._sockets

        class Plain(http.client.HTTPConnection):
            def connect(self) -> None:
                super().connect()
                sockets.append(self.sock)

        class Secure(http.client.HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                sockets.append(self.sock)

        class PlainHandler(urllib.request.HTTPHandler):
            def http_open(self, request: urllib.request.Request) -> Any:
                return self.do_open(Plain, request)

        class SecureHandler(urllib.request.HTTPSHandler):
            def https_open(self, request: urllib.request.Request) -> Any:
                return self.do_open(Secure, request)

        return [PlainHandler(), SecureHandler()]

    def _end(self) -> None:
        self._is_over = True
        for each in self._sockets:
            with suppress(OSError, ValueError):  # closed already
                each.shutdown(socket.SHUT_RDWR)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to wherever the server says."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def checked_url(url: str) -> SplitResult:
    """Return the parts of an address; refuse one that could hold a secret, since runs record it.

    Raises:
        ConfigError: If it is not an address, or could hold a secret.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"judge: cannot read the address ({error})") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError(
            "judge: expected an address without user, password or query, since runs record it; "
            f"a key goes into the environment as {OWN_KEY}"
        )
    plain = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not plain:
        raise ConfigError(
            f"judge: expected an address such as {OPENAI} or http://localhost:8000/v1, got {url!r}"
        )
    return parts


def _key_for(parts: SplitResult) -> str:
    """Return the key for an address, from the environment; empty if there is none.

    Raises:
        ConfigError: If it could be read on its way, or is no header's value.
    """
    key = os.environ.get(OWN_KEY, "").strip()
    if not key:  # the other key is another service's, unless this is that one
        base = os.environ.get("OPENAI_BASE_URL") or OPENAI
        if parts.hostname == urlsplit(base).hostname:
            key = os.environ.get(OPENAI_KEY, "").strip()
    if key and not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{OWN_KEY}: expected printable ASCII; set it again")
    if key and parts.scheme == "http" and parts.hostname not in _LOCAL:
        raise ConfigError(
            f"judge: {parts.hostname} is asked by http, which sends the key in the clear; use "
            f"https, or unset {OWN_KEY} if it needs none"
        )
    return key


def _retry_after(text: str) -> float:
    """Return the seconds that a server asks to wait; 0 if it does not say."""
    try:
        return max(0.0, float(text)) if text.strip().isdigit() else _until(text)
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _until(text: str) -> float:
    when = parsedate_to_datetime(text)
    return max(0.0, (when - datetime.now(timezone.utc)).total_seconds())


def _named(error: Any) -> str:
    return f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else str(error)

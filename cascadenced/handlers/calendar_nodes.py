"""Nodes of the calendar at `ume_base_url`, read over HTTP. Whose schedule it is goes there by pseudonym only."""

from __future__ import annotations

from urllib.parse import urlencode

import msgspec

from cascadenced.clock import Clock
from cascadenced.errors import BadMessage, CascadenceError
from cascadenced.events.base import Json
from cascadenced.events.strict import scan
from cascadenced.runtime.retry import backoff_s
from cascadenced.schedules.calendar_node import node_path

NOT_CONFIGURED = "UME_BASE_URL not configured"
TIMEOUT_S = 5.0
TRIES = 3
MAX_ANSWER_BYTES = 1024 * 1024
MAX_RECURRENCE_BYTES = 64 * 1024

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class CalendarUnavailable(CascadenceError):
    """A node could not be read. may_pass: whether it is worth trying again at once.

    The text is the same as long as the reason is, and names neither the address nor what was answered.
    """

    def __init__(self, reason: str, *, code: str, may_pass: bool = False) -> None:
        super().__init__(reason, code=code)
        self.may_pass = may_pass


class CalendarNodes:
    """base_url: may hold credentials, which are sent and never shown. None: there is no calendar."""

    def __init__(self, clock: Clock, base_url: str | None, *, timeout_s: float = TIMEOUT_S) -> None:
        self._clock, self._base_url, self._timeout_s = clock, base_url, timeout_s

    @property
    def is_configured(self) -> bool:
        return self._base_url is not None

    async def recurrence(self, node: str, *, user_hash: str | None, group_hash: str | None) -> Json:
        """What the node has as `recurrence`; None if it has nothing. Tried three times.

        Raises CalendarUnavailable.
        """
        if self._base_url is None:
            raise CalendarUnavailable(NOT_CONFIGURED, code="not_configured")
        who = {name: value for name, value in (("user_id", user_hash), ("group_id", group_hash)) if value is not None}
        url = f"{self._base_url}/v1/calendar/nodes/{node_path(node)}" + (f"?{urlencode(who)}" if who else "")
        for attempt in range(1, TRIES):
            try:
                return _recurrence_of(await self._answer(url))
            except CalendarUnavailable as error:
                if not error.may_pass:
                    raise
            await self._clock.sleep(backoff_s(attempt))
        return _recurrence_of(await self._answer(url))

    async def _answer(self, url: str) -> bytes:
        import aiohttp  # few use it, and a command must not pay for it
        from yarl import URL

        try:
            async with (
                aiohttp.ClientSession(
                    timeout=aiohttp.ClientTimeout(total=self._timeout_s),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    headers={"Accept": "application/json", "Accept-Encoding": "identity"},
                    auto_decompress=False,  # else a small answer could be a large one
                ) as session,
                session.get(URL(url, encoded=True), allow_redirects=False) as response,
            ):
                _refuse_status(response.status)
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES:
                        raise CalendarUnavailable(f"more than {MAX_ANSWER_BYTES} bytes", code="too_large")
                return bytes(body)
        except TimeoutError:
            late = f"no answer within {self._timeout_s:g} s"
            raise CalendarUnavailable(late, code="timeout", may_pass=True) from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise CalendarUnavailable("it cannot be reached", code="unreachable", may_pass=True) from None


def _refuse_status(status: int) -> None:
    if 300 <= status < 400:
        raise CalendarUnavailable(f"HTTP {status}: it redirects, which is not followed", code="redirect")
    if status >= 400:
        raise CalendarUnavailable(f"HTTP {status}", code="status", may_pass=status >= 500 or status == 429)


def _recurrence_of(answer: bytes) -> Json:
    try:
        found = _decode(answer).get("recurrence")
        if found is None:
            return None
        if len(found) > MAX_RECURRENCE_BYTES:
            raise CalendarUnavailable(f"a recurrence of more than {MAX_RECURRENCE_BYTES} bytes", code="too_large")
        return scan(bytes(found))
    except msgspec.ValidationError:
        raise CalendarUnavailable("its answer is no JSON object", code="not_object") from None
    except (msgspec.DecodeError, BadMessage, RecursionError):
        raise CalendarUnavailable("its answer is not JSON", code="not_json") from None

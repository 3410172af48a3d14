"""The daemon: opens every floor, connects them, runs the loops, and takes it all down in order. No rule lives here."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from shlex import quote
from typing import NoReturn

import anyio
import msgspec
import structlog

from cascadenced import __version__, garbage, logs, loose_ends
from cascadenced.bus.base import Bus
from cascadenced.commands.wire import Note
from cascadenced.config import Config
from cascadenced.connecting import Connected, connect
from cascadenced.errors import CascadenceError, ConfigError, DataFolderGone, DiskError, LogCorrupt
from cascadenced.eventlog.base import Change
from cascadenced.eventlog.place import Place
from cascadenced.events.streams import SYSTEM_STREAM
from cascadenced.events.system import DaemonStarted, DaemonStopped
from cascadenced.handlers.followups import CHECKPOINT as PLANNER
from cascadenced.handlers.followups import CapabilityPlanner
from cascadenced.handlers.publications import Publications
from cascadenced.instance import BusStatus, Instance, open_instance
from cascadenced.pipeline.followups import Planner
from cascadenced.private_files import write_atomically
from cascadenced.reloading import reload
from cascadenced.rpc import responders
from cascadenced.runtime.bus_keeper import BusKeeper
from cascadenced.runtime.follow import follow
from cascadenced.runtime.ingest import Ingest
from cascadenced.runtime.loop_watch import watch_loop
from cascadenced.runtime.narrator import narrate, tell_traceback
from cascadenced.runtime.outages import Outages
from cascadenced.runtime.outbox import Outbox
from cascadenced.runtime.pulse import EVERY_S, pulse
from cascadenced.sd_notify import Notifier

_log = structlog.get_logger("cascadenced")

EXIT_DISK_ERROR = 74
_STDIN = 0
FLUSH_WITHIN_S = 2.0
"""How long a stop waits for the broker to confirm what is not yet published; the next start sends the rest."""


class Stop:
    """When to stop, and how: the first request is patient, the second is not; a fatal error is neither."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurry = asyncio.Event()
        self.error: CascadenceError | None = None
        self.on_early: Callable[[], object] | None = None
        """Called by the first request while the daemon is still starting."""

    def request(self) -> None:
        if self.asked.is_set():
            self.hurry.set()
        self.asked.set()
        if self.on_early is not None:
            self.on_early()

    def fatal(self, error: CascadenceError) -> None:
        """Stop at once. Only the first error counts: others follow from it."""
        if self.error is not None:
            return
        _log.error("stopping_on_error", error=str(error))
        if isinstance(error, DataFolderGone):
            _leave(EXIT_DISK_ERROR)  # closing would remove files by their names, and they are not ours any more
        self.error = error
        self.hurry.set()
        self.request()


def serve(config: Config, announce: Callable[[str], None], read: Callable[[], Config]) -> int:
    """Run the daemon in the foreground until it is asked to stop.

    announce: told what a person wants to read.  read: the configuration as it is now; asked at SIGHUP.

    Does not return after a start that succeeded: the process ends with `os._exit`, because a hung task thread must not
    keep it. Raises what opening raises (ConfigError, LogHeld, LogCorrupt, DiskError); returns 0 if stopped before that.
    """
    logs.configure(config.log_level)
    notifier = Notifier.of(os.environ)
    in_terminal = [descriptor for descriptor in (_STDIN, 1, 2) if os.isatty(descriptor)]

    async def main() -> None:
        stop = Stop()
        daemon = Daemon(config, stop, announce, read, notifier)

        def hang_up() -> None:
            if _STDIN in in_terminal and not os.isatty(_STDIN):
                _forget(in_terminal)  # it was closed; writing to it would fail from now on
                stop.request()
            else:
                daemon.reread.set()

        loop = asyncio.get_running_loop()
        loose_ends.catch(loop)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.request)
        loop.add_signal_handler(signal.SIGHUP, hang_up)
        this = asyncio.current_task()
        assert this is not None
        stop.on_early = this.cancel
        try:
            await daemon.run()
        except ExceptionGroup as errors:
            # Whichever loop met a broken disk first: the log's own word of it comes as well, and may come later.
            wrong, others = errors.split(ConfigError)
            if wrong is not None and others is None:
                raise _first(wrong) from None
            broken, others = errors.split((DiskError, LogCorrupt))
            if broken is None or others is not None:
                raise
            stop.fatal(_first(broken))
        _leave(EXIT_DISK_ERROR if isinstance(stop.error, DiskError | LogCorrupt) else 1 if stop.error else 0)

    with suppress(asyncio.CancelledError):
        asyncio.run(main())
    return 0


def _forget(descriptors: Sequence[int]) -> None:
    """Let what is read from them be empty, and what is written to them go nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _first(errors: ExceptionGroup[CascadenceError]) -> CascadenceError:
    error: BaseException = errors
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, CascadenceError)
    return error


def _leave(code: int) -> NoReturn:
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


class Daemon:
    """One life of the daemon. reread: set when the configuration is to be read again."""

    def __init__(
        self,
        config: Config,
        stop: Stop,
        announce: Callable[[str], None],
        read: Callable[[], Config],
        notifier: Notifier,
    ) -> None:
        self._config, self._stop, self._tell = config, stop, announce
        self._read, self._notifier = read, notifier
        self.reread = asyncio.Event()
        self._outages = Outages()
        self._ready = False

    async def run(self) -> None:
        """Open, work until `stop`, close."""
        async with AsyncExitStack() as stack:
            instance = await self._open(stack)
            instance.log.observe(narrate)
            instance.stages.on_failure = tell_traceback
            connected = await connect(stack, instance, self._outages, self._notifier)
            publications = self._publications(instance)
            outbox = Outbox(instance.log, instance.clock, connected.bus, publications, instance.refusals)
            keeper = BusKeeper(
                instance.log,
                instance.clock,
                connected.bus,
                publications,
                origin=instance.log.origin,
                outages=self._outages,
                set_aside=connected.server.set_aside if connected.server is not None else None,
            )
            instance.bus_status = lambda: _bus_status(instance, connected.bus, outbox, keeper)
            http_url = await self._serve_http(stack, instance)
            await connected.bus.serve(responders(instance), version=__version__)
            async with anyio.create_task_group() as carriers:
                carriers.start_soon(outbox.run)
                carriers.start_soon(keeper.run)
                carriers.start_soon(self._pulse, instance)
                async with anyio.create_task_group() as takers:
                    await self._start(stack, instance, connected, http_url)
                    takers.start_soon(self._ingest(instance, connected).run)
                    takers.start_soon(self._plan, instance)
                    if self._config.backend != "base":
                        takers.start_soon(instance.schedule_file.run)
                        takers.start_soon(instance.ticks.run)
                        takers.start_soon(instance.calendar_polls.run)
                    self._say_ready(instance, http_url, connected)
                    takers.start_soon(self._reread, instance, http_url)
                    await self._stop.asked.wait()
                    self._ready = False
                    self._notifier.stopping("waiting for stages under way")
                    takers.cancel_scope.cancel()
                await self._drain(instance, outbox)
                carriers.cancel_scope.cancel()

    def _announce(self, text: str) -> None:
        with suppress(OSError):  # nobody reads it any more
            self._tell(text)

    # ── up ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _open(self, stack: AsyncExitStack) -> Instance:
        return await stack.enter_async_context(open_instance(self._config, who="daemon", on_fatal=self._stop.fatal))

    async def _serve_http(self, stack: AsyncExitStack, instance: Instance) -> str:
        from cascadenced.http.app import serve as serve_http

        return await stack.enter_async_context(serve_http(instance, ready=lambda: self._ready, stop=self._stop.request))

    async def _start(self, stack: AsyncExitStack, instance: Instance, connected: Connected, http_url: str) -> None:
        """What happens once, when everything is connected: recovery, then being found."""
        n_unfinished = len(await instance.log.unfinished())
        started = DaemonStarted(version=__version__, pid=os.getpid(), n_unfinished_runs=n_unfinished)
        await instance.log.append([Change(SYSTEM_STREAM, [started])])
        await instance.runs.recover()
        n_read = await instance.dead_letters.redrive_parked()
        if n_read:
            _log.info("parked_letters_read", n_letters=n_read)
        self._be_found(stack, instance, connected, http_url)
        self._stop.on_early = None
        self._ready = True

    def _be_found(self, stack: AsyncExitStack, instance: Instance, connected: Connected, http_url: str) -> None:
        """Leave word where we are. All that a start makes is there by now."""
        note = Note(
            pid=os.getpid(),
            http_url=http_url,
            nats_url=connected.url,
            socket=str(self._config.socket_path),
            version=__version__,
            instance_id=instance.log.origin,
        )
        path = self._config.daemon_json_path
        write_atomically(path, msgspec.json.encode(note._asdict()))
        stack.callback(path.unlink, missing_ok=True)
        stack.callback(watch_loop(instance.log))
        garbage.started()

    def _publications(self, instance: Instance) -> Publications:
        config = self._config
        return Publications(
            config.ume_nats_subject,
            broadcast_pointers=config.ume_broadcast_pointers,
            vault=instance.vault if config.emit_raw_user_id else None,
        )

    def _ingest(self, instance: Instance, connected: Connected) -> Ingest:
        erase = self._config.erase_inbound
        return Ingest(
            connected.bus,
            self._config.ume_nats_subject,
            commands=instance.bus_commands,
            dead_letter=instance.dead_letters.record,
            room=instance.runs.room,
            refusals=instance.refusals,
            erase=connected.server is not None if erase is None else erase,
        )

    async def _plan(self, instance: Instance) -> None:
        planner = Planner(self._config.follow_up_task, self._config.follow_up_max_depth)
        react = CapabilityPlanner(instance.log, instance.runs, instance.tasks, instance.vault, planner)
        await follow(
            instance.log,
            instance.clock,
            PLANNER,
            react,
            skip=lambda _: instance.refusals.count("event_skipped", PLANNER),
        )

    async def _pulse(self, instance: Instance) -> None:
        checks = [Place(path).check for path in (self._config.vault_path, self._config.lock_path)]
        every_s = min(EVERY_S, (self._notifier.watchdog_s or EVERY_S * 3) / 3)
        await pulse(
            instance.log.probe,
            checks,
            instance.clock,
            every_s=every_s,
            alive=lambda: self._alive(instance),
            fatal=self._stop.fatal,
        )

    def _alive(self, instance: Instance) -> None:
        self._notifier.alive()
        instance.ticks.ticker.look_at_clock()
        instance.calendar_polls.ticker.look_at_clock()

    async def _reread(self, instance: Instance, http_url: str) -> None:
        while True:
            self._notifier.ready(f"ready, {http_url}/")
            await self.reread.wait()
            self.reread.clear()
            self._notifier.reloading(instance.clock.monotonic())
            await reload(instance, self._read)

    def _say_ready(self, instance: Instance, http_url: str, connected: Connected) -> None:
        for rejected in instance.catalogue.rejected:
            self._announce(f"warning: {rejected.plugin} is not loaded: {rejected.reason}")
        folder = Path(self._config.data_dir).absolute()
        there = f" --data-dir {quote(str(folder))}" if self._config.sources.get("data_dir") == "command line" else ""
        self._announce(
            f"cascadenced {__version__} is ready\n"
            f"  data    {folder}\n"
            f"  status  {http_url}/\n"
            f"  nats    {connected.about}\n"
            f"  try     cascadenced{there} run example --user-id you --group-id team\n"
            f"Ctrl-C stops it; what is under way goes on at the next start."
        )

    # ── down ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _drain(self, instance: Instance, outbox: Outbox) -> None:
        """Stages end or are recorded as interrupted; what is recorded is published, if the broker is quick."""
        if self._stop.error is not None:
            return
        grace_s = instance.config.stop_grace_s
        self._announce(f"stopping: waiting up to {grace_s:g} s for stages under way (once more to hurry)")
        try:
            # Recording waits while the disk is full; a stop does not. What is not recorded counts as a crash then.
            async with asyncio.timeout(grace_s + FLUSH_WITHIN_S):
                n_interrupted = await instance.runs.stop(grace_s, self._stop.hurry)
                stopped = DaemonStopped(reason="asked to", n_interrupted=n_interrupted)
                await instance.log.append([Change(SYSTEM_STREAM, [stopped])])
            async with asyncio.timeout(FLUSH_WITHIN_S):
                await outbox.drained()
        except (TimeoutError, CascadenceError) as error:
            _log.warning("stopped_without_all_recorded", error=str(error) or "time is up")


def _bus_status(instance: Instance, bus: Bus, outbox: Outbox, keeper: BusKeeper) -> BusStatus:
    info = bus.info()
    return BusStatus(
        connected=info.connected,
        url=info.url,
        epoch=info.epoch,
        outbox_pending=max(0, instance.log.position - outbox.position),
        well=info.well,
        n_to_repair=keeper.n_to_repair,
        last_break=keeper.last_break,
    )

"""What every command is given: the configuration, `ask` for the work and `show` for the answer."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import click

from cascadenced.commands import door
from cascadenced.config import Config, load

_PATIENCE_S = 1.0


class Session:
    """One command line. Built by `cli.main`, filled by the shared options, found by `pass_session`."""

    def __init__(self) -> None:
        self.as_json = False
        self.config_path: str | None = None
        self.overrides: dict[str, object] = {}

    @cached_property
    def config(self) -> Config:
        """Raises ConfigError."""
        return self.reread()

    def reread(self) -> Config:
        """The configuration as it is now. Raises ConfigError."""
        return load(self.config_path, os.environ, self.overrides)

    def given(self) -> str:
        """The options that another command needs to find the same folder, with a space before each; to be pasted."""
        from shlex import quote

        options = (("--config", self.config_path), ("--data-dir", self.overrides.get("data_dir")))
        return "".join(f" {option} {quote(str(value))}" for option, value in options if value is not None)

    def ask(self, verb: str, **arguments: Any) -> Any:
        """The result of a verb, as decoded JSON. Arguments that are None are left out."""
        given = {name: value for name, value in arguments.items() if value is not None}
        try:
            with patience(f"waiting for the answer to `{verb}`; Ctrl-C stops waiting"):
                return door.call(self.config, verb, given)
        except KeyboardInterrupt:
            if verb in door.ONCE:
                remark("what is recorded goes on: in the daemon if one is up, else when it starts (`cascadenced runs`)")
            raise

    def ask_all(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """All pages of a list as one."""
        page: dict[str, Any] = self.ask(verb, **arguments, limit=1000)
        items = page["items"]
        while page["next"] is not None:
            page = self.ask(verb, **arguments, limit=1000, after=page["next"])
            items += page["items"]
        return {**page, "items": items}

    def show(self, result: Any, text: str) -> None:
        """Print the result, as JSON if that was asked for, else as `text`; an empty text prints nothing."""
        if self.as_json:
            print_json(result)
        elif text:
            click.echo(text)

    def show_page(self, page: dict[str, Any], text: str) -> None:
        """As `show`, and what else there is to know about a list."""
        self.show(page, text)
        if self.as_json:
            return
        if page["stale_since"]:
            remark(f"these rows are as of {page['stale_since']}: the projection is frozen (`cascadenced doctor`)")
        if page["next"] is not None:
            remark(f"there is more: --after {page['next']}")


pass_session = click.make_pass_decorator(Session)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def remark(text: str) -> None:
    """A word beside the answer, on stderr."""
    click.echo(text, err=True)


@contextlib.contextmanager
def patience(text: str) -> Iterator[None]:
    """Say on a terminal what is going on, if it goes on for more than a second."""
    if not sys.stderr.isatty():
        yield
        return
    timer = threading.Timer(_PATIENCE_S, remark, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()

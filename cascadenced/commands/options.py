"""The options that every command takes, before or after its name, and JSON as an argument."""

from __future__ import annotations

from typing import Any

import click

from cascadenced.commands.session import Session
from cascadenced.errors import BadMessage


def shared() -> list[click.Parameter]:
    """`--json`, `--config`, `--data-dir`: fresh ones, since an option belongs to one command."""
    return [
        click.Option(
            ["--json", "as_json"],
            is_flag=True,
            expose_value=False,
            callback=_remember_json,
            help="Print JSON, the same that the HTTP route of this name answers.",
        ),
        click.Option(
            ["--config"],
            metavar="PATH",
            expose_value=False,
            callback=_remember_config,
            help="The YAML file with the settings. [default: CASCADENCE_CONFIG, else cascadence.yml here]",
        ),
        click.Option(
            ["--data-dir"],
            metavar="PATH",
            expose_value=False,
            callback=_remember_data_dir,
            help="The folder of the log and everything else that is kept. [default: ~/.cascadence]",
        ),
    ]


def _remember_json(context: click.Context, _: click.Parameter, given: bool) -> None:
    if given:
        context.find_object(Session).as_json = True  # type: ignore[union-attr]  # cli.main always gives one


def _remember_config(context: click.Context, _: click.Parameter, given: str | None) -> None:
    if given is not None:
        context.find_object(Session).config_path = given  # type: ignore[union-attr]


def _remember_data_dir(context: click.Context, _: click.Parameter, given: str | None) -> None:
    if given is not None:
        context.find_object(Session).overrides["data_dir"] = given  # type: ignore[union-attr]


class Command(click.Command):
    """A command with the shared options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += shared()


class JsonValue(click.ParamType[Any]):
    """An argument that is JSON."""

    name = "json"
    expected = "JSON is expected, such as '{\"amount\": 2}' or '\"text\"'."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        from cascadenced.events.strict import scan

        try:
            return scan(value.encode(errors="surrogateescape"))
        except BadMessage as error:
            self.fail(f"{error}. {self.expected}", param, ctx)


class JsonObject(JsonValue):
    """An argument that is a JSON object."""

    expected = "A JSON object is expected, such as '{\"seconds\": 2}'."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        scanned = super().convert(value, param, ctx)
        if not isinstance(scanned, dict):
            self.fail("it must be a JSON object, such as '{\"seconds\": 2}'.", param, ctx)
        return scanned


class Instant(click.ParamType[str]):
    """An instant, with an offset or Z."""

    name = "instant"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from cascadenced.clock import parse_iso

        try:
            parse_iso(value)
        except (ValueError, OverflowError):
            self.fail(f"an instant with an offset or Z, such as 2026-11-30T09:00:00Z, not {value[:40]!r}", param, ctx)
        return str(value)


def looks_like_run(text: str) -> bool:
    """Whether it may be a run's id, or the beginning of one."""
    return 8 <= len(text) <= 32 and all(char in "0123456789abcdef" for char in text)


user_id = click.option("--user-id", required=True, metavar="ID", help="Whom this is for, 1–256 characters.")
group_id = click.option("--group-id", required=True, metavar="ID", help="The group they act for.")
limit = click.option(
    "--limit", type=click.IntRange(1, 1000), default=100, show_default=True, metavar="N", help="At most so many rows."
)
after = click.option("--after", metavar="CURSOR", help="Go on after the last page; the cursor is printed with it.")
key = click.option(
    "--idempotency-key",
    metavar="KEY",
    help="The same key of the same user is the same wish, for ever: repeating the command is safe.",
)

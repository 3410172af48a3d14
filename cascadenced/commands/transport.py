"""The predecessor's options for choosing a transport. Here the daemon carries everything over NATS: what these options
say is checked as it was, and what concerns NATS is taken over as settings."""

from __future__ import annotations

import click

from cascadenced.commands.session import Session


def transport_options() -> list[click.Parameter]:
    """`--transport` and what it may need; hidden, since settings say the same."""
    names = ("--transport", "--grpc-stub", "--grpc-method", "--nats-conn", "--nats-subject")
    return [click.Option([name], hidden=True) for name in names]


@click.pass_context
def choose_transport(
    context: click.Context,
    transport: str | None,
    grpc_stub: str | None,
    grpc_method: str | None,
    nats_conn: str | None,
    nats_subject: str | None,
) -> None:
    """The callback of the command group. Raises UsageError."""
    if transport not in (None, "grpc", "nats"):
        raise click.UsageError(f"Unknown transport: {transport}")
    if transport == "grpc" and grpc_stub is None:
        raise click.UsageError("--grpc-stub is required for grpc transport")
    if transport == "grpc" or grpc_stub is not None or grpc_method is not None:
        raise click.UsageError("--transport grpc is not supported by this version: use nats")
    if transport == "nats" and nats_conn is None:
        raise click.UsageError("--nats-conn is required for nats transport")
    session = context.find_object(Session)
    assert session is not None
    session.overrides |= {"nats_url": nats_conn, "ume_nats_subject": nats_subject}

"""NATS behind a few verbs.

base.py        Bus, Delivery: the contract
memory.py      the double (memory_stream.py: one of its streams)
embedded.py    find, lock, start and stop a nats-server of our own (embedded_config.py: what its file says)
jetstream.py   the real bus, of which only `JetStreamBus` is meant for others; its parts:
    jetstream_client.py    nats-py's client, reading whatever a server may send
    jetstream_link.py      one connection: connect, call the API, send without waiting
    jetstream_setup.py     the streams and consumers that must exist
    jetstream_pull.py      broker → fetch; deliveries and what ends them
    jetstream_erase.py     overwrite consumed messages
    jetstream_publish.py   pipelined and atomic publishing
    jetstream_rpc.py       the micro service

Only `jetstream*.py` import `nats` (150 ms): import them where they are first needed.
"""

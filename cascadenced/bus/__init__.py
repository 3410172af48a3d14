"""NATS behind a few verbs.

base.py        Bus, Delivery: the contract
marks.py       by what streams are known again, and what it means when they are not
frames.py      what we say to the server, as bytes
memory.py      the double (memory_server.py: what outlives a connection; memory_stream.py: one of its streams)
embedded.py    find, lock, start and stop a nats-server of our own (embedded_config.py: what its file says)
jetstream.py   the real bus, of which only `JetStreamBus` is meant for others; its parts:
    jetstream_client.py    nats-py's client, reading whatever a server may send
    jetstream_link.py      one connection: connect, call the API, send without waiting
    jetstream_setup.py     the streams and consumers that must exist
    jetstream_pull.py      broker → fetch; deliveries and what ends them
    jetstream_erase.py     overwrite consumed messages
    jetstream_publish.py   pipelined and atomic publishing
    jetstream_rpc.py       the micro service
    jetstream_witness.py   what the streams were like, and whether they still are
    jetstream_scan.py      every message of a stream, without its body

Only `jetstream*.py` import `nats` (150 ms): import them where they are first needed.
"""

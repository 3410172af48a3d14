"""Proof that the broker may forget: it is killed, hung, damaged and emptied under a daemon at work.

    load.py       clients that publish, and note what was confirmed to them
    scene.py      a daemon, its nats-server (its own or another), the load; what must be true afterwards
    breaks.py     everything that is done to a broker, each with what must be noticed of it
    sweep.py      rounds of breaks, dealt by a seed
    __main__.py   `make broker`: as many rounds as one likes

The servers to do it to come from `tests/servers.py`.
"""

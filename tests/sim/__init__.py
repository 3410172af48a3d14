"""The real daemon on the doubles of all its ports; a seed says in which order things happen, and time is virtual.

loop.py      virtual time, the order of callbacks, and mortals whose callbacks end with them
clock.py     that time as a `Clock`;  disk.py  how long a commit takes
broker.py    the broker that outlives the daemons, with its temper;  client.py  who asks them for things
tasks.py     what they are asked for;  sink.py  what it did
daemon.py    one life of the daemon;  fates.py  how each life ends, and the weather
world.py     all of these together: `simulate(seed)`
checks.py    what must be true at the end (with tests/crash/audit.py);  tables.py, ledger.py  what it is read from
planted.py   bugs that a world must find
runner.py    many worlds in several processes;  __main__.py  `make sim`
"""

"""Loops that move events; none knows what the work is. Floor 4.

tasks.py     which tasks there are, and their switches
runs.py      requests, the queue, and driving each run to its end; recovery
record.py    decide, append, fold: one live run's state beside its version
spawn.py     task code on the loop or in a thread of our own
retry.py     how long to wait before trying again
follow.py    a checkpointed follower of the log
ingest.py    messages → commands → events → ack
outbox.py    the log → messages, in order
counting.py  refusals that are counted rather than recorded one by one
metrics.py   the log → Prometheus
pulse.py     does the writer get on, is the data folder still there?
narrator.py  the log → the lines of the daemon's own log
"""

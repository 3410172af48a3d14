"""Loops that move events; none knows what the work is. Floor 4.

tasks.py     which tasks there are, and their switches
runs.py      requests, slots and the queue; who is under way, asleep, or found again after a crash
journey.py   what one run does with its slot, to its end or its next wait
perform.py   what performs its stages
sleepers.py  runs that wait, and what wakes them (alarms.py: one timer for all)
tick.py      schedules that wait, likewise
lanes.py     which place a step takes (under_way.py: those that are being taken)
children.py  runs that a run's plan asks for
orphans.py   those of them whose parent has ended
controls.py  what others ask of runs under way
endings.py   who waits for the end of which run
record.py    decide, append, fold: one live run's state beside its version
spawn.py     task code on the loop or in a thread of our own
worker.py    task code in processes of its own (worker_protocol.py: what is said; worker_output.py: what they print)
loop_watch.py  what keeps the loop is recorded
watchdog.py  does the loop turn, and who keeps it?
whose.py     whose code is running
first_of.py  waiting for whichever comes first
retry.py     how long to wait before trying again
follow.py    a checkpointed follower of the log
ingest.py    messages → commands → events → ack
outbox.py    the log → messages, in order
bus_keeper.py  what happens to the bus is recorded (outages.py), and what the broker forgot is repaired
repair.py    what it ought to have, published again (owed.py: what is still to be found)
server_keeper.py  a nats-server of our own is kept going
counting.py  refusals that are counted rather than recorded one by one
metrics.py   the log → Prometheus
pulse.py     does the writer get on, is the data folder still there?
narrator.py  the log → the lines of the daemon's own log
"""

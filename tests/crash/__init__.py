"""Proof of durability: what was acknowledged survives `kill -9`, a power cut and a failing disk.

    attempts.py     what clients asked for, and what they were told: the ground truth
    audit.py        pure rules over (attempts, rows of the log): what a crash may never do
    client.py       the load: wishes over JetStream and the Unix socket
    chaos.py        a daemon under that load, killed at crash points and at random moments; then the audit
    zygote.py       forks daemons, so that a life may last half a second
    durable_tasks.py  five stages, steps, waits, children, retries, processes; each effect is a line in a file
    durable.py      pure rules over (log, effects, orders and their answers): no effect repeats whose end is recorded
    sweep.py        those tasks in many short lives, in several worlds at once; then both audits
    disk.py         a shim under SQLite, in pure Python: sees every write, truncate and sync, and can let them fail
    power.py        recorded writes → what a disk may hold after a power cut → does the log still hold what it owes?
    faults.py       a disk that fails at its n-th call, and what the log tells its callers then
    __main__.py     `make crash`: as long as one likes

Each harness has a test that plants the defect it exists for, and sees it found.
"""

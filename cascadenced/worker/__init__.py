"""A worker process: performs the stages of one run for the daemon, and ends with it. Floor 5.

    __main__.py   the process: limits, import, one stage after the other
    channel.py    what is said between it and the daemon (the words: runtime/worker_protocol.py)
    host.py       what the task may ask of the daemon meanwhile
    perform.py    one stage: the task's code, and how it went

It is started for each run, so it imports little: no asyncio, for one, before a hook is a coroutine.
"""

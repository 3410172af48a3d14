"""Effects and requests, one kind a file. Floor 5.

run_stage.py     do the current stage of a run, say how it went
replay.py        a run's code, performed again against what is recorded of it
failure.py       what an exception of task code says
run_requests.py  a run, or a workflow, is asked for
forks.py         a run that begins with the results of another one is asked for
sources.py       what counts as the same request
commands.py      what the bus brings → the handler that records it
facts.py         pointers, schedules, reports, ideas and notes: recorded, starting nothing
research.py      the answer to a research query
publications.py  what the bus is told
followups.py     the capability planner: failed runs → follow-ups
dead_letters.py  what could not be read: sealed, recorded, read again
"""

"""Effects and requests, one kind a file. Floor 5.

run_stage.py     do the current stage of a run, say how it went
replay.py        a run's code, performed again against what is recorded of it
failure.py       what an exception of task code says
run_requests.py  a run, or a workflow, is asked for
prerequisites.py runs of the tasks that one must run after
schedule_requests.py  a schedule is set, changed, paused, removed
schedule_file.py schedules.yml, kept in step with them
recurring.py     an event that says how it recurs becomes a schedule
ticks.py         what is due is settled: its run asked for, or why there is none
forks.py         a run that begins with the results of another one is asked for
sources.py       what counts as the same request
commands.py      what the bus brings → the handler that records it
facts.py         pointers, reports, ideas and notes: recorded, starting nothing
research.py      the answer to a research query
publications.py  what the bus is told
followups.py     the capability planner: failed runs → follow-ups
dead_letters.py  what could not be read: sealed, recorded, read again
"""

"""Effects and requests, one kind a file. Floor 5.

run_stage.py     do the current stage of a run, say how it went
steps.py         its steps and waits: done once, and answered from the record after that
plan.py          what `plan()` returned: data, or tasks
research.py      the answer to a research query
process_stage.py a stage in a process of the run's own (worker_outcome.py: how it went there)
task_host.py     what a run's code may ask of the daemon
failure.py       what an exception of task code says
replay.py        a run's code, performed again against what is recorded of it
control_requests.py  somebody wants to control a run or a task
run_requests.py  a run, or a workflow, is asked for
prerequisites.py runs of the tasks that one must run after
schedule_requests.py  a schedule is set, changed, paused, removed
schedule_file.py schedules.yml, kept in step with them
recurring.py     an event that says how it recurs becomes a schedule
calendar_polls.py  nodes of the calendar, read now and then (calendar_nodes.py: one of them)
ticks.py         what is due is settled: its run asked for, or why there is none
backfills.py     runs for due instants of the past, because somebody asks for them
forks.py         a run that begins with the results of another one is asked for
sources.py       what counts as the same request
people.py        who is named in one batch of messages
commands.py      what the bus brings → the handler that records it
facts.py         pointers, reports, ideas and notes: recorded, starting nothing
publications.py  what the bus is told
followups.py     the capability planner: failed runs → follow-ups
dead_letters.py  what could not be read: sealed, recorded, read again
"""

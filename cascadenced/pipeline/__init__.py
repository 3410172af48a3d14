"""What a run, a task and the planner do next, without doing it. Floor 2: state + event → events; no I/O, no clock.

model.py      Run, the six stages, and `evolve`: a run's events → its state
decide.py     what follows from an event of a run
doubts.py     effects that may have happened and must not happen twice
resume.py     how a run goes on that nobody performs: after a crash, a stop, a pause or a wait
control.py    what others may ask of a run under way
access.py     who may
contexts.py   what it may be told
asks.py       what a stage may ask for on its way
explain.py    why a run is as it is, and what can be done about it
timeline.py   the decisions in its life
fork.py       a new run that begins with what another one has behind it
passes.py     what its code did, as far as it can be done again
run_diff.py   where two runs differ
json_diff.py  where two values do
policy.py     what a task asks for: retries, time limits, at most once
admission.py  may this task run now; what enable, disable, pause and resume record
graph.py      which tasks one must run after
nesting.py    how deep plans may lie within plans
queue.py      which queued run starts next: limits of tasks, priorities, turns of groups
followups.py  what the planner does about a failed run
"""

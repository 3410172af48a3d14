"""Effects and requests, one kind a file. Floor 5.

run_stage.py     do the current stage of a run, say how it went
run_requests.py  a run, or a workflow, is asked for
pointers.py  ideas.py  schedules.py  reports.py   what else others may tell us
followups.py     the capability planner: failed runs → follow-ups
dead_letters.py  what could not be read: sealed, recorded, read again
"""

"""When a schedule is due. Floor 2: text + zone + instant → instants; no clock, and no I/O but for the zones' rules.

cron.py        a cron expression: which local minutes it means, and the next of them
cron_text.py   its spelling, read and refused
rrule.py       an iCalendar rule: likewise
rrule_text.py  its spelling
interval.py    every n seconds
one_off.py     once
walls.py       what clocks on walls show, as numbers; what a recurrence of such times offers
zones.py       what a zone's clocks do, as stretches of one offset
dst.py         what is done about local times that there are not, or twice
due.py         instants that are due: `following`, `next_due`
explain.py     why an instant, or a local time, is due or is not
exclusions.py  days and stretches of time without any
ics.py         such stretches, from a calendar file
jitter.py      a delay of its own for each instant

Instants are whole microseconds since 1970 (`…_us`). A wall time is what clocks on the wall of the zone show, as seconds
since 1970-01-01T00:00 on that same wall (`wall_s`): a number that knows nothing of offsets.
"""

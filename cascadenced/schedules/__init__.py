"""What becomes of the due instants of a schedule, without doing it. Floor 2; pure.

definition.py     what people write of one → a rule
calendar_node.py  what a calendar's node says → part of a rule
timetable.py      a rule → its due instants
model.py          a schedule, folded from its stream
decide.py         due instants + state + now → records
explain.py        what became of an instant, in words
preview.py        when it is due next, for people
simulate.py       what schedules would do over a time
file_text.py      schedules.yml, read and written
file_entries.py   what its entries ask for

When something is due is `recurrence/`'s to say; here is what is made of it.
"""

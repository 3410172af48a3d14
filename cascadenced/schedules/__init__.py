"""What becomes of the due instants of a schedule, without doing it. Floor 2; pure.

model.py   a schedule, folded from its stream
decide.py  due instants + state + now → records

When something is due is `recurrence/`'s to say; here is what is made of it.
"""

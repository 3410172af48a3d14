"""What can happen, and how it is spelled. Floor 0: nouns, no I/O.

base.py       Event, Context, Recorded
run.py stage.py task.py pointer.py schedule.py followup.py idea.py workflow.py dead_letter.py system.py   families
catalogue.py  all of them; the decoder of the log's own bytes
schema.py     all of them as a JSON Schema
upcast.py     stored shapes of the past
content.py    users' values ⇄ JSON, exactly or not at all
strict.py     bytes from outside → a JSON value, or BadMessage
subjects.py   names ⇄ NATS subjects
inbound.py    message → command
audit.py      event → the stage and audit rows people know
outbound.py   event → the messages we publish
"""

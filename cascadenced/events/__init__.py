"""What can happen, and how it is spelled. Floor 0: nouns, no I/O.

base.py       Event, Context, Recorded
run.py stage.py step.py wait.py child.py signal.py task.py pointer.py schedule.py followup.py idea.py workflow.py
dead_letter.py system.py   families
place.py      where in a stage's code a step or a wait stands
streams.py    what the streams of the log are called
catalogue.py  all of them; the decoder of the log's own bytes
schema.py     all of them as a JSON Schema
upcast.py     stored shapes of the past
content.py    users' values ⇄ JSON, exactly or not at all
strict.py     bytes from outside → a JSON value, or BadMessage
subjects.py   names ⇄ NATS subjects
inbound.py    message → command (received.py: the bodies of messages)
audit.py      event → the stage and audit rows people know
outbound.py   event → the messages we publish (bodies.py: their bodies; outgoing.py: their headers)
run_file.py   a run in a file
"""

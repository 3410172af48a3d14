"""The command line, one file per family. Floor 6.

line.py      argv → a command by name, and every error → a line and an exit code
door.py      how a command reaches the data: the daemon's socket, or the folder itself
folder.py    whether there is a log at all
wire.py      a verb over the Unix socket, with nothing but the standard library
shelf.py     a data folder to read in
offline.py   a verb without a daemon: read the file, or hold the lock and do it here
session.py   what every command is given: configuration, `ask`, `show`
quiet.py     stdout stays the answer's while task code runs in this process
failures.py  an error → a line and an exit code
options.py   the options that every command takes, and JSON as an argument
transport.py options of the predecessor
tables.py    text for people: columns, colours on a terminal, nothing that could drive it

tasks.py  runs.py  control.py  explain.py  forks.py  run_files.py  events.py  schedules.py  graph.py  pointers.py
dead_letters.py  log.py  doctor.py  up.py
log_file.py examination.py run_file.py demo.py   the work of `log`, `doctor`, `export` and `replay`, and `demo`

The modules that declare commands, and what they import, do without heavy things, msgspec and pathlib included (13 and
7 ms): a command that finds a daemon must not take much longer than its interpreter and click (59 ms). Whatever needs
more has a module of its own, imported inside the function that calls it.
"""

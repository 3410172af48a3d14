"""The one durable truth. Floor 1; no other folder imports sqlite3 or aiosqlite for the log.

base.py       EventLog, Tables, Projection: the contracts, with their promises
sequence.py   the rule of a commit: numbers, chain, refusals; shared by both logs
chain.py      the hash chain
sqlite.py     the real log: writer thread, natural group commit
intake.py     what waits for that thread, in order
database.py   opening the file, pragmas, migrations, checking the chain on disk
rows.py bulk.py script.py   rows ⇄ events; many rows in few statements; SQL scripts
folding.py    projections inside the transaction; frozen when they raise
reader.py     reading the file, also beside a daemon
at_rest.py    the file as it lies there: is it whole, and its rows
tail.py       observers and followers
memory.py     the double
lock.py       one writer per data folder
place.py      is the file still where it was opened?
copying.py    a copy beside the writer; checking a log that lies still
"""

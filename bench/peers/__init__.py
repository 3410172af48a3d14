"""The same work by other systems, side by side with ours: `python -m bench.peers`.

catalogue.py      what is compared with what, and the goals
environments.py   a virtual environment for each peer, under .bench, with pinned versions
dbos_runs.py  huey_runs.py  faststream_chain.py    what runs in those environments; they import nothing of ours but
                  what needs no package
"""

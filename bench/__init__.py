"""Measurements, not tests: each states its workload and units and is compared with its limit in the same run.

`python -m bench` runs them in interleaved rounds; `docs/benchmarks.md` says what each figure means.

command_line.py  the command: what, how often, table, JSON
catalogue.py     what is measured, beside what, and the goals
sides.py         the words: Side, Ratio, Goal, Benchmark
apart.py         each measurement in a process of its own
rounds.py        rounds → medians and ratios
report.py        medians → table and JSON
machine.py       what this machine is

durable_runs.py  runs through the engine: everything the daemon has but NATS and HTTP
growth.py        the same with many events in the log
ingest.py        JetStream → log → acknowledged, beside two loops that do less
full_path.py     JetStream → five stages → events out, on the real daemon
rebuild.py       projections folded again, beside reading and decoding the same rows
status_gets.py   GETs on the daemon, beside a bare aiohttp application
commands.py      start-up, commands, the idle daemon

engine.py  workloads.py  prefilled.py  raw_sqlite.py  disk.py  percentiles.py    what they share: work and limits
daemon_process.py  nats_process.py  processes.py  load_generator.py  bare_http.py  what they share: processes
peers/           the same work by other systems, each in an environment of its own (`make bench-peers`)
chart.py  publish.py    the figures → docs/benchmarks.svg and docs/benchmarks.md (`make bench-docs`)
"""

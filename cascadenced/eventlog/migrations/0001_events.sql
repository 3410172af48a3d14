-- The log itself. Rows are added and never changed; the triggers hold anybody to that who opens the file by hand.
CREATE TABLE events (
    position    INTEGER PRIMARY KEY,  -- 1, 2, 3 … without gaps: the total order
    id          TEXT    NOT NULL,     -- event id, 32 hex digits, rising
    stream      TEXT    NOT NULL,     -- run-…, task-…, pointer-…, schedule-…, workflow-…, system, …
    version     INTEGER NOT NULL,     -- place within the stream, from 1
    type        TEXT    NOT NULL,     -- e.g. stage.finished
    at_us       INTEGER NOT NULL,     -- UTC, microseconds since 1970
    origin      TEXT    NOT NULL,     -- instance that recorded it
    epoch       INTEGER NOT NULL,     -- which opening of this file for writing, from 1
    source      TEXT,                 -- what the outside called the append; on its first event only
    user_hash   TEXT,                 -- pseudonym
    group_hash  TEXT,                 -- pseudonym
    run_id      TEXT,                 -- the run it belongs to
    cause       TEXT,                 -- id of the event that led to it
    correlation TEXT,                 -- one id for the whole story
    traceparent TEXT,                 -- W3C trace context of whoever asked
    schema      INTEGER NOT NULL,     -- shape of data, see events/upcast.py
    data        BLOB    NOT NULL,     -- JSON of the event
    hash        BLOB    NOT NULL      -- SHA-256(previous hash ‖ canonical header ‖ SHA-256(data))
) STRICT;
CREATE UNIQUE INDEX events_stream ON events (stream, version);
CREATE UNIQUE INDEX events_source ON events (source) WHERE source IS NOT NULL;

CREATE TRIGGER events_are_not_changed BEFORE UPDATE ON events
BEGIN SELECT raise(ABORT, 'events are never changed'); END;
CREATE TRIGGER events_are_not_deleted BEFORE DELETE ON events
BEGIN SELECT raise(ABORT, 'events are never deleted'); END;

-- Where the chain starts: the hash "before" the first event of this file.
CREATE TABLE anchor (
    position INTEGER PRIMARY KEY,  -- position of the last event that is not in this file, 0 for none
    hash     BLOB NOT NULL         -- its hash; random for a log that starts here
) STRICT;

-- Streams with an opening event and no terminal one: what a restart has to look at. Kept by the log, not by a projection.
CREATE TABLE unfinished (
    stream   TEXT PRIMARY KEY,
    position INTEGER NOT NULL  -- of the opening event
) STRICT, WITHOUT ROWID;

-- How far each follower of the log has come.
CREATE TABLE checkpoints (
    name     TEXT PRIMARY KEY,
    position INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row per projection.
CREATE TABLE projections (
    name        TEXT PRIMARY KEY,
    version     INTEGER NOT NULL,  -- of its code; another one means: rebuild
    position    INTEGER,           -- NULL: folded with every append; else frozen at this position
    reason      TEXT,              -- why it is frozen
    frozen_at_us INTEGER
) STRICT, WITHOUT ROWID;

-- Facts about this file: epoch, instance_id.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

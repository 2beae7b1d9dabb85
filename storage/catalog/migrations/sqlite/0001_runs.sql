-- One row is one run of a job, and the only truth about it.
CREATE TABLE runs (
    id             TEXT PRIMARY KEY NOT NULL,
    kind           TEXT NOT NULL,
    spec           TEXT NOT NULL,
    state          TEXT NOT NULL CHECK (state IN ('queued', 'running', 'stopping', 'stopped', 'completed', 'failed')),
    lease_owner    TEXT,
    lease_until_ms INTEGER,
    -- Rises with every lease; what carries an older one is refused.
    fence          INTEGER NOT NULL DEFAULT 0,
    checkpoint     TEXT,
    progress       TEXT NOT NULL DEFAULT '{}',
    error          TEXT,
    created_at_ms  INTEGER NOT NULL,
    updated_at_ms  INTEGER NOT NULL
) STRICT;

CREATE INDEX runs_by_kind_and_state ON runs (kind, state);

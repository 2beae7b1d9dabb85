-- One row is one run of a job, and the only truth about it. As in SQLite: times and texts are the program's.
CREATE TABLE runs (
    -- Ids sort by time; a language's rules for sorting would mix them.
    id             TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    kind           TEXT COLLATE "C" NOT NULL,
    spec           TEXT NOT NULL,
    state          TEXT NOT NULL CHECK (state IN ('queued', 'running', 'stopping', 'stopped', 'completed', 'failed')),
    lease_owner    TEXT,
    lease_until_ms BIGINT,
    -- Rises with every lease; what carries an older one is refused.
    fence          BIGINT NOT NULL DEFAULT 0,
    checkpoint     TEXT,
    progress       TEXT NOT NULL DEFAULT '{}',
    error          TEXT,
    created_at_ms  BIGINT NOT NULL,
    updated_at_ms  BIGINT NOT NULL
);

CREATE INDEX runs_by_kind_and_state ON runs (kind, state);

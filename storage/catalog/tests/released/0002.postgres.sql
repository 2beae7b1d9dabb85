-- A catalog as the release that ended with migration 2 leaves it.
CREATE TABLE _sqlx_migrations (
    version BIGINT PRIMARY KEY,
    description TEXT NOT NULL,
    installed_on TIMESTAMPTZ NOT NULL DEFAULT now(),
    success BOOLEAN NOT NULL,
    checksum BYTEA NOT NULL,
    execution_time BIGINT NOT NULL
);
INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
  VALUES (1, 'runs', TRUE, '\xcbadf973627cf2590691739689f6feef224733b521fbbfa17f347b3fef92b046e8117f60c5845e91c154cd63f4dc4435', 1000),
         (2, 'source keys', TRUE, '\x5d1370b4be895fdc015c6dfac7fc4e6ccb6c95027b0d26667368d55a01d26ccca21f33b44822c74d7d7123a97ed1a2d9', 1000);
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

INSERT INTO runs (id, kind, spec, state, lease_owner, lease_until_ms, fence, checkpoint, progress, error, created_at_ms, updated_at_ms) VALUES
  ('train-0199a0000000700080000000000000aa', 'train', '{"seed":7}', 'running', 'host-1', 1700000010000, 3,
   'checkpoints/000120', '{"steps":120}', NULL, 1700000000000, 1700000001000),
  ('train-0199a0000000700080000000000000bb', 'train', '{}', 'failed', NULL, NULL, 1, NULL, '{}', 'the disk is full', 1700000000001, 1700000002000),
  ('judge-0199a0000000700080000000000000cc', 'judge', '{}', 'queued', NULL, NULL, 0, NULL, '{}', NULL, 1700000000002, 1700000000002);

-- One row is one key with which a program outside hands in events. The secret is not here, only its SHA-256.
CREATE TABLE source_keys (
    id             TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    name           TEXT,
    -- Game ids that it may write begin so.
    prefix         TEXT COLLATE "C" NOT NULL CHECK (prefix <> ''),
    secret_sha256  TEXT NOT NULL CHECK (length(secret_sha256) = 64),
    created_at_ms  BIGINT NOT NULL,
    expires_at_ms  BIGINT,
    revoked_at_ms  BIGINT,
    last_used_ms   BIGINT
);

INSERT INTO source_keys (id, name, prefix, secret_sha256, created_at_ms, expires_at_ms, revoked_at_ms, last_used_ms) VALUES
  ('k3Yq0aBcD1eF', 'the arena', 'arena-', 'abababababababababababababababababababababababababababababababab', 1700000000003, 1800000000000, NULL, 1700000003000),
  ('k4Yq0aBcD1eF', NULL, 'old-', '0101010101010101010101010101010101010101010101010101010101010101', 1700000000002, NULL, 1700000004000, NULL);

-- A catalog as the release that ended with migration 2 leaves it.
CREATE TABLE _sqlx_migrations (
    version BIGINT PRIMARY KEY,
    description TEXT NOT NULL,
    installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    success BOOLEAN NOT NULL,
    checksum BLOB NOT NULL,
    execution_time BIGINT NOT NULL
);
INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
  VALUES (1, 'runs', TRUE, X'052278901852fb73fcbd2c80d38d5e4f32f1c17c450184751539435e3410313cf713bdca674f7c09c311a8a12c96ecd6', 1000),
         (2, 'source keys', TRUE, X'37f5a5264c225ffe34ff1e913e696db711444672d33ac8f6d67be46a279b06e511cf16a0193ce173061cdc2e07b79dac', 1000);
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

INSERT INTO runs (id, kind, spec, state, lease_owner, lease_until_ms, fence, checkpoint, progress, error, created_at_ms, updated_at_ms) VALUES
  ('train-0199a0000000700080000000000000aa', 'train', '{"seed":7}', 'running', 'host-1', 1700000010000, 3,
   'checkpoints/000120', '{"steps":120}', NULL, 1700000000000, 1700000001000),
  ('train-0199a0000000700080000000000000bb', 'train', '{}', 'failed', NULL, NULL, 1, NULL, '{}', 'the disk is full', 1700000000001, 1700000002000),
  ('judge-0199a0000000700080000000000000cc', 'judge', '{}', 'queued', NULL, NULL, 0, NULL, '{}', NULL, 1700000000002, 1700000000002);

-- One row is one key with which a program outside hands in events. The secret is not here, only its SHA-256.
CREATE TABLE source_keys (
    id             TEXT PRIMARY KEY NOT NULL,
    name           TEXT,
    -- Game ids that it may write begin so.
    prefix         TEXT NOT NULL CHECK (prefix <> ''),
    secret_sha256  TEXT NOT NULL CHECK (length(secret_sha256) = 64),
    created_at_ms  INTEGER NOT NULL,
    expires_at_ms  INTEGER,
    revoked_at_ms  INTEGER,
    last_used_ms   INTEGER
) STRICT;

INSERT INTO source_keys (id, name, prefix, secret_sha256, created_at_ms, expires_at_ms, revoked_at_ms, last_used_ms) VALUES
  ('k3Yq0aBcD1eF', 'the arena', 'arena-', 'abababababababababababababababababababababababababababababababab', 1700000000003, 1800000000000, NULL, 1700000003000),
  ('k4Yq0aBcD1eF', NULL, 'old-', '0101010101010101010101010101010101010101010101010101010101010101', 1700000000002, NULL, 1700000004000, NULL);

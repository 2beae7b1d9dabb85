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

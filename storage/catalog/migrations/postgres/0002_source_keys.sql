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

-- One OAuth grant per account over all replicas: whoever exchanges a refresh token claims that first, under the row's lock.

CREATE TABLE grants (
    account     text        NOT NULL,
    generation  bigint      NOT NULL DEFAULT 0,
    key_id      bytea,
    sealed      bytea,
    configured  bytea       NOT NULL,
    former      bytea[]     NOT NULL DEFAULT '{}',
    kept_at     timestamptz,
    renew_at    timestamptz,
    expires_at  timestamptz,
    refused_at  timestamptz,
    refused     text,
    claim       uuid,
    claim_until timestamptz,
    doubt_at    timestamptz,
    CONSTRAINT grants_pkey PRIMARY KEY (account),
    CONSTRAINT grants_sealed CHECK ((sealed IS NULL) = (key_id IS NULL) AND (sealed IS NULL) = (kept_at IS NULL)),
    CONSTRAINT grants_times CHECK ((kept_at IS NULL) = (renew_at IS NULL) AND (kept_at IS NULL) = (expires_at IS NULL)),
    CONSTRAINT grants_refused CHECK ((refused IS NULL) = (refused_at IS NULL)),
    CONSTRAINT grants_claim CHECK ((claim IS NULL) = (claim_until IS NULL))
);
COMMENT ON TABLE grants IS 'What each account that is authorized by OAuth holds now. Its row is the lock under which an exchange is claimed; losing it costs a new authorization and no event.';
COMMENT ON COLUMN grants.account IS 'The configured name: a name of its own, because a standby that owns no shard needs it too.';
COMMENT ON COLUMN grants.generation IS 'Counts the grants that were kept.';
COMMENT ON COLUMN grants.key_id IS 'Which key sealed it: a part of a hash, so that a wrong key file is told from a broken row.';
COMMENT ON COLUMN grants.sealed IS 'Version, nonce, and the refresh and access token under ChaCha20-Poly1305, bound to the account''s name.';
COMMENT ON COLUMN grants.configured IS 'Which configured refresh token it began with: a part of its SHA-256. Another one that was never there before replaces the grant.';
COMMENT ON COLUMN grants.former IS 'Those before it: a replica that still has one of them is behind, and does not bring it back.';
COMMENT ON COLUMN grants.kept_at IS 'When the tokens were kept.';
COMMENT ON COLUMN grants.renew_at IS 'When the access token shall be renewed: at 80 % of its life.';
COMMENT ON COLUMN grants.expires_at IS 'When the access token ends.';
COMMENT ON COLUMN grants.refused_at IS 'reauth_required since then: the vendor has refused the refresh token, and it is not tried again.';
COMMENT ON COLUMN grants.refused IS 'What the vendor said to it.';
COMMENT ON COLUMN grants.claim IS 'The exchange that is under way.';
COMMENT ON COLUMN grants.claim_until IS 'Until when nobody else may begin one.';
COMMENT ON COLUMN grants.doubt_at IS 'When an exchange was begun of which nothing is known since: its refresh token may be spent.';

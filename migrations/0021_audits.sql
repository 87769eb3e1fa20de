-- What the continuous audit of the Kafka sinks has found.

CREATE TABLE audits (
    sink     text        NOT NULL,
    shard    smallint    NOT NULL,
    since    timestamptz NOT NULL DEFAULT clock_timestamp(),
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    judged   bigint      NOT NULL DEFAULT 0,
    found    bigint      NOT NULL DEFAULT 0,
    finding  text,
    found_at timestamptz,
    error    text,
    CONSTRAINT audits_pkey PRIMARY KEY (sink, shard),
    CONSTRAINT audits_sink_fkey FOREIGN KEY (sink, shard) REFERENCES sinks (sink, shard) ON DELETE CASCADE,
    CONSTRAINT audits_finding_is_dated CHECK ((finding IS NULL) = (found_at IS NULL))
);
COMMENT ON TABLE audits IS 'What the continuous audit has found, one row for each Kafka sink and shard; written by the shard''s owner.';
COMMENT ON COLUMN audits.sink IS 'The sink.';
COMMENT ON COLUMN audits.shard IS 'The shard.';
COMMENT ON COLUMN audits.since IS 'When it was audited first.';
COMMENT ON COLUMN audits.at IS 'When it was audited last.';
COMMENT ON COLUMN audits.judged IS 'Messages that were judged since.';
COMMENT ON COLUMN audits.found IS 'Those of them that were not as they should be.';
COMMENT ON COLUMN audits.finding IS 'The last finding, in words.';
COMMENT ON COLUMN audits.found_at IS 'When it was found.';
COMMENT ON COLUMN audits.error IS 'Why the audit does not follow now; null while it does.';

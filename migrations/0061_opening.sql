-- A partition's first message from a sink is noted before it is committed: if Kafka loses the cursor behind it, nothing else tells.

ALTER TABLE sinks ADD COLUMN opening bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN sinks.opening IS 'The last seq of the last Kafka transaction that was to hold the sink''s first message to a partition, noted before it was committed; 0 where there was none.';

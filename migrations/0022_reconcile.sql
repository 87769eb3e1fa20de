-- An operator's order to a Kafka sink: find what is missing in its topics, and emit it.

ALTER TABLE sinks ADD COLUMN reconcile_at timestamptz;
COMMENT ON COLUMN sinks.reconcile_at IS 'When an operator ordered a Kafka sink to be reconciled with its topics; null once it is. A seek ordered later takes its place.';

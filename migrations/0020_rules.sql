-- By which rules a sink delivers: `verify` judges by the configured ones only what was delivered by them.

ALTER TABLE sinks
    ADD COLUMN rules       text,
    ADD COLUMN rules_after bigint,
    ADD CONSTRAINT sinks_rules_have_a_place CHECK ((rules IS NULL) = (rules_after IS NULL));
COMMENT ON COLUMN sinks.rules IS 'The fingerprint of the filter and templates by which a Kafka sink delivers; null before its first start with a program that notes them.';
COMMENT ON COLUMN sinks.rules_after IS 'The last seq that it took before it had them.';

-- Where a delivered event stands: what a topic has lost of its own end, no skip explains.

ALTER TABLE skips ADD COLUMN at_seq bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN skips.at_seq IS 'The seq under which it was delivered; 0 where an older program did not note it.';

-- Under which seq a delivered event stands: a skip explains that it is not under its new one only while that message is there.

ALTER TABLE skips ADD COLUMN at_seq bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN skips.at_seq IS 'The seq under which it was delivered; 0 where an older program did not note it.';

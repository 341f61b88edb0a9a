-- The highest fence of the host's epoch to which its agent has answered with an end: a ledger that knows less was set back.
ALTER TABLE hosts ADD COLUMN answered_fence bigint NOT NULL DEFAULT 0;

-- What changed, for those who watch: one row for each tenant in a transaction, written with the change itself.
CREATE TABLE changes (
    -- Numbers are given before they commit, so a reader who has seen the highest has not seen all below it. By this column it takes
    -- only what nothing can come before any more: what is below `pg_snapshot_xmin(pg_current_snapshot())`.
    xid      xid8 NOT NULL DEFAULT pg_current_xact_id(),
    seq      bigint GENERATED ALWAYS AS IDENTITY,
    tenant   text NOT NULL,
    at       timestamptz NOT NULL DEFAULT now(),
    -- A line each: `job` or a resource's kind; its id; `created`, `updated` or `deleted`; of a job, the state that it was left in.
    -- Text, for it costs a tenth of what arrays do, and uncompressed, for the same reason.
    entries  text NOT NULL CHECK (entries <> ''),
    PRIMARY KEY (xid, seq)
);
ALTER TABLE changes ALTER COLUMN entries SET STORAGE EXTERNAL;
CREATE INDEX changes_tenant ON changes (tenant, xid, seq);

-- The last row that was forgotten: who was not past it has missed something.
CREATE TABLE changes_forgotten (
    one  boolean PRIMARY KEY DEFAULT true CHECK (one),
    xid  xid8 NOT NULL DEFAULT '0',
    seq  bigint NOT NULL DEFAULT 0
);
INSERT INTO changes_forgotten DEFAULT VALUES;

-- By what a resource that is gone is judged, for as long as its changes are kept; without a row it had no tags and was not public.
CREATE TABLE gone_resources (
    id      uuid PRIMARY KEY,
    tags    jsonb NOT NULL,
    public  boolean NOT NULL,
    at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX gone_resources_at ON gone_resources (at);

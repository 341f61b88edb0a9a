-- Jobs that operators abandoned in their undo, for as long as something of them may be on their host: what they reserved stays
-- reserved, and the host's floor does not pass them.
CREATE TABLE abandoned (
    job_id       uuid PRIMARY KEY,
    resource_id  uuid NOT NULL,
    tenant       text NOT NULL,
    host         text NOT NULL,
    -- Of the job on that host.
    first_fence  bigint NOT NULL,
    -- Of its last order: what its host says of it since is below or at this.
    fence        bigint NOT NULL,
    at           timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX abandoned_host ON abandoned (host, first_fence);
CREATE INDEX abandoned_resource ON abandoned (resource_id);

-- Hosts whose agents know a fence above the sequence: this database was set back. While there is one, nothing is dispatched.
CREATE TABLE set_backs (
    host     text PRIMARY KEY,
    -- The agent's highest fence.
    seen     bigint NOT NULL,
    -- The sequence's last value then.
    last     bigint NOT NULL,
    at       timestamptz NOT NULL DEFAULT now()
);

-- Due jobs that need no turn: they hold a slot, or something is to be taken back.
CREATE INDEX jobs_due_no_turn ON jobs (tenant, due)
    WHERE due IS NOT NULL AND (holds_slot OR mode = 'undo' OR state = 'undoing' OR cancel_requested_at IS NOT NULL);

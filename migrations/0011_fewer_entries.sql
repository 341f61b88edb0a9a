-- An entry in an index costs about as much as the row. What a job's way does not need is not written, and what it needs is written so
-- that only one index can answer it: with two that could, the planner takes either, and one of them reads all that is open.

-- Due jobs of a tenant, those first that need no turn (they hold a slot, or something is to be taken back). The expression is the one
-- in `store/src/dispatch/begin.rs`.
CREATE INDEX jobs_turn ON jobs (
    tenant, (CASE WHEN holds_slot OR mode = 'undo' OR state = 'undoing' OR cancel_requested_at IS NOT NULL THEN 0 ELSE 1 END), due, seq
) WHERE due IS NOT NULL;
DROP INDEX jobs_due;
DROP INDEX jobs_due_held;
DROP INDEX jobs_due_no_turn;

-- Of what is open only what is being undone is ever asked for by its state.
CREATE INDEX jobs_undoing ON jobs (id) WHERE state = 'undoing';
DROP INDEX jobs_open;

-- One active job for each resource: active is what a host has. On the job itself, so that `job_resources.active` can change where it is.
CREATE UNIQUE INDEX jobs_active ON jobs (resource_id) WHERE ended_at IS NULL AND host IS NOT NULL;
DROP INDEX job_resources_active;

-- What is on a host is found by its reservations, which everything on a host has.
DROP INDEX resources_host;

-- Which hosts keep which images is read with every view of the hosts, from the images on.
CREATE INDEX resources_images ON resources (id) WHERE kind = 'image';

-- Frozen steps are long enough to be compressed; this way costs a tenth. A server that was built without it goes on as before.
DO $$
BEGIN
    ALTER TABLE jobs ALTER COLUMN frozen SET COMPRESSION lz4, ALTER COLUMN steps SET COMPRESSION lz4,
                     ALTER COLUMN spec SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END $$;

-- What the sweep looks for, in pages: by these it reads the rows that it looks at, and no others.

-- Orders that are out. Its order is that of the pages: without statistics a sort of all of them looks as cheap.
CREATE INDEX jobs_quiet ON jobs (dispatched_at, id) WHERE dispatched_at IS NOT NULL;
CREATE INDEX jobs_deadline ON jobs (deadline_at, id) WHERE ended_at IS NULL AND mode = 'forward';
CREATE INDEX jobs_blocked ON jobs (id) WHERE state = 'blocked' AND due IS NULL;
-- The reason is that of the metric `rhyzome_jobs_waiting`: a job that says nothing yet waits for a reference or for its turn.
CREATE INDEX jobs_waiting ON jobs (
    (coalesce(waiting ->> 'reason', CASE WHEN state = 'blocked' THEN 'reference' ELSE 'turn' END)), created_at, id
) WHERE ended_at IS NULL AND dispatched_at IS NULL;

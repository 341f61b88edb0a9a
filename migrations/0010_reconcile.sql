-- What hosts hold otherwise than is applied, as the checks found it, for as long as they find it.
CREATE TABLE amiss (
    host         text NOT NULL REFERENCES hosts (name) ON DELETE CASCADE,
    -- Of a resource, or what the host calls what it holds.
    resource_id  uuid NOT NULL,
    -- It lives there and isn't all there, or it is not to be there.
    wrong        text NOT NULL CHECK (wrong IN ('incomplete', 'stray')),
    since        timestamptz NOT NULL DEFAULT now(),
    -- Jobs that were made to mend it, and when the last one was.
    tries        integer NOT NULL DEFAULT 0,
    tried_at     timestamptz,
    PRIMARY KEY (host, resource_id)
);

-- The host that a job goes to, whatever host its resource is on: its steps are frozen from the acceptance on.
ALTER TABLE jobs ADD COLUMN pinned_host text;

-- Of a row that is nobody's, and stands in for what a host holds of nobody while that is in quarantine: {"host", "steps": [what
-- removes it]}. Deleting it goes to that host.
ALTER TABLE resources ADD COLUMN stand_in jsonb;

-- When the host's ledger was found to be an older copy of itself: what lives there may be older, too, until it was made so again since.
ALTER TABLE hosts ADD COLUMN put_back_at timestamptz;

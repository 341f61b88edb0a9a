-- Two agents with one name and certificate, each with a ledger of its own, take turns in being the host. That is told from one agent that
-- lost its ledger, or was put back, by ledgers that come back, and come back again.
ALTER TABLE hosts
    -- Ledgers that were the host's before the present one, the last first.
    ADD COLUMN ledgers_before     text[] NOT NULL DEFAULT '{}',
    -- When the present one came back after another had taken its place; none if it never did.
    ADD COLUMN ledger_returned_at timestamptz,
    -- When the present one said hello last.
    ADD COLUMN ledger_heard_at    timestamptz,
    -- When another was refused last.
    ADD COLUMN rival_at           timestamptz;

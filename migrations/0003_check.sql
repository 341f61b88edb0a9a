-- What the check of the books needs beside the books.

-- How far a host is reserved above what it offers, as was judged so: it came to offer less, or an image's file turned out larger.
-- Whatever is used above `vcpus + over_vcpus` nobody judged.
ALTER TABLE hosts
    ADD COLUMN over_vcpus         bigint NOT NULL DEFAULT 0,
    ADD COLUMN over_memory_mib    bigint NOT NULL DEFAULT 0,
    ADD COLUMN over_disk_gib      bigint NOT NULL DEFAULT 0,
    -- A moment before the agent began to look for `inventory`; null while none is known.
    ADD COLUMN inventory_asked_at timestamptz;
UPDATE hosts SET over_vcpus = greatest(used_vcpus - vcpus, 0), over_memory_mib = greatest(used_memory_mib - memory_mib, 0),
                 over_disk_gib = greatest(used_disk_gib - disk_gib, 0);

-- The last check: one row. Who takes it in time checks; everyone shows what it found.
CREATE TABLE check_runs (
    one         boolean PRIMARY KEY DEFAULT true CHECK (one),
    taken_until timestamptz NOT NULL DEFAULT '-infinity',
    checked_at  timestamptz,
    -- [{check, ids, …}] as of then.
    violations  jsonb NOT NULL DEFAULT '[]'
);
INSERT INTO check_runs DEFAULT VALUES;

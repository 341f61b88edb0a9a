-- What a tenant may have at most: of a dimension without a row as much as there is. The rows are the lock under which its use is summed.
CREATE TABLE quotas (
    tenant     text NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    -- A kind's plural, "vcpus", "memory_mib", "disk_gib".
    dimension  text NOT NULL,
    most       bigint NOT NULL CHECK (most >= 0),
    PRIMARY KEY (tenant, dimension)
);

-- What counts against the quotas: the most that the intent, what is applied and every open job ask for. Once a resource is on a host,
-- what it has reserved there counts where that is more.
ALTER TABLE resources
    ADD COLUMN asked_vcpus      bigint NOT NULL DEFAULT 0 CHECK (asked_vcpus >= 0),
    ADD COLUMN asked_memory_mib bigint NOT NULL DEFAULT 0 CHECK (asked_memory_mib >= 0),
    ADD COLUMN asked_disk_gib   bigint NOT NULL DEFAULT 0 CHECK (asked_disk_gib >= 0);
UPDATE resources SET
    asked_vcpus = greatest((spec ->> 'vcpus')::bigint, (applied ->> 'vcpus')::bigint, 0),
    asked_memory_mib = greatest((spec ->> 'memory_mib')::bigint, (applied ->> 'memory_mib')::bigint, 0),
    asked_disk_gib = greatest((spec ->> 'root_disk_gib')::bigint, (applied ->> 'root_disk_gib')::bigint, (spec ->> 'min_disk_gib')::bigint, 1)
WHERE kind IN ('image', 'instance');

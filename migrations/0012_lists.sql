-- Lists of jobs, each read in the order of an index, from where the page begins: what a page costs doesn't grow with what there was.

-- A tenant's jobs by state. As many entries as before: with its state a job's row always changed in other indexes, too. Without a state
-- the states are merged. While a process of the version before runs, its lists read and sort all jobs of a tenant.
DROP INDEX jobs_list;
CREATE INDEX jobs_list ON jobs (tenant, state, created_at, id);

-- A resource's jobs, in the order in which they are shown.
DROP INDEX jobs_resource;
CREATE INDEX jobs_resource ON jobs (resource_id, created_at, id);

-- What came to nothing, of all tenants. Only such jobs pay for it.
CREATE INDEX jobs_unsuccessful ON jobs (state, id) WHERE state IN ('failed', 'cancelled');

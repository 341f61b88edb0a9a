-- Rows that are changed a few times soon after they are made find room on their own page, so that a change that touches no index
-- writes none.
ALTER TABLE resources SET (fillfactor = 60);
ALTER TABLE job_resources SET (fillfactor = 70);
ALTER TABLE hosts SET (fillfactor = 50);
ALTER TABLE tenants SET (fillfactor = 50);
ALTER TABLE lease_cursors SET (fillfactor = 50);

-- Until when what is known of a host's guests counts: put off by whoever holds its watch, for as long as its agent is heard. After that
-- its guests are shown as unknown, unless somebody hears the agent all the same (a process of the version before puts nothing off).
ALTER TABLE hosts ADD COLUMN known_until timestamptz;
-- Whether those who watch were told that they are.
ALTER TABLE hosts ADD COLUMN told_unheard boolean NOT NULL DEFAULT false;
UPDATE hosts SET known_until = seen_at + interval '30 seconds';

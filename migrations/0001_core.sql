-- Everything that must be constrained is a row with a constraint. Specs are JSONB; ids are UUIDv7 made by the server.

CREATE SEQUENCE fences AS bigint;
CREATE SEQUENCE job_seq AS bigint;

CREATE TABLE tenants (
    id           text PRIMARY KEY CHECK (id ~ '^[a-z0-9]{1,63}$'),
    properties   jsonb NOT NULL DEFAULT '{}',
    -- Jobs that hold a slot; changed in dispatch and settle alone.
    running      integer NOT NULL DEFAULT 0,
    running_cap  integer NOT NULL DEFAULT 64,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    CHECK (running >= 0 AND running <= running_cap)
);
INSERT INTO tenants (id) VALUES ('system');

-- An issuer is bound to a tenant, or to the operators.
CREATE TABLE issuers (
    url        text NOT NULL,
    audience   text NOT NULL,
    tenant     text NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    operators  boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (url, audience),
    CHECK (NOT operators OR tenant = 'system')
);

CREATE TABLE hosts (
    name             text PRIMARY KEY CHECK (name ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    address          text NOT NULL,
    -- Raised when the ledger is new, when the host is removed, when it is declared dead.
    epoch            bigint NOT NULL DEFAULT 0,
    ledger_id        text,
    cordoned         boolean NOT NULL DEFAULT false,
    labels           jsonb NOT NULL DEFAULT '{}',
    -- Offered (vcpus times overcommit; memory and disk less the reserve).
    vcpus            bigint NOT NULL DEFAULT 0,
    memory_mib       bigint NOT NULL DEFAULT 0,
    disk_gib         bigint NOT NULL DEFAULT 0,
    -- Reserved: the sum of this host's reservations, changed with them.
    used_vcpus       bigint NOT NULL DEFAULT 0 CHECK (used_vcpus >= 0),
    used_memory_mib  bigint NOT NULL DEFAULT 0 CHECK (used_memory_mib >= 0),
    used_disk_gib    bigint NOT NULL DEFAULT 0 CHECK (used_disk_gib >= 0),
    orders_out       integer NOT NULL DEFAULT 0 CHECK (orders_out >= 0),
    facts            jsonb NOT NULL DEFAULT '{}',
    load             jsonb,
    -- The watch is a row lease in database time: who holds it, until when.
    watch_owner      text,
    watch_until      timestamptz,
    -- True while the holder of the watch hears the agent.
    watch_up         boolean NOT NULL DEFAULT false,
    seen_at          timestamptz,
    max_fence        bigint NOT NULL DEFAULT 0,
    inventory        jsonb,
    inventory_at     timestamptz,
    created_at       timestamptz NOT NULL DEFAULT now()
);
-- Epochs of removed hosts, so that a name that comes back begins above.
CREATE TABLE host_epochs (
    name   text PRIMARY KEY,
    epoch  bigint NOT NULL
);

CREATE TABLE resources (
    id                   uuid PRIMARY KEY,
    tenant               text NOT NULL,
    kind                 text NOT NULL,
    name                 text NOT NULL,
    tags                 jsonb NOT NULL DEFAULT '{}',
    -- Intent: written by the API alone.
    spec                 jsonb NOT NULL,
    generation           bigint NOT NULL DEFAULT 1,
    deleting             boolean NOT NULL DEFAULT false,
    public               boolean NOT NULL DEFAULT false,
    -- The spec of the last success.
    applied              jsonb,
    observed_generation  bigint NOT NULL DEFAULT 0,
    -- What the last success found out (an image's digest and sizes).
    facts                jsonb,
    -- What an agent last reported, with when.
    observed             jsonb,
    observed_at          timestamptz,
    reason               jsonb,
    fence                bigint NOT NULL DEFAULT 0,
    host                 text REFERENCES hosts (name),
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT resources_name UNIQUE (tenant, kind, name)
);
CREATE INDEX resources_list ON resources (tenant, kind, created_at, id);
CREATE INDEX resources_host ON resources (host) WHERE host IS NOT NULL;
CREATE INDEX resources_public ON resources (kind, name) WHERE public;

CREATE TABLE resource_refs (
    from_id  uuid NOT NULL REFERENCES resources (id) ON DELETE CASCADE,
    to_id    uuid NOT NULL REFERENCES resources (id) ON DELETE RESTRICT,
    pointer  text NOT NULL,
    PRIMARY KEY (from_id, pointer)
);
CREATE INDEX resource_refs_to ON resource_refs (to_id);

-- One live holder per network and address, and per network and MAC.
CREATE TABLE leases (
    network_id   uuid NOT NULL REFERENCES resources (id) ON DELETE CASCADE,
    ip           inet NOT NULL,
    mac          macaddr NOT NULL,
    hostname     text,
    instance_id  uuid REFERENCES resources (id) ON DELETE CASCADE,
    position     integer NOT NULL DEFAULT 0,
    automatic    boolean NOT NULL,
    PRIMARY KEY (network_id, ip),
    CONSTRAINT leases_mac UNIQUE (network_id, mac),
    CHECK (automatic = (instance_id IS NOT NULL))
);
CREATE INDEX leases_instance ON leases (instance_id) WHERE instance_id IS NOT NULL;

-- Where the search for a free address goes on; its row is the network's allocation lock.
CREATE TABLE lease_cursors (
    network_id  uuid PRIMARY KEY REFERENCES resources (id) ON DELETE CASCADE,
    next        bigint NOT NULL DEFAULT 0
);

-- A network lives on one host, from its first instance to its last.
CREATE TABLE network_homes (
    network_id  uuid PRIMARY KEY REFERENCES resources (id) ON DELETE CASCADE,
    host        text NOT NULL REFERENCES hosts (name),
    -- What the host said of it (its namespace), for operators.
    facts       jsonb
);

-- What a resource takes of a host. An image has one for every host that keeps it.
CREATE TABLE reservations (
    resource_id  uuid NOT NULL,
    host         text NOT NULL REFERENCES hosts (name),
    vcpus        bigint NOT NULL CHECK (vcpus >= 0),
    memory_mib   bigint NOT NULL CHECK (memory_mib >= 0),
    disk_gib     bigint NOT NULL CHECK (disk_gib >= 0),
    PRIMARY KEY (resource_id, host)
);
CREATE INDEX reservations_host ON reservations (host);

CREATE TABLE jobs (
    id                   uuid PRIMARY KEY,
    -- Order of acceptance, drawn with the resource's row locked.
    seq                  bigint NOT NULL DEFAULT nextval('job_seq'),
    tenant               text NOT NULL,
    kind                 text NOT NULL,
    action               text NOT NULL,
    resource_id          uuid NOT NULL,
    resource_name        text NOT NULL,
    generation           bigint NOT NULL,
    -- The intent that this job makes so.
    spec                 jsonb NOT NULL,
    state                text NOT NULL CHECK (state IN ('blocked','queued','running','undoing','succeeded','failed','cancelled')),
    -- As shown: names from the acceptance on, results as reported.
    steps                jsonb NOT NULL DEFAULT '[]',
    -- As frozen at the first dispatch to a host: JSON texts.
    frozen               text[],
    host                 text,
    fence                bigint,
    -- Of the first order since the job was last placed on its host: what the host's floor must not pass.
    first_fence          bigint,
    epoch                bigint,
    mode                 text NOT NULL DEFAULT 'forward' CHECK (mode IN ('forward','undo')),
    verdict              text CHECK (verdict IN ('failed','cancelled','deadline','released')),
    attempt              integer NOT NULL DEFAULT 0,
    -- Quick failures in a row, for the back-off.
    failures             integer NOT NULL DEFAULT 0,
    -- When dispatch has something to do with it; null while there is nothing.
    due                  timestamptz,
    dispatched_at        timestamptz,
    holds_slot           boolean NOT NULL DEFAULT false,
    waiting              jsonb,
    -- Hosts that refused it: {"host": {"reason": "no_room"|"image", "until": time}}.
    excluded             jsonb NOT NULL DEFAULT '{}',
    deadline_at          timestamptz,
    cancel_requested_at  timestamptz,
    error                jsonb,
    actor                text NOT NULL,
    trace_id             text NOT NULL,
    traceparent          text NOT NULL,
    retry_of             uuid,
    created_at           timestamptz NOT NULL DEFAULT now(),
    started_at           timestamptz,
    ended_at             timestamptz,
    CHECK ((ended_at IS NOT NULL) = (state IN ('succeeded','failed','cancelled'))),
    CHECK (NOT (holds_slot AND ended_at IS NOT NULL)),
    CHECK (NOT (due IS NOT NULL AND ended_at IS NOT NULL))
) WITH (fillfactor = 70);
CREATE INDEX jobs_due ON jobs (tenant, due, seq) WHERE due IS NOT NULL;
CREATE INDEX jobs_due_held ON jobs (tenant, due) WHERE due IS NOT NULL AND holds_slot;
CREATE INDEX jobs_list ON jobs (tenant, created_at, id);
CREATE INDEX jobs_resource ON jobs (resource_id, created_at);
CREATE INDEX jobs_host ON jobs (host, first_fence) WHERE ended_at IS NULL AND host IS NOT NULL;
CREATE INDEX jobs_open ON jobs (state, dispatched_at) WHERE ended_at IS NULL;
CREATE INDEX jobs_ended ON jobs (ended_at) WHERE ended_at IS NOT NULL;

-- A job stands in line on every resource that its steps change; the row goes when the job ends.
CREATE TABLE job_resources (
    resource_id  uuid NOT NULL,
    seq          bigint NOT NULL,
    job_id       uuid NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    active       boolean NOT NULL DEFAULT false,
    PRIMARY KEY (resource_id, seq)
);
CREATE UNIQUE INDEX job_resources_active ON job_resources (resource_id) WHERE active;
CREATE INDEX job_resources_job ON job_resources (job_id);

CREATE TABLE idempotency (
    tenant      text NOT NULL,
    method      text NOT NULL,
    path        text NOT NULL,
    key         text NOT NULL,
    body_hash   bytea NOT NULL,
    reply       jsonb NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, method, path, key)
);
CREATE INDEX idempotency_age ON idempotency (created_at);

CREATE TABLE audit (
    at           timestamptz NOT NULL DEFAULT now(),
    tenant       text NOT NULL,
    actor        text NOT NULL,
    action       text NOT NULL,
    resource_id  uuid,
    job_id       uuid,
    trace_id     text
);
CREATE INDEX audit_at ON audit USING brin (at);

-- What is metered: opened and closed by settle; one open a resource.
CREATE TABLE usage_intervals (
    resource_id  uuid NOT NULL,
    tenant       text NOT NULL,
    kind         text NOT NULL,
    vcpus        bigint NOT NULL,
    memory_mib   bigint NOT NULL,
    disk_gib     bigint NOT NULL,
    opened_at    timestamptz NOT NULL,
    closed_at    timestamptz,
    PRIMARY KEY (resource_id, opened_at),
    CHECK (closed_at IS NULL OR closed_at >= opened_at)
);
CREATE UNIQUE INDEX usage_open ON usage_intervals (resource_id) WHERE closed_at IS NULL;

//! `rhyzome admin …`.

use clap::{Args, Subcommand};

use rhyzome_model::quota::Dimension;

use super::{DataArgs, OutputArgs, key_value, quota};

#[derive(Debug, Clone, Args)]
pub(crate) struct AdminArgs {
    #[command(subcommand)]
    pub(crate) task: AdminTask,
    #[command(flatten)]
    pub(crate) data: DataArgs,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum AdminTask {
    /// Customers, and where their tokens come from
    #[command(subcommand)]
    Tenant(TenantTask),
    /// Hypervisor hosts
    #[command(subcommand)]
    Host(HostTask),
    /// Jobs: what an operator may see and do of them
    #[command(subcommand)]
    Job(AdminJobTask),
    /// Messages that nobody could read or carry out
    #[command(subcommand)]
    DeadLetters(DeadLettersTask),
    /// A database that was set back, by a restore or a failover: agents know more than it does
    #[command(subcommand)]
    PostgresSetBack(SetBackTask),
    /// Look whether the books hold: ends with 0 if so, with 1 if something is broken, with 2 if it could not look at all of it
    Check {
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum AdminJobTask {
    /// Show a job, with its host
    Show {
        /// Which
        id: uuid::Uuid,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Give the undo of a job up: it ends, and keeps what it holds on its host until nothing of it is there
    Abandon {
        /// Which; it must be undoing
        id: uuid::Uuid,
    },
    /// List abandoned jobs of which something may be on their host still
    Abandoned {
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum DeadLettersTask {
    /// List them, oldest first
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show one, with the order that it was
    Show {
        /// Its number in the list
        sequence: u64,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Retry the job of its order by a new job, then drop the letter
    Replay {
        /// Its number in the list
        sequence: u64,
    },
    /// Drop one
    Drop {
        /// Its number in the list
        sequence: u64,
    },
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum SetBackTask {
    /// Show the hosts whose agents know a fence that the database has not drawn
    Show {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Go on: above every fence that an agent said it knows
    Clear,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum TenantTask {
    /// Make a tenant and bind its issuer
    Create {
        /// Lower-case letters and digits
        id: String,
        /// The issuer of its tokens, as in `iss`
        #[arg(long, value_name = "URL")]
        issuer: String,
        /// For whom the tokens must be, as in `aud`
        #[arg(long, value_name = "AUD")]
        audience: String,
        /// What else is to be known of it; can be given again
        #[arg(long = "property", value_name = "KEY=VALUE", value_parser = key_value)]
        properties: Vec<(String, String)>,
        /// What it may have at most: a kind in the plural, vcpus, memory_mib or disk_gib; can be given again
        #[arg(long = "quota", value_name = "WHAT=NUMBER", value_parser = quota)]
        quotas: Vec<(Dimension, i64)>,
    },
    /// List all tenants
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show one tenant, and what it has of its quotas
    Show {
        /// Which
        id: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Change a tenant: add an issuer, set or remove properties and quotas
    Update {
        /// Which
        id: String,
        /// A further issuer, as in `iss`
        #[arg(long, value_name = "URL", requires = "audience")]
        issuer: Option<String>,
        /// Its audience, as in `aud`
        #[arg(long, value_name = "AUD", requires = "issuer")]
        audience: Option<String>,
        /// Set a property; can be given again
        #[arg(long = "property", value_name = "KEY=VALUE", value_parser = key_value)]
        properties: Vec<(String, String)>,
        /// Remove a property; can be given again
        #[arg(long = "remove-property", value_name = "KEY")]
        removed: Vec<String>,
        /// What it may have at most: a kind in the plural, vcpus, memory_mib or disk_gib; can be given again
        #[arg(long = "quota", value_name = "WHAT=NUMBER", value_parser = quota)]
        quotas: Vec<(Dimension, i64)>,
        /// Limit this no longer; can be given again
        #[arg(long = "remove-quota", value_name = "WHAT")]
        unlimited: Vec<Dimension>,
    },
    /// Delete a tenant that owns nothing any more
    Delete {
        /// Which
        id: String,
    },
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum HostTask {
    /// Add a host
    Add {
        /// Its name, as in its agent's certificate
        name: String,
        /// Where its agent listens
        #[arg(long, value_name = "HOST:PORT")]
        address: String,
    },
    /// List all hosts
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Ask a host's agent itself what it holds
    Inventory {
        /// Which
        name: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Place nothing new on a host, and mend nothing there: somebody works on it
    Cordon {
        /// Which
        name: String,
    },
    /// Take a host back into service
    Uncordon {
        /// Which
        name: String,
    },
    /// Remove a host that holds nothing any more
    Remove {
        /// Which
        name: String,
    },
}

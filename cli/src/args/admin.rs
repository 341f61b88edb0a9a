//! `rhyzome admin …`.

use clap::{Args, Subcommand};

use super::{DataArgs, OutputArgs, key_value};

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
    /// Look whether the books hold: ends with 0 if so, with 1 if something is broken, with 2 if it could not look at all of it
    Check {
        #[command(flatten)]
        output: OutputArgs,
    },
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
    },
    /// List all tenants
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show one tenant
    Show {
        /// Which
        id: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Change a tenant: add an issuer, set or remove properties
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
    /// Remove a host that holds nothing any more
    Remove {
        /// Which
        name: String,
    },
}

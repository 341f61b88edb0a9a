//! `rhyzome pki`: a small certificate authority in a folder.

use std::path::PathBuf;

use anyhow::{Context, Result};
use chrono::{DateTime, SecondsFormat, Utc};
use rhyzome_runtime::pki::{self, Ca, Existing, Request, Shown};
use serde::Serialize;

use crate::args::{Configured, PkiArgs, PkiTask};
use crate::output::{self, Row};
use crate::settings::Layers;

/// Performs one of its tasks.
pub(crate) fn run(configured: &Configured, args: &PkiArgs) -> Result<()> {
    let dir = folder(configured, args)?;
    match &args.task {
        PkiTask::Init { days, force } => {
            Ca::init(&dir, *days, existing(*force))?;
            println!("{}", dir.join("ca.crt").display());
        }
        PkiTask::Issue {
            role,
            name,
            days,
            trust_domain,
            force,
        } => {
            let mut request = Request {
                days: *days,
                ..Request::new(*role, name)
            };
            if let Some(domain) = trust_domain {
                request.domain.clone_from(domain);
            }
            let path = Ca::open(&dir)?.issue(&request, existing(*force))?;
            println!("{}", path.display());
        }
        PkiTask::Show { output } => {
            let shown: Vec<CertificateRow> = pki::show(&dir)?.into_iter().map(CertificateRow::of).collect();
            output::list(&shown, output.output)?;
        }
    }
    Ok(())
}

fn existing(force: bool) -> Existing {
    if force { Existing::Replace } else { Existing::Keep }
}

fn folder(configured: &Configured, args: &PkiArgs) -> Result<PathBuf> {
    if let Some(pki) = &args.pki {
        return Ok(pki.clone());
    }
    if let Some(data) = &args.data {
        return Ok(data.join("pki"));
    }
    let settings = Layers::of(configured).load()?;
    settings
        .tls
        .pki
        .context("which folder? Say --pki DIR, or --data DIR of a stack, or set tls.pki")
}

#[derive(Debug, Serialize)]
struct CertificateRow {
    role: String,
    name: String,
    expires_at: String,
    expired: bool,
    file: String,
}

impl CertificateRow {
    fn of(shown: Shown) -> Self {
        let (role, name) = match shown.id {
            Some(id) => (id.role.to_string(), id.name),
            None => ("ca".to_owned(), shown.subject),
        };
        Self {
            role,
            name,
            expires_at: DateTime::<Utc>::from(shown.expires_at).to_rfc3339_opts(SecondsFormat::Secs, true),
            expired: shown.expires_at < std::time::SystemTime::now(),
            file: shown.path.display().to_string(),
        }
    }
}

impl Row for CertificateRow {
    const HEADS: &'static [&'static str] = &["ROLE", "NAME", "EXPIRES", "FILE"];

    fn cells(&self) -> Vec<String> {
        let expires = if self.expired {
            format!("{} (expired)", self.expires_at)
        } else {
            self.expires_at.clone()
        };
        vec![self.role.clone(), self.name.clone(), expires, self.file.clone()]
    }
}

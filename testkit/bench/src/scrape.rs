//! Reads metrics of the stack's processes, in Prometheus' text format: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Method, StatusCode};

use crate::rest::Connection;
use crate::stack::StackFile;

/// The metrics of all processes of a role, on connections that are kept.
#[derive(Debug)]
pub(crate) struct Scraper {
    targets: Vec<(Connection, String)>,
}

/// What they said, one after the other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics(String);

impl Scraper {
    /// Of a role.
    pub(crate) fn of_role(stack: &StackFile, role: &str) -> Result<Self> {
        let mut targets = Vec::new();
        for process in stack.of_role(role) {
            let url = process
                .metrics_url
                .as_deref()
                .with_context(|| format!("{} has no metrics", process.name))?;
            let rest = url
                .strip_prefix("http://")
                .with_context(|| format!("{url} isn't http"))?;
            let (address, path) = rest
                .split_once('/')
                .with_context(|| format!("{url} has no path"))?;
            targets.push((Connection::new(address, None)?, format!("/{path}")));
        }
        if targets.is_empty() {
            bail!("stack.json has no {role}");
        }
        Ok(Self { targets })
    }

    /// As they are now.
    pub(crate) async fn read(&mut self) -> Result<Metrics> {
        let mut all = String::new();
        for (connection, path) in &mut self.targets {
            let answer = connection.call(Method::GET, path, None, Bytes::new()).await?;
            if answer.status != StatusCode::OK {
                bail!("{path}: {}", answer.status);
            }
            all.push_str(std::str::from_utf8(&answer.body).context("metrics aren't UTF-8")?);
            all.push('\n');
        }
        Ok(Metrics(all))
    }
}

impl Metrics {
    /// The sum of a metric's samples that have all these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Vec<String> = labels
            .iter()
            .map(|(key, value)| format!("{key}=\"{value}\""))
            .collect();
        let samples = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once('}')?,
                None if rest.starts_with(' ') => ("", rest),
                None => return None,
            };
            let fits = wanted.iter().all(|label| labels.contains(label.as_str()));
            value.trim().parse::<f64>().ok().filter(|_| fits)
        });
        samples.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_labels() {
        let metrics = Metrics(
            "# TYPE a counter\na{kind=\"x\",outcome=\"ok\"} 3\na{kind=\"y\",outcome=\"ok\"} 4\na_sum 7\n\
             a{kind=\"x\",outcome=\"ok\"} 5\nb 2.5\n"
                .to_owned(),
        );
        assert!((metrics.sum("a", &[("kind", "x"), ("outcome", "ok")]) - 8.0).abs() < 1e-9);
        assert!((metrics.sum("a", &[]) - 12.0).abs() < 1e-9);
        assert!((metrics.sum("b", &[]) - 2.5).abs() < 1e-9);
        assert!(metrics.sum("a", &[("outcome", "failed")]).abs() < 1e-9);
    }
}

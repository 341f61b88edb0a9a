use super::*;
use crate::Span;
use serde::Deserialize;

#[derive(Debug, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct All {
    scheduler: Scheduler,
    agent: Agent,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Scheduler {
    job_deadline: Span,
    cap: u32,
}

impl Default for Scheduler {
    fn default() -> Self {
        Self {
            job_deadline: Span::hours(1),
            cap: 64,
        }
    }
}

#[derive(Debug, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Agent {
    vcpu_overcommit: f64,
    image_allow: Vec<String>,
    labels: BTreeMap<String, String>,
    simulated: bool,
    image_dir: Option<PathBuf>,
    listen: Option<std::net::SocketAddr>,
    token: Option<std::net::SocketAddr>,
}

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("some.toml");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

#[test]
fn a_flag_over_the_environment_over_the_file() {
    let (_dir, path) = file(
        "[scheduler]\njob_deadline = \"2h\"\ncap = 1\n[agent]\nvcpu_overcommit = 2\nimage_allow = [\"http://a/\"]\n[agent.labels]\nzone = \"a\"\n",
    );
    let environment = env(&[
        ("RHYZOME_SCHEDULER__CAP", "2"),
        ("RHYZOME_AGENT__IMAGE_ALLOW", "[\"http://b/\", \"http://c/\"]"),
        ("RHYZOME_AGENT__SIMULATED", "true"),
        ("RHYZOME_AGENT__IMAGE_DIR", "/images"),
        ("RHYZOME_LOG", "debug"),
        ("HOME", "/root"),
    ]);
    let sources = Sources::only(Some(path), environment)
        .set("scheduler.cap=3")
        .unwrap();
    let all: All = load(&sources).unwrap();
    assert_eq!(all.scheduler.cap, 3);
    assert_eq!(all.scheduler.job_deadline, Span::hours(2));
    assert_eq!(all.agent.image_allow, ["http://b/", "http://c/"]);
    assert_eq!(all.agent.labels["zone"], "a");
    assert!(all.agent.simulated);
    assert!((all.agent.vcpu_overcommit - 2.0).abs() < f64::EPSILON);
    assert_eq!(all.agent.image_dir.as_deref(), Some(Path::new("/images")));
}

#[test]
fn nothing_is_needed() {
    let all: All = load(&Sources::only(None, Vec::new())).unwrap();
    assert_eq!(all.scheduler.cap, 64);
}

fn fault(sources: &Sources) -> String {
    load::<All>(sources).unwrap_err().to_string()
}

#[test]
fn faults_name_key_origin_and_what_would_be_right() {
    let (_dir, path) = file("[scheduler]\njob_deadline = \"soon\"\n");
    let said = fault(&Sources::only(Some(path.clone()), Vec::new()));
    assert!(
        said.contains("`scheduler.job_deadline`") && said.contains("some.toml") && said.contains("30s"),
        "{said}"
    );

    let said = fault(&Sources::only(None, env(&[("RHYZOME_SCHEDULER__CAP", "many")])));
    assert!(
        said.contains("`scheduler.cap`")
            && said.contains("RHYZOME_SCHEDULER__CAP")
            && said.contains("integer"),
        "{said}"
    );

    let said = fault(&Sources::only(None, env(&[("RHYZOME_SCHEDULER__CAPP", "1")])));
    assert!(
        said.contains("`scheduler.capp`")
            && said.contains("RHYZOME_SCHEDULER__CAPP")
            && said.contains("job_deadline"),
        "{said}"
    );

    let said = fault(&Sources::only(None, env(&[("RHYZOME_SHEDULER__CAP", "1")])));
    assert!(
        said.contains("`sheduler`") && said.contains("RHYZOME_SHEDULER__CAP") && said.contains("scheduler"),
        "{said}"
    );

    let said = fault(
        &Sources::only(None, Vec::new())
            .set("agent.simulated=perhaps")
            .unwrap(),
    );
    assert!(
        said.contains("`agent.simulated`")
            && said.contains("--set agent.simulated")
            && said.contains("boolean"),
        "{said}"
    );

    let (_dir, path) = file("[scheduler\n");
    let said = fault(&Sources::only(Some(path), Vec::new()));
    assert!(
        said.contains("some.toml") && said.contains("isn't TOML"),
        "{said}"
    );

    let said = fault(&Sources::only(Some(PathBuf::from("not/there.toml")), Vec::new()));
    assert!(said.contains("not/there.toml"), "{said}");
}

#[test]
fn a_value_that_does_not_parse_is_told() {
    let (_dir, path) = file("[agent]\nlisten = \"127.0.0.1\"\n");
    let said = fault(&Sources::only(Some(path), Vec::new()));
    assert!(
        said.contains("`agent.listen` (from the file ")
            && said.contains("\"127.0.0.1\": invalid socket address"),
        "{said}"
    );
    for (variable, value) in [
        ("RHYZOME_AGENT__LISTEN", "user:hunter2@host"),
        ("RHYZOME_AGENT__TOKEN", "hunter2"),
        ("RHYZOME_AGENT__LISTENER", "hunter2"),
    ] {
        let said = fault(&Sources::only(None, env(&[(variable, value)])));
        assert!(!said.contains("hunter2"), "{said}");
    }
    let said = fault(&Sources::only(None, env(&[("RHYZOME_SCHEDULER__CAP", "many")])));
    assert_eq!(said.matches("many").count(), 1, "{said}");
}

#[test]
fn no_secret_in_a_flag() {
    let said = fault(
        &Sources::only(None, Vec::new())
            .set("database.password=hunter2")
            .unwrap(),
    );
    assert!(
        said.contains("database.password_file") && !said.contains("hunter2"),
        "{said}"
    );
    assert!(Sources::default().set("nonsense").is_err());
}

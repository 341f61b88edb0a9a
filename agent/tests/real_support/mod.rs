//! What tests of the real driver share: a driver on a folder of its own, actions, and waiting for what a guest does.
//!
//! They need root, QEMU, dnsmasq, nft and the image `tiny`. Where something is missing a test says so loudly and ends; with
//! `RHYZOME_REQUIRE_REAL=1` it fails.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::unused_self)]

pub mod waiting;

use rhyzome_agent::driver::{Direction, Driver, Effect, GuestSeen, SeenPower, StepContext, StepError};
use rhyzome_agent::objects::{Accelerator, Choice, Networking, RealConfig, RealDriver};
use rhyzome_model::ids::{HostName, JobId, ResourceId, TenantId};
use rhyzome_model::kinds::{ImageFormat, ImageSource, Power, RestartPolicy};
use rhyzome_model::step::{
    Action, DropShared, EnsureDisk, EnsureImage, EnsureInstance, EnsureNetwork, HostLease, ImageFacts,
    NetworkClaim, Nic, ObjectKind, Reboot, RemoveDisk, RemoveInstance, SetPower,
};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Longest that anything in these tests is waited for.
pub const PATIENCE: Duration = Duration::from_secs(90);
pub const IMAGE: &str = "tiny.qcow2";

pub fn image_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("RHYZOME_IMAGE_DIR") {
        return dir.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache"));
    cache.or(home).unwrap_or_default().join("rhyzome/images")
}

fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("root".to_owned());
    }
    for tool in [
        "qemu-system-x86_64",
        "qemu-img",
        "dnsmasq",
        "nft",
        "ip",
        "curl",
        "prlimit",
        "setsid",
    ] {
        let found = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .any(|d| Path::new(d).join(tool).exists());
        if !found {
            return Some(format!("the program {tool}"));
        }
    }
    let image = image_dir().join(IMAGE);
    (!image.is_file()).then(|| format!("the image {} (cargo xtask image)", image.display()))
}

/// Whether the test can be made; says why not.
pub fn can_be_real() -> bool {
    let Some(what) = missing() else { return true };
    assert!(
        std::env::var("RHYZOME_REQUIRE_REAL").as_deref() != Ok("1"),
        "this test needs {what}"
    );
    eprintln!("SKIPPED, NOT TESTED: this test needs {what}");
    false
}

pub struct Host {
    pub dir: tempfile::TempDir,
    pub driver: Option<RealDriver>,
    pub change: fn(&mut RealConfig),
}

impl Host {
    pub async fn new() -> Self {
        Self::with(|_| ()).await
    }

    /// With bridges and emulation, which work everywhere, unless `change` says otherwise.
    pub async fn with(change: fn(&mut RealConfig)) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("rhyzome-real-")
            .tempdir()
            .unwrap();
        let mut host = Self {
            dir,
            driver: None,
            change,
        };
        host.start().await;
        host
    }

    pub fn config(&self) -> RealConfig {
        let mut config = RealConfig::new(name(), self.dir.path().to_owned());
        config.image_dir = Some(image_dir());
        config.networking = Choice::Fixed(Networking::Bridge);
        config.accelerator = Choice::Fixed(Accelerator::Tcg);
        (self.change)(&mut config);
        config
    }

    /// A driver on the folder, told its epoch.
    pub async fn start(&mut self) {
        let driver = RealDriver::open(self.config()).unwrap();
        driver.start().await.unwrap();
        driver.epoch_told(&name());
        self.driver = Some(driver);
    }

    /// The agent goes; all else stays.
    pub async fn agent_goes(&mut self) {
        self.driver.take().unwrap().end().await;
    }

    pub fn driver(&self) -> &RealDriver {
        self.driver.as_ref().unwrap()
    }

    pub async fn make(&self, action: Action) -> Result<Effect, StepError> {
        self.driver().make_so(&context(JobId::new()), &action).await
    }

    pub async fn must(&self, action: Action) -> Effect {
        let name = action.name();
        self.make(action)
            .await
            .unwrap_or_else(|e| panic!("{name}: {e} ({})", e.inside.as_deref().unwrap_or("")))
    }

    pub async fn seen(&self, instance: ResourceId) -> GuestSeen {
        let all = self.driver().guests(&name()).await.unwrap();
        all.into_iter().find(|g| g.instance == instance).unwrap()
    }

    pub async fn console(&self, instance: ResourceId) -> String {
        let tail = self
            .driver()
            .console_tail(&name(), instance, 200)
            .await
            .unwrap()
            .unwrap_or_default();
        String::from_utf8_lossy(&tail).into_owned()
    }

    /// Waits until the console says something.
    pub async fn says(&self, instance: ResourceId, what: &str) {
        self.says_times(instance, what, 1).await;
    }

    pub async fn says_times(&self, instance: ResourceId, what: &str, times: usize) {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let console = self.console(instance).await;
            if console.matches(what).count() >= times {
                return;
            }
            assert!(
                tokio::time::Instant::now() < until,
                "the console never said {what:?}:\n{console}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn is_power(&self, instance: ResourceId, power: SeenPower) {
        let until = tokio::time::Instant::now() + PATIENCE;
        while self.seen(instance).await.power != power {
            assert!(tokio::time::Instant::now() < until, "never {power:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn pid(&self, instance: ResourceId) -> i32 {
        let all = self.driver().inventory(&name()).await.unwrap();
        all.iter()
            .find(|h| h.id == instance && h.facts.contains_key("pid"))
            .unwrap()
            .facts["pid"]
            .parse()
            .unwrap()
    }

    pub async fn namespace(&self, network: ResourceId) -> String {
        let all = self.driver().inventory(&name()).await.unwrap();
        all.iter().find(|h| h.id == network).unwrap().facts["namespace"].clone()
    }

    /// The page of a guest, asked from its network's namespace; asked again while nothing answers.
    pub async fn page(&self, network: ResourceId, ip: Ipv4Addr) -> String {
        let namespace = self.namespace(network).await;
        let url = format!("http://{ip}/");
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let (ok, page) = run(
                "ip",
                &[
                    "netns",
                    "exec",
                    &namespace,
                    "curl",
                    "-sS",
                    "--max-time",
                    "5",
                    &url,
                ],
            );
            if ok {
                return page;
            }
            assert!(tokio::time::Instant::now() < until, "no page: {page}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A test that fails leaves nothing running.
impl Drop for Host {
    fn drop(&mut self) {
        let Some(driver) = self.driver.take() else { return };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Runtime::new().unwrap();
                runtime.block_on(async {
                    let held = driver.inventory(&name()).await.unwrap_or_default();
                    for instance in held.iter().filter(|h| h.kind == ObjectKind::Instance) {
                        let gone = Action::RemoveInstance(RemoveInstance {
                            instance: instance.id,
                        });
                        eprintln!(
                            "left behind: {:?}",
                            driver.make_so(&context(JobId::new()), &gone).await
                        );
                    }
                    for network in held.iter().filter(|h| h.kind == ObjectKind::Network) {
                        for holder in &network.claims {
                            let gone = Action::DropNetwork(DropShared {
                                object: network.id,
                                holder: *holder,
                            });
                            eprintln!(
                                "left behind: {:?}",
                                driver.make_so(&context(JobId::new()), &gone).await
                            );
                        }
                    }
                });
            });
        });
    }
}

pub fn name() -> HostName {
    HostName::from("host-1")
}

pub fn context(job: JobId) -> StepContext {
    StepContext {
        host: name(),
        job,
        index: 0,
        direction: Direction::Forward,
        cancel: CancellationToken::new(),
    }
}

/// Runs a program; whether it succeeded and what it wrote.
pub fn run(program: &str, args: &[&str]) -> (bool, String) {
    let output = std::process::Command::new(program).args(args).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

/// A guest and the network and image that it claims.
#[derive(Clone, Debug)]
pub struct Plan {
    pub network: ResourceId,
    pub image: ResourceId,
    pub instance: ResourceId,
    pub ip: Ipv4Addr,
    pub restart: RestartPolicy,
    pub user_data: Option<String>,
    pub stop_timeout_s: u32,
    /// Further cards: network and address.
    pub more: Vec<(ResourceId, Ipv4Addr)>,
}

impl Plan {
    pub fn new(network: ResourceId, image: ResourceId, last: u8) -> Self {
        Self {
            network,
            image,
            instance: ResourceId::new(),
            ip: Ipv4Addr::new(10, 20, 0, last),
            restart: RestartPolicy::Never,
            user_data: None,
            stop_timeout_s: 60,
            more: vec![],
        }
    }

    pub fn nic(&self, position: usize, network: ResourceId, ip: Ipv4Addr) -> Nic {
        // Another instance with the same address has another.
        let [.., a, b] = self.instance.0.into_bytes();
        let mac = format!("02:00:{a:02x}:{b:02x}:{position:02x}:{:02x}", ip.octets()[3]);
        Nic {
            network,
            mac,
            ip,
            prefix_len: 24,
            gateway: Ipv4Addr::new(10, 20, 0, 1),
        }
    }

    pub fn ensure_network_of(&self, nic: &Nic) -> Action {
        let lease = HostLease {
            mac: nic.mac.clone(),
            ip: nic.ip,
            hostname: Some(self.name()),
        };
        Action::EnsureNetwork(EnsureNetwork {
            network: nic.network,
            tenant: TenantId::from("demo"),
            generation: 1,
            cidr: "10.20.0.0/24".parse().unwrap(),
            gateway: nic.gateway,
            dns: vec![],
            leases: vec![],
            claim: Some(NetworkClaim {
                holder: self.instance,
                leases: vec![lease],
            }),
        })
    }

    pub fn nics(&self) -> Vec<Nic> {
        let first = (self.network, self.ip);
        std::iter::once(&first)
            .chain(&self.more)
            .enumerate()
            .map(|(i, (n, ip))| self.nic(i, *n, *ip))
            .collect()
    }

    pub fn ensure_network(&self) -> Action {
        self.ensure_network_of(&self.nics()[0])
    }

    pub fn name(&self) -> String {
        format!("web-{}", self.ip.octets()[3])
    }

    pub fn ensure_image(&self) -> Action {
        Action::EnsureImage(EnsureImage {
            image: self.image,
            source: ImageSource::File(IMAGE.to_owned()),
            format: ImageFormat::Qcow2,
            sha256: None,
            holder: self.instance,
        })
    }

    pub fn ensure_disk(&self, facts: &ImageFacts, size_gib: u32) -> Action {
        Action::EnsureDisk(EnsureDisk {
            disk: self.instance,
            image: self.image,
            image_sha256: facts.sha256.clone(),
            image_format: ImageFormat::Qcow2,
            size_gib,
        })
    }

    pub fn definition(&self) -> EnsureInstance {
        EnsureInstance {
            instance: self.instance,
            tenant: TenantId::from("demo"),
            name: self.name(),
            generation: 1,
            vcpus: 1,
            memory_mib: 128,
            interfaces: self.nics(),
            user_data: self.user_data.clone(),
            ssh_keys: vec![],
            restart: self.restart,
            stop_timeout_s: self.stop_timeout_s,
        }
    }

    pub fn power(&self, power: Power) -> Action {
        Action::SetPower(SetPower {
            instance: self.instance,
            power,
        })
    }

    pub fn reboot(&self) -> Action {
        Action::Reboot(Reboot {
            instance: self.instance,
        })
    }

    pub fn remove_instance(&self) -> Action {
        Action::RemoveInstance(RemoveInstance {
            instance: self.instance,
        })
    }

    pub fn drop_networks(&self) -> Vec<Action> {
        let claim = |nic: Nic| {
            Action::DropNetwork(DropShared {
                object: nic.network,
                holder: self.instance,
            })
        };
        self.nics().into_iter().map(claim).collect()
    }

    /// Of its image, which is on the host from then on.
    pub async fn facts(&self, host: &Host) -> ImageFacts {
        let effect = host.must(self.ensure_image()).await;
        serde_json::from_value(effect.output).unwrap()
    }

    /// All steps of a create but the last, which starts it.
    pub async fn define(&self, host: &Host) {
        for nic in self.nics() {
            host.must(self.ensure_network_of(&nic)).await;
        }
        let facts = self.facts(host).await;
        host.must(self.ensure_disk(&facts, 1)).await;
        host.must(Action::EnsureInstance(Box::new(self.definition())))
            .await;
    }

    pub async fn create(&self, host: &Host) {
        self.define(host).await;
        host.must(self.power(Power::On)).await;
    }

    pub async fn delete(&self, host: &Host) {
        host.must(self.remove_instance()).await;
        host.must(Action::RemoveDisk(RemoveDisk { disk: self.instance }))
            .await;
        host.must(Action::DropImage(DropShared {
            object: self.image,
            holder: self.instance,
        }))
        .await;
        for action in self.drop_networks() {
            host.must(action).await;
        }
    }

    pub fn greeting(&self) -> String {
        format!("rhyzome-guest: name={} address={}", self.name(), self.ip)
    }
}

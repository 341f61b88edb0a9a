use super::*;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rhyzome_model::kinds::{ImageFormat, ImageSource, RestartPolicy};
use rhyzome_model::step::{
    DropShared, EnsureNetwork, NetworkClaim, Nic, Reboot, RemoveDisk, RemoveInstance, SetPower,
};
use uuid::Uuid;

const SIZE: Size = Size {
    vcpus: 8,
    memory_mib: 4096,
    disk_gib: 50,
};

fn id(n: u128) -> ResourceId {
    ResourceId(Uuid::from_u128(n))
}

fn network(holder: ResourceId) -> Action {
    Action::EnsureNetwork(EnsureNetwork {
        network: id(1),
        tenant: "demo".into(),
        generation: 1,
        cidr: "10.0.0.0/24".parse().unwrap(),
        gateway: "10.0.0.1".parse().unwrap(),
        dns: Vec::new(),
        leases: Vec::new(),
        claim: Some(NetworkClaim {
            holder,
            leases: Vec::new(),
        }),
    })
}

fn image(holder: ResourceId) -> Action {
    Action::EnsureImage(EnsureImage {
        image: id(2),
        source: ImageSource::File("tiny.qcow2".into()),
        format: ImageFormat::Qcow2,
        sha256: None,
        holder,
    })
}

fn disk(disk: ResourceId, size_gib: u32) -> Action {
    let image_sha256 = "0".repeat(64);
    Action::EnsureDisk(EnsureDisk {
        disk,
        image: id(2),
        image_sha256,
        image_format: ImageFormat::Qcow2,
        size_gib,
    })
}

fn instance(instance: ResourceId, vcpus: u32, memory_mib: u32) -> Action {
    let nic = Nic {
        network: id(1),
        mac: "02:00:00:00:00:01".into(),
        ip: "10.0.0.5".parse().unwrap(),
        prefix_len: 24,
        gateway: "10.0.0.1".parse().unwrap(),
    };
    Action::EnsureInstance(Box::new(EnsureInstance {
        instance,
        tenant: "demo".into(),
        name: "web".into(),
        generation: 1,
        vcpus,
        memory_mib,
        interfaces: vec![nic],
        user_data: None,
        ssh_keys: Vec::new(),
        restart: RestartPolicy::Always,
        stop_timeout_s: 60,
    }))
}

#[test]
fn an_image_is_elsewhere_unless_this_host_has_it_for_itself() {
    let job = JobId::new();
    let itself = id(2);
    let rows: [(&str, Vec<Action>, Action, bool); 7] = [
        ("an instance, nothing here", vec![], image(id(10)), true),
        ("its own create", vec![], image(itself), false),
        (
            "where its create fetched it",
            vec![image(itself)],
            image(id(10)),
            false,
        ),
        (
            "where another instance has it",
            vec![image(id(11))],
            image(id(10)),
            true,
        ),
        (
            "where it was given up",
            vec![
                image(itself),
                Action::DropImage(DropShared {
                    object: itself,
                    holder: itself,
                }),
            ],
            image(id(10)),
            true,
        ),
        ("a network", vec![], network(id(10)), false),
        ("a disk", vec![], disk(id(10), 1), false),
    ];
    for (what, before, action, want) in rows {
        let mut world = World::default();
        for made in &before {
            world.apply(job, made);
        }
        assert_eq!(world.is_elsewhere(&action), want, "{what}");
    }
}

fn some_action(rng: &mut StdRng) -> Action {
    let holder = id(rng.random_range(10..14));
    let power = if rng.random() { Power::On } else { Power::Off };
    match rng.random_range(0..10) {
        0 => network(holder),
        1 => Action::DropNetwork(DropShared {
            object: id(1),
            holder,
        }),
        2 => image(holder),
        3 => Action::DropImage(DropShared {
            object: id(2),
            holder,
        }),
        4 => disk(holder, rng.random_range(1..30)),
        5 => Action::RemoveDisk(RemoveDisk { disk: holder }),
        6 => instance(holder, rng.random_range(1..6), rng.random_range(1..3000)),
        7 => Action::RemoveInstance(RemoveInstance { instance: holder }),
        8 => Action::SetPower(SetPower {
            instance: holder,
            power,
        }),
        _ => Action::Reboot(Reboot { instance: holder }),
    }
}

#[test]
fn what_was_made_is_so_and_stays_so_when_made_again() {
    let mut rng = StdRng::seed_from_u64(5);
    let jobs = [JobId::new(), JobId::new()];
    let mut world = World::default();
    for _ in 0..20_000 {
        let (action, job) = (some_action(&mut rng), *jobs.choose(&mut rng).unwrap());
        if world.check(&action, SIZE).is_err() {
            continue;
        }
        world.apply(job, &action);
        // An off switch for what isn't there, and a lower size of what is, are so without a change.
        assert!(world.is_so(job, &action), "{action:?}");
        let before = world.clone();
        world.apply(job, &action);
        assert_eq!(world, before, "again: {action:?}");
        let used = world.used;
        assert!(
            used.vcpus <= SIZE.vcpus && used.memory_mib <= SIZE.memory_mib && used.disk_gib <= SIZE.disk_gib
        );
        assert_eq!(
            world.used.running as usize,
            world.guests().filter(|(_, p)| *p == SeenPower::On).count()
        );
    }
    for n in 10..14 {
        let job = jobs[0];
        world.apply(job, &Action::RemoveInstance(RemoveInstance { instance: id(n) }));
        world.apply(job, &Action::RemoveDisk(RemoveDisk { disk: id(n) }));
        world.apply(
            job,
            &Action::DropImage(DropShared {
                object: id(2),
                holder: id(n),
            }),
        );
        world.apply(
            job,
            &Action::DropNetwork(DropShared {
                object: id(1),
                holder: id(n),
            }),
        );
    }
    assert_eq!(world, World::default(), "something was left");
}

#[test]
fn there_is_room_for_what_fits_and_no_more() {
    let mut world = World::default();
    let job = JobId::new();
    for action in [network(id(10)), image(id(10))] {
        world.apply(job, &action);
    }
    world.check(&instance(id(10), 8, 4096), SIZE).unwrap();
    world.apply(job, &instance(id(10), 8, 4096));
    let refused = world.check(&instance(id(11), 1, 1), SIZE).unwrap_err();
    assert_eq!(
        (refused.class, refused.code.as_str()),
        (ErrorClass::NoRoom, "NO_ROOM")
    );
    world.check(&instance(id(10), 4, 4096), SIZE).unwrap();
    world.check(&disk(id(10), 50), SIZE).unwrap();
    assert_eq!(
        world.check(&disk(id(10), 51), SIZE).unwrap_err().class,
        ErrorClass::NoRoom
    );
}

#[test]
fn a_reboot_happens_once_a_job() {
    let mut world = World::default();
    let (job, other) = (JobId::new(), JobId::new());
    for action in [network(id(10)), image(id(10)), instance(id(10), 1, 1)] {
        world.apply(job, &action);
    }
    let reboot = Action::Reboot(Reboot { instance: id(10) });
    world.apply(job, &reboot);
    assert!(world.is_so(job, &reboot) && !world.is_so(other, &reboot));
    assert_eq!(world.guest(id(10)), SeenPower::On);
}

#[test]
fn what_is_off_is_not_rebooted() {
    let mut world = World::default();
    let job = JobId::new();
    let reboot = Action::Reboot(Reboot { instance: id(10) });
    assert_eq!(world.check(&reboot, SIZE).unwrap_err().code, "NOT_DEFINED");
    world.apply(job, &instance(id(10), 1, 128));
    let refused = world.check(&reboot, SIZE).unwrap_err();
    assert_eq!(
        (refused.class, refused.code.as_str()),
        (ErrorClass::Permanent, "NOT_RUNNING")
    );
    world.apply(
        job,
        &Action::SetPower(SetPower {
            instance: id(10),
            power: Power::On,
        }),
    );
    assert!(world.check(&reboot, SIZE).is_ok());
}

#[test]
fn a_guest_without_its_disk_is_not_started() {
    let mut world = World::default();
    let job = JobId::new();
    let power = |power| {
        Action::SetPower(SetPower {
            instance: id(10),
            power,
        })
    };
    let refused = world.check(&power(Power::On), SIZE).unwrap_err();
    assert_eq!(refused.code, "NOT_DEFINED");
    world.apply(job, &instance(id(10), 1, 128));
    let refused = world.check(&power(Power::On), SIZE).unwrap_err();
    assert_eq!(
        (refused.class, refused.code.as_str()),
        (ErrorClass::Permanent, "DISK_MISSING")
    );
    assert!(refused.is_of_a_loss());
    assert!(world.check(&power(Power::Off), SIZE).is_ok());
    world.apply(job, &disk(id(10), 1));
    assert!(world.check(&power(Power::On), SIZE).is_ok());
}

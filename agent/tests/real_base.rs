//! What disks of a real host stand on: a base goes when nothing needs it, whatever records say, and one that is lost is said and fetched again.

#![allow(clippy::unwrap_used)]

mod real_support;

use real_support::{Host, Plan, can_be_real, context, name};
use rhyzome_agent::driver::{Driver, Seen};
use rhyzome_agent::objects::{Choice, Networking};
use rhyzome_model::ids::{JobId, ResourceId};
use rhyzome_model::job::ErrorClass;
use rhyzome_model::kinds::{ImageFormat, ImageSource, Power};
use rhyzome_model::step::{Action, DropShared, EnsureImage, ObjectKind, RemoveDisk};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

async fn host() -> Host {
    Host::with(|c| c.networking = Choice::Fixed(Networking::User)).await
}

fn plan(last: u8) -> Plan {
    Plan::new(ResourceId::new(), ResourceId::new(), last)
}

/// A guest that is defined and off, and the file that its disk stands on.
async fn defined(host: &Host, plan: &Plan) -> PathBuf {
    plan.define(host).await;
    let sha256 = plan.facts(host).await.sha256;
    host.dir.path().join("objects/images").join(sha256)
}

fn drop_image(plan: &Plan) -> Action {
    Action::DropImage(DropShared {
        object: plan.image,
        holder: plan.instance,
    })
}

/// What happens to a record.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Gone,
    Damaged,
}

impl Loss {
    fn befalls(self, record: &Path) {
        match self {
            Self::Gone => std::fs::remove_file(record).unwrap(),
            Self::Damaged => std::fs::write(record, "{").unwrap(),
        }
    }
}

/// Another image has the same bytes: its last claim must not take what a disk without a claim stands on.
#[tokio::test(flavor = "multi_thread")]
async fn a_base_stays_for_as_long_as_a_disk_stands_on_it() {
    if !can_be_real() {
        return;
    }
    for (of_image, of_disk) in [
        (Loss::Gone, None),
        (Loss::Gone, Some(Loss::Gone)),
        (Loss::Gone, Some(Loss::Damaged)),
        (Loss::Damaged, None),
    ] {
        let host = host().await;
        let (keeps, goes) = (plan(31), plan(32));
        let base = defined(&host, &keeps).await;
        assert_eq!(defined(&host, &goes).await, base);
        let objects = host.dir.path().join("objects");
        of_image.befalls(&objects.join(format!("image-claims/{}.json", keeps.image)));
        if let Some(loss) = of_disk {
            loss.befalls(&objects.join(format!("disks/{}.json", keeps.instance)));
        }

        goes.delete(&host).await;
        assert!(base.is_file(), "{of_image:?}, {of_disk:?}");
        // As its repair does, and then its delete.
        keeps.create(&host).await;
        keeps.delete(&host).await;
        // A claim that it doesn't need: it had to hold the file by some image.
        host.must(Action::DropImage(DropShared {
            object: goes.image,
            holder: keeps.instance,
        }))
        .await;
        let held = host.driver().inventory(&name()).await.unwrap();
        assert!(held.is_empty(), "{of_image:?}, {of_disk:?}: {held:?}");
    }
}

/// The record was put back to one that doesn't know the disk's claim: who stands on the file holds it.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_whose_claim_is_forgotten_holds_its_base() {
    if !can_be_real() {
        return;
    }
    let host = host().await;
    let keeps = plan(33);
    let goes = Plan {
        image: keeps.image,
        ..plan(34)
    };
    let base = defined(&host, &goes).await;
    let record = host
        .dir
        .path()
        .join(format!("objects/image-claims/{}.json", keeps.image));
    let older = std::fs::read(&record).unwrap();
    keeps.define(&host).await;
    std::fs::write(&record, older).unwrap();

    goes.delete(&host).await;
    assert!(base.is_file());
    let held = host.driver().inventory(&name()).await.unwrap();
    let image = held.iter().find(|h| h.kind == ObjectKind::Image).unwrap();
    assert_eq!(image.claims, [keeps.instance]);
    // Its own claim is no other than that: it goes with the disk, and not before.
    host.must(drop_image(&keeps)).await;
    assert!(base.is_file());
    host.must(Action::RemoveDisk(RemoveDisk { disk: keeps.instance }))
        .await;
    host.must(drop_image(&keeps)).await;
    assert!(!base.exists() && !record.exists());
    keeps.delete(&host).await;
}

/// What an image's record doesn't tell any more may be that the file is its own: its source may be gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_stays_while_it_may_be_that_of_an_image_whose_record_is_damaged() {
    if !can_be_real() {
        return;
    }
    let host = host().await;
    let (keeps, goes) = (plan(36), plan(37));
    let for_itself = Plan {
        instance: keeps.image,
        ..keeps.clone()
    };
    host.must(for_itself.ensure_image()).await;
    let base = defined(&host, &goes).await;
    let claims = host.dir.path().join("objects/image-claims");
    Loss::Damaged.befalls(&claims.join(format!("{}.json", keeps.image)));
    goes.delete(&host).await;
    assert!(base.is_file());
    host.must(for_itself.ensure_image()).await;
    host.must(drop_image(&for_itself)).await;
    assert!(!base.exists());
    // One whose claims nobody knows is given up with any of them, and is in nobody's way then.
    host.must(for_itself.ensure_image()).await;
    Loss::Damaged.befalls(&claims.join(format!("{}.json", keeps.image)));
    host.must(drop_image(&for_itself)).await;
    assert!(!base.exists(), "nobody would remove it later");
    host.must(goes.ensure_image()).await;
    host.must(drop_image(&goes)).await;
    assert!(!base.exists());
}

/// A damaged record is given up: what may be another's, or has a disk on it, stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_others_use_stays_as_a_damaged_record_is_given_up() {
    if !can_be_real() {
        return;
    }
    let host = host().await;
    let (stays, goes) = (plan(43), plan(44));
    let base = defined(&host, &stays).await;
    host.must(goes.ensure_image()).await;
    let record = |plan: &Plan| {
        let claims = host.dir.path().join("objects/image-claims");
        claims.join(format!("{}.json", plan.image))
    };
    // Another's record names it, then another's may, then a disk stands on it.
    for lost in [None, Some(Loss::Damaged), Some(Loss::Gone)] {
        if let Some(loss) = lost {
            loss.befalls(&record(&stays));
        }
        Loss::Damaged.befalls(&record(&goes));
        host.must(drop_image(&goes)).await;
        assert!(base.is_file() && !record(&goes).exists());
        host.must(goes.ensure_image()).await;
    }
    host.must(stays.ensure_image()).await;
    stays.delete(&host).await;
    host.must(drop_image(&goes)).await;
    assert!(!base.exists());
}

/// Records of images were lost, and so was where they came from: a repair claims what is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_a_record_is_claimed_again_if_it_is_what_it_was() {
    if !can_be_real() {
        return;
    }
    let host = host().await;
    let plan = plan(38);
    let base = defined(&host, &plan).await;
    let record = host
        .dir
        .path()
        .join(format!("objects/image-claims/{}.json", plan.image));
    let known = std::fs::read(&record).unwrap();
    let before = std::fs::metadata(&base).unwrap().ino();
    let again = EnsureImage {
        image: plan.image,
        source: ImageSource::File("gone.qcow2".to_owned()),
        format: ImageFormat::Qcow2,
        sha256: Some(plan.facts(&host).await.sha256),
        holder: plan.instance,
    };
    for loss in [Loss::Gone, Loss::Damaged] {
        loss.befalls(&record);
        host.must(Action::EnsureImage(again.clone())).await;
        assert_eq!(std::fs::read(&record).unwrap(), known, "{loss:?}");
        assert_eq!(std::fs::metadata(&base).unwrap().ino(), before);
    }
    host.must(plan.power(Power::On)).await;
    plan.delete(&host).await;

    // Neither by an image itself, of whoever it is, nor if it is something else by now.
    let base = defined(&host, &plan).await;
    std::fs::remove_file(&record).unwrap();
    let itself = EnsureImage {
        holder: plan.image,
        ..again.clone()
    };
    let refused = host.make(Action::EnsureImage(itself)).await.unwrap_err();
    assert_eq!(refused.code, "FILE_NOT_FOUND");
    std::fs::write(&base, [7; 4096]).unwrap();
    let refused = host.make(Action::EnsureImage(again)).await.unwrap_err();
    assert_eq!(refused.code, "FILE_NOT_FOUND");
    host.must(plan.ensure_image()).await;
    plan.delete(&host).await;
    assert!(!base.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_base_is_said_before_anything_is_touched_and_is_fetched_again() {
    if !can_be_real() {
        return;
    }
    let host = host().await;
    let plan = plan(35);
    let base = defined(&host, &plan).await;
    let bytes = std::fs::read(&base).unwrap();
    let state = async || {
        let held = host.driver().inventory(&name()).await.unwrap();
        held.into_iter()
            .find(|h| h.kind == ObjectKind::Image)
            .unwrap()
            .state
    };
    std::fs::remove_file(&base).unwrap();
    assert_eq!(state().await, "unknown");
    let error = host.make(plan.power(Power::On)).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.class),
        ("IMAGE_LOST", ErrorClass::NotHere),
        "{error:?}"
    );

    let job = context(JobId::new());
    let seen = host.driver().observe(&job, &plan.ensure_image()).await;
    assert_eq!(seen.unwrap(), Seen::NotSo);
    // All steps of a repair.
    plan.create(&host).await;
    assert_eq!(
        (state().await.as_str(), std::fs::read(&base).unwrap()),
        ("ready", bytes)
    );

    // A guest that runs has it open, and isn't ended for what would not start again.
    let pid = host.pid(plan.instance).await;
    for file in [
        &base,
        &host
            .dir
            .path()
            .join(format!("objects/disks/{}.qcow2", plan.instance)),
    ] {
        let aside = file.with_extension("aside");
        std::fs::rename(file, &aside).unwrap();
        let error = host.make(plan.reboot()).await.unwrap_err();
        assert!(
            ["IMAGE_LOST", "DISK_MISSING"].contains(&error.code.as_str()),
            "{error:?}"
        );
        assert_eq!(host.pid(plan.instance).await, pid);
        std::fs::rename(&aside, file).unwrap();
    }
    host.must(plan.reboot()).await;
    assert_ne!(host.pid(plan.instance).await, pid);
    plan.delete(&host).await;
}

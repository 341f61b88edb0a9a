//! Images of a real host: what is taken, what is refused, and when a file goes. Needs qemu-img, prlimit and the driver's other tools.

#![allow(clippy::unwrap_used)]

mod real_support;

use real_support::{Host, can_be_real, context, name, run};
use rhyzome_agent::driver::{Driver, Effect, StepError};
use rhyzome_agent::objects::{Choice, Networking};
use rhyzome_model::ids::{JobId, ResourceId};
use rhyzome_model::job::ErrorClass;
use rhyzome_model::kinds::{ImageFormat, ImageSource};
use rhyzome_model::step::{Action, DropShared, EnsureImage, ImageFacts};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

async fn host() -> (Host, PathBuf) {
    let mut host = Host::with(|c| {
        c.networking = Choice::Fixed(Networking::User);
        c.image_dir = Some(c.state_dir.join("folder"));
        c.image_allow = vec![];
        c.image_max_bytes = 8 << 20;
        if let Ok(prefix) = std::fs::read_to_string(c.state_dir.join("allow")) {
            c.image_allow = vec![prefix];
        }
    })
    .await;
    let folder = host.dir.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    host.agent_goes().await;
    host.start().await;
    (host, folder)
}

fn ensure(source: ImageSource, format: ImageFormat) -> EnsureImage {
    EnsureImage {
        image: ResourceId::new(),
        source,
        format,
        sha256: None,
        holder: ResourceId::new(),
    }
}

fn file(name: &str) -> EnsureImage {
    ensure(ImageSource::File(name.to_owned()), ImageFormat::Qcow2)
}

/// As the create of an image asks for it.
fn for_itself(name: &str) -> EnsureImage {
    let action = file(name);
    EnsureImage {
        holder: action.image,
        ..action
    }
}

async fn make(host: &Host, action: &EnsureImage) -> Result<Effect, StepError> {
    host.make(Action::EnsureImage(action.clone())).await
}

fn facts(effect: Effect) -> ImageFacts {
    serde_json::from_value(effect.output).unwrap()
}

fn qemu_img(folder: &PathBuf, args: &[&str]) {
    let output = std::process::Command::new("qemu-img")
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_what_they_should_be_are_refused_for_good() {
    if !can_be_real() {
        return;
    }
    let (host, folder) = host().await;
    qemu_img(&folder, &["create", "-f", "qcow2", "good.qcow2", "16M"]);
    qemu_img(
        &folder,
        &[
            "create",
            "-f",
            "qcow2",
            "-b",
            "good.qcow2",
            "-F",
            "qcow2",
            "backed.qcow2",
        ],
    );
    qemu_img(
        &folder,
        &[
            "create",
            "-f",
            "qcow2",
            "-o",
            "data_file=elsewhere.raw",
            "split.qcow2",
            "16M",
        ],
    );
    qemu_img(
        &folder,
        &[
            "create",
            "-f",
            "qcow2",
            "--object",
            "secret,id=s,data=x",
            "-o",
            // LUKS would time the processor first, and fails now and then at that.
            "encrypt.format=aes,encrypt.key-secret=s",
            "secret.qcow2",
            "1M",
        ],
    );
    qemu_img(&folder, &["create", "-f", "vmdk", "other.vmdk", "16M"]);
    std::fs::write(folder.join("noise"), [7u8; 4096]).unwrap();
    std::fs::write(folder.join("big"), vec![0u8; 9 << 20]).unwrap();
    let mut broken = std::fs::read(folder.join("good.qcow2")).unwrap();
    broken[24..32].copy_from_slice(&u64::MAX.to_be_bytes());
    std::fs::write(folder.join("broken.qcow2"), broken).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folder.join("out")).unwrap();

    for (name, code) in [
        ("backed.qcow2", "BACKING_FILE"),
        ("split.qcow2", "DATA_FILE"),
        ("secret.qcow2", "IMAGE_ENCRYPTED"),
        ("other.vmdk", "SURPRISE_FORMAT"),
        ("noise", "SURPRISE_FORMAT"),
        ("big", "IMAGE_TOO_LARGE"),
        ("broken.qcow2", "IMAGE_UNREADABLE"),
        ("out", "FILE_REFUSED"),
        ("../folder/good.qcow2", "FILE_REFUSED"),
        ("missing", "FILE_NOT_FOUND"),
    ] {
        let error = make(&host, &for_itself(name)).await.unwrap_err();
        assert_eq!(
            (error.code.as_str(), error.class),
            (code, ErrorClass::Permanent),
            "{name}: {error:?}"
        );
    }
    // For an instance, on a host that is not the one that checked the image: the fault is this host's.
    let digest = Some("0".repeat(64));
    for (name, code) in [("missing", "FILE_NOT_FOUND"), ("good.qcow2", "DIGEST_MISMATCH")] {
        let further = EnsureImage {
            holder: ResourceId::new(),
            sha256: digest.clone(),
            ..file(name)
        };
        let error = make(&host, &further).await.unwrap_err();
        assert_eq!(
            (error.code.as_str(), error.class),
            (code, ErrorClass::NotHere),
            "{name}: {error:?}"
        );
    }
    let unreachable = EnsureImage {
        holder: ResourceId::new(),
        sha256: digest,
        source: ImageSource::Url("https://name.invalid/image.qcow2".into()),
        ..file("good.qcow2")
    };
    let error = make(&host, &unreachable).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::NotHereNow, "{error:?}");
    let as_raw = EnsureImage {
        format: ImageFormat::Raw,
        ..file("good.qcow2")
    };
    assert_eq!(make(&host, &as_raw).await.unwrap_err().code, "SURPRISE_FORMAT");
    let raw = EnsureImage {
        format: ImageFormat::Raw,
        ..file("noise")
    };
    assert_eq!(facts(make(&host, &raw).await.unwrap()).virtual_size_bytes, 4096);

    let other = "0".repeat(64);
    let wrong = EnsureImage {
        sha256: Some(other.clone()),
        ..file("good.qcow2")
    };
    let error = make(&host, &wrong).await.unwrap_err();
    let is = facts(make(&host, &file("good.qcow2")).await.unwrap()).sha256;
    assert_eq!(error.code, "DIGEST_MISMATCH");
    assert!(
        error.detail.contains(&other) && error.detail.contains(&is),
        "{error}"
    );
    let left: Vec<_> = std::fs::read_dir(host.dir.path().join("objects/images"))
        .unwrap()
        .collect();
    assert_eq!(left.len(), 2, "refused files leave nothing: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_kept_once_by_digest_and_goes_with_the_last_claim() {
    if !can_be_real() {
        return;
    }
    let (host, folder) = host().await;
    qemu_img(&folder, &["create", "-f", "qcow2", "a.qcow2", "16M"]);
    std::fs::copy(folder.join("a.qcow2"), folder.join("b.qcow2")).unwrap();
    let one = file("a.qcow2");
    let again = EnsureImage {
        holder: ResourceId::new(),
        ..one.clone()
    };
    let twin = file("b.qcow2");
    let digest = facts(make(&host, &one).await.unwrap()).sha256;
    make(&host, &again).await.unwrap();
    assert_eq!(facts(make(&host, &twin).await.unwrap()).sha256, digest);
    // A frozen digest that is here needs no source.
    let frozen = EnsureImage {
        sha256: Some(digest.clone()),
        ..file("gone.qcow2")
    };
    make(&host, &frozen).await.unwrap();
    let kept = host.dir.path().join("objects/images").join(&digest);
    for action in [&one, &again, &twin, &frozen] {
        assert!(kept.is_file());
        host.must(Action::DropImage(DropShared {
            object: action.image,
            holder: action.holder,
        }))
        .await;
    }
    assert!(!kept.exists());
    host.must(Action::DropImage(DropShared {
        object: one.image,
        holder: one.holder,
    }))
    .await;
    assert!(host.driver().inventory(&name()).await.unwrap().is_empty());
}

/// A small HTTP server: `/image` is one, `/to?URL` redirects, `/loop` redirects to itself, `/slow` never ends, the rest is 404.
async fn server(image: Vec<u8>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let image = image.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap_or(0) > 0 {}
                let text = String::from_utf8_lossy(&head).into_owned();
                let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
                let answer = |status: &str, more: String, body: &[u8]| {
                    [
                        format!("HTTP/1.1 {status}\r\nConnection: close\r\n{more}\r\n").as_bytes(),
                        body,
                    ]
                    .concat()
                };
                let bytes = match path.as_str() {
                    "/pub/image" => answer("200 OK", format!("Content-Length: {}\r\n", image.len()), &image),
                    "/pub/endless" => answer("200 OK", String::new(), &vec![0; 9 << 20]),
                    "/pub/slow" => answer("200 OK", "Content-Length: 1000\r\n".to_owned(), b"a"),
                    "/pub/broken" => answer("503 Busy", String::new(), b""),
                    "/pub/loop" => answer("302 Found", "Location: /pub/loop\r\n".to_owned(), b""),
                    _ => match path.split_once('?') {
                        Some((_, to)) => answer("302 Found", format!("Location: {to}\r\n"), b""),
                        None => answer("404 Not Found", String::new(), b""),
                    },
                };
                drop(stream.write_all(&bytes).await);
                if path == "/pub/slow" {
                    drop(stream.read_buf(&mut Vec::new()).await);
                }
            });
        }
    });
    (base, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn urls_are_checked_at_every_turn() {
    if !can_be_real() {
        return;
    }
    let (mut host, folder) = host().await;
    qemu_img(&folder, &["create", "-f", "qcow2", "a.qcow2", "16M"]);
    let image = std::fs::read(folder.join("a.qcow2")).unwrap();
    let (base, asked) = server(image).await;
    let url = |u: String| ensure(ImageSource::Url(u), ImageFormat::Qcow2);
    let port = base.rsplit(':').next().unwrap().to_owned();

    for refused in [
        format!("{base}/pub/image"),
        format!("https://127.0.0.1:{port}/pub/image"),
        format!("https://localhost:{port}/pub/image"),
        "https://169.254.169.254/latest".to_owned(),
        "https://[::1]/x".to_owned(),
        "file:///etc/passwd".to_owned(),
        "https://user:pw@example.org/x".to_owned(),
        "nonsense".to_owned(),
    ] {
        let error = make(&host, &url(refused.clone())).await.unwrap_err();
        assert_eq!(error.code, "URL_REFUSED", "{refused}: {error:?}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0, "nobody was asked");

    std::fs::write(host.dir.path().join("allow"), format!("{base}/pub/")).unwrap();
    host.agent_goes().await;
    host.start().await;
    let got = facts(make(&host, &url(format!("{base}/pub/image"))).await.unwrap());
    assert_eq!(got.virtual_size_bytes, 16 << 20);
    make(&host, &url(format!("{base}/pub/to?/pub/image")))
        .await
        .unwrap();
    for (path, code) in [
        ("/pub/to?/private".to_owned(), "URL_REFUSED"),
        (
            format!("/pub/to?http://localhost:{port}/pub/image"),
            "URL_REFUSED",
        ),
        ("/pub/to?https://10.0.0.1/x".to_owned(), "URL_REFUSED"),
        ("/pub/loop".to_owned(), "TOO_MANY_REDIRECTS"),
        ("/pub/nothing".to_owned(), "FETCH_REFUSED"),
        ("/pub/endless".to_owned(), "IMAGE_TOO_LARGE"),
        ("/pub/broken".to_owned(), "FETCH_FAILED"),
    ] {
        let error = make(&host, &url(format!("{base}{path}"))).await.unwrap_err();
        assert_eq!(error.code, code, "{path}: {error:?}");
    }

    // A download stops when it is told to.
    let job = context(JobId::new());
    let slow = Action::EnsureImage(url(format!("{base}/pub/slow")));
    let before = asked.load(Ordering::SeqCst);
    let coming = host.driver().make_so(&job, &slow);
    let stop = async {
        while asked.load(Ordering::SeqCst) == before {
            tokio::task::yield_now().await;
        }
        job.cancel.cancel();
    };
    let (error, ()) = tokio::join!(coming, stop);
    assert_eq!(error.unwrap_err().code, "CANCELLED");
    let left = run(
        "ls",
        &["-A", host.dir.path().join("objects/images").to_str().unwrap()],
    )
    .1;
    assert_eq!(left.lines().count(), 1, "{left}");
}

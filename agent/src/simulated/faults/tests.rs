use super::*;

fn faults(text: &str) -> Faults {
    Faults {
        path: None,
        used: None,
        read: RwLock::new(Arc::new(Read {
            stamp: Stamp::default(),
            entries: parse(text).unwrap(),
        })),
    }
}

fn host() -> HostName {
    "sim-3".into()
}

#[test]
fn the_first_entry_that_fits_counts() {
    let faults = faults(
        r#"
        [[fault]]
        step = "ensure_disk"
        host = "sim-3"
        delay_ms = 500
        error = "unavailable"
        [[fault]]
        step = "*"
        error = "busy"
        when = "after"
        "#,
    );
    let disk = faults.pick("ensure_disk", &host()).unwrap();
    assert_eq!(
        (disk.delay, disk.error),
        (Duration::from_millis(500), Some(FaultError::Unavailable))
    );
    assert_eq!(
        faults.pick("ensure_disk", &"sim-1".into()).unwrap().error,
        Some(FaultError::Busy)
    );
    let undo = faults.pick("undo_ensure_disk", &host()).unwrap();
    assert_eq!((undo.error, undo.when), (Some(FaultError::Busy), When::After));
    assert_eq!(
        faults.pick("heartbeat", &host()),
        None,
        "`*` is every step and undo, and nothing else"
    );
}

#[test]
fn times_are_used_up() {
    let faults = faults("[[fault]]\nstep = \"heartbeat\"\nerror = \"timeout\"\ntimes = 2\n");
    let fits = (0..5)
        .filter(|_| faults.pick("heartbeat", &host()).is_some())
        .count();
    assert_eq!(fits, 2);
}

#[test]
fn the_dice_decide_by_rate() {
    let faults = faults("[[fault]]\nstep = \"*\"\ncrash = true\nrate = 0.5\n");
    let fits = (0..1000)
        .filter(|_| faults.pick("reboot", &host()).is_some())
        .count();
    assert!((300..700).contains(&fits), "{fits} of 1000");
    let never = self::faults("[[fault]]\nstep = \"*\"\ncrash = true\nrate = 0.0\n");
    assert_eq!(never.pick("reboot", &host()), None);
}

#[test]
fn a_time_out_comes_after_the_effect() {
    let faults = faults("[[fault]]\nstep = \"reboot\"\nerror = \"timeout\"\nwhen = \"before\"\n");
    assert_eq!(faults.pick("reboot", &host()).unwrap().when, When::After);
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    let rows = [
        (
            "[[fault]]\nstep = \"ensure_dsk\"\nerror = \"busy\"\n",
            "line 2",
            "step",
        ),
        ("[[fault]]\nstep = \"*\"\nerror = \"bussy\"\n", "line 3", "error"),
        ("[[fault]]\nstep = \"*\"\ndelay = 3\n", "line 3", "delay"),
        (
            "[[fault]]\nstep = \"*\"\ncrash = true\nrate = 1.5\n",
            "line 4",
            "rate",
        ),
        (
            "[[fault]]\nstep = \"*\"\n\n[[fault]]\nstep = \"reboot\"\ncrash = true\n",
            "line 1",
            "crash",
        ),
        ("[[fault]\n", "line 1", ""),
    ];
    for (text, line, key) in rows {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(line) && error.contains(key), "{text}: {error}");
    }
}

#[test]
fn a_wrong_file_leaves_the_last_good_one_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("faults.toml");
    let faults = Faults::of(Some(path.clone()), None);
    assert!(!faults.any(), "a file that isn't there has no faults");
    std::fs::write(&path, "[[fault]]\nstep = \"reboot\"\nerror = \"busy\"\n").unwrap();
    let stamp = faults.look(&Stamp::default());
    assert_eq!(
        faults.pick("reboot", &host()).unwrap().error,
        Some(FaultError::Busy)
    );
    std::fs::write(&path, "[[fault]]\nstep = \"reboot\"\nerror = \"bussy\"\n").unwrap();
    let stamp = faults.look(&stamp);
    assert!(faults.pick("reboot", &host()).is_some());
    std::fs::remove_file(&path).unwrap();
    faults.look(&stamp);
    assert!(!faults.any());
}

#[test]
fn times_are_counted_across_starts_until_the_file_changes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("faults.toml");
    let state = dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let twice = "[[fault]]\nstep = \"reboot\"\nerror = \"busy\"\n\n[[fault]]\nstep = \"*\"\ncrash = true\ntimes = 2\n";
    std::fs::write(&path, twice).unwrap();
    let start = || Faults::of(Some(path.clone()), Some(&state));
    for n in 0..2 {
        assert!(start().pick("set_power", &host()).unwrap().crash, "start {n}");
    }
    let last = start();
    assert_eq!(last.pick("set_power", &host()), None, "used up");
    assert!(last.pick("reboot", &host()).is_some(), "without end");
    // Another agent has its own counts.
    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let other = Faults::of(Some(path.clone()), Some(&other));
    assert!(other.pick("set_power", &host()).is_some());
    std::fs::write(&path, format!("# again\n{twice}")).unwrap();
    assert!(start().pick("set_power", &host()).unwrap().crash);
    // Counts that aren't any are told of, and begin anew.
    std::fs::write(state.join("faults-used.json"), "{").unwrap();
    assert!(start().pick("set_power", &host()).unwrap().crash);
}

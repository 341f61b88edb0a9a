use super::*;

fn wanted() -> Wanted {
    Wanted {
        cidr: "10.20.0.0/24".parse().unwrap(),
        gateway: "10.20.0.1".parse().unwrap(),
        transfer: "100.127.0.8/30".parse().unwrap(),
    }
}

#[test]
fn what_is_so_already_is_not_done_again() {
    let json = r#"[{"ifname":"lo"},{"ifname":"br0","addr_info":[{"family":"inet","local":"10.20.0.1","prefixlen":24}]},
        {"ifname":"up0","addr_info":[{"family":"inet","local":"100.127.0.10","prefixlen":30}]}]"#;
    let links: Vec<Link> = serde_json::from_str(json).unwrap();
    let lines = changes_inside(&links, &wanted());
    assert!(
        lines
            .iter()
            .all(|l| l.starts_with("link set") || l.starts_with("route replace")),
        "{lines:?}"
    );
    let lines = changes_inside(&[], &wanted());
    assert!(
        lines.contains(&"addr add 10.20.0.1/24 dev br0".to_owned()),
        "{lines:?}"
    );
}

#[test]
fn a_changed_gateway_replaces_the_old_one() {
    let json = r#"[{"ifname":"br0","addr_info":[{"family":"inet","local":"10.20.0.254","prefixlen":24}]}]"#;
    let links: Vec<Link> = serde_json::from_str(json).unwrap();
    let lines = changes_inside(&links, &wanted());
    assert!(
        lines.contains(&"addr del 10.20.0.254/24 dev br0".to_owned()),
        "{lines:?}"
    );
}

#[test]
fn taps_that_lost_their_bridge_are_put_on_it_again() {
    let json = r#"[{"ifname":"up0","flags":["UP"]},{"ifname":"t0123456789n0","flags":["UP"]},
        {"ifname":"t0123456789n1","flags":["UP"],"master":"br0"},{"ifname":"tabcdef0123n0","flags":[]},
        {"ifname":"plug0","flags":["UP"]}]"#;
    let links: Vec<Link> = serde_json::from_str(json).unwrap();
    let lines = changes_inside(&links, &wanted());
    let put: Vec<&String> = lines.iter().filter(|l| l.contains(" master ")).collect();
    assert_eq!(put, ["link set dev t0123456789n0 master br0"], "{lines:?}");
    let bridge = lines
        .iter()
        .position(|l| l.starts_with("link add name br0"))
        .unwrap();
    assert!(bridge < lines.iter().position(|l| l == put[0]).unwrap());
}

//! What a network's record comes to as it is claimed.

use super::*;

fn action(generation: i64, gateway: &str, holder: Option<ResourceId>) -> EnsureNetwork {
    EnsureNetwork {
        network: ResourceId::default(),
        tenant: TenantId::from("demo"),
        generation,
        cidr: "10.20.0.0/24".parse().unwrap(),
        gateway: gateway.parse().unwrap(),
        dns: vec![],
        leases: vec![],
        claim: holder.map(|holder| NetworkClaim {
            holder,
            leases: vec![],
        }),
    }
}

#[test]
fn who_claims_last_has_the_address() {
    let (one, two) = (ResourceId::new(), ResourceId::new());
    let claim = |holder, mac: &str| EnsureNetwork {
        claim: Some(NetworkClaim {
            holder,
            leases: vec![HostLease {
                mac: mac.to_owned(),
                ip: Ipv4Addr::new(10, 20, 0, 9),
                hostname: None,
            }],
        }),
        ..action(1, "10.20.0.1", None)
    };
    let (of_one, of_two) = (claim(one, "02:00:00:00:00:01"), claim(two, "02:00:00:00:00:02"));
    let mut network = Network::new(&of_one);
    for (claim, mac) in [(&of_two, "02:00:00:00:00:02"), (&of_one, "02:00:00:00:00:01")] {
        network.take(claim);
        let macs: Vec<&str> = network.service().leases.iter().map(|l| l.mac.as_str()).collect();
        assert_eq!(macs, [mac]);
    }
    assert_eq!(network.claims.len(), 2, "the claims themselves stay");
}

#[test]
fn a_lower_generation_never_overwrites_and_still_claims() {
    let (one, two) = (ResourceId::new(), ResourceId::new());
    let first = action(2, "10.20.0.1", Some(one));
    let mut network = Network::new(&first);
    network.take(&first);
    network.take(&action(1, "10.20.0.9", Some(two)));
    assert_eq!(network.gateway, Ipv4Addr::new(10, 20, 0, 1));
    assert_eq!(network.claims.len(), 2);
    network.take(&action(3, "10.20.0.9", None));
    assert_eq!(network.gateway, Ipv4Addr::new(10, 20, 0, 9));
    assert_eq!(network.claims.len(), 2);
}

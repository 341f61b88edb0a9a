//! The rules of nftables for a network: pure functions. Each text replaces a table as a whole, atomically.
//!
//! Inside: guests reach dnsmasq, each other and the way out. Outside: what comes from a network goes to the outside alone, with the
//! machine's address; never to the machine itself, another network, or link-local addresses (where clouds keep their metadata).

use super::names::{Names, Wanted};
use super::netns::{BRIDGE, UPLINK};

/// Of a network's namespace.
pub(crate) fn rules_inside(wanted: &Wanted) -> String {
    let cidr = wanted.cidr.trunc();
    format!(
        "table inet net
delete table inet net
table inet net {{
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname \"lo\" accept
    ct state established,related accept
    iifname \"{BRIDGE}\" udp dport {{ 53, 67 }} accept
    iifname \"{BRIDGE}\" tcp dport 53 accept
    iifname \"{BRIDGE}\" icmp type echo-request accept
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    iifname \"{BRIDGE}\" oifname \"{BRIDGE}\" accept
    ct state established,related accept
    iifname \"{BRIDGE}\" oifname \"{UPLINK}\" ip saddr {cidr} accept
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname \"{UPLINK}\" masquerade
  }}
}}
"
    )
}

/// Of the machine's, for one network.
pub(crate) fn rules_outside(names: &Names, wanted: &Wanted) -> String {
    let Names { veth, table, .. } = names;
    let (_, near) = wanted.transfer_ends();
    format!(
        "table inet {table}
delete table inet {table}
table inet {table} {{
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname \"{veth}\" ct state established,related accept
    iifname \"{veth}\" drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname \"{veth}\" oifname \"rzv*\" drop
    iifname \"{veth}\" ip daddr 169.254.0.0/16 drop
    iifname \"{veth}\" ip saddr {near} accept
    iifname \"{veth}\" drop
    oifname \"{veth}\" ct state established,related accept
    oifname \"{veth}\" drop
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {near} oifname != \"{veth}\" masquerade
  }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rhyzome_model::ids::ResourceId;

    fn wanted() -> Wanted {
        Wanted {
            cidr: "10.20.0.0/24".parse().unwrap(),
            gateway: "10.20.0.1".parse().unwrap(),
            transfer: "100.127.0.8/30".parse().unwrap(),
        }
    }

    #[test]
    fn rules_name_the_range_and_refuse_the_rest() {
        let rules = rules_inside(&wanted());
        assert!(rules.contains("ip saddr 10.20.0.0/24 accept"));
        assert_eq!(rules.matches("policy drop").count(), 2);
        let names = Names::new("x", ResourceId::new());
        let outside = rules_outside(&names, &wanted());
        assert!(outside.contains("oifname \"rzv*\" drop") && outside.contains("ip saddr 100.127.0.10"));
    }
}

//! What must hold after each transaction: the books agree with each other, each invariant by its number in the protocol's list.

use super::Books;
use rhyzome_model::ids::HostName;
use rhyzome_model::kinds::{Demand, Kind};
use std::collections::{BTreeMap, BTreeSet};

impl Books {
    /// What is broken, if something changed since the last look.
    pub fn audit(&mut self) -> Vec<String> {
        let mut faults = std::mem::take(&mut self.faults);
        if std::mem::take(&mut self.changed) {
            self.audit_slots(&mut faults);
            self.audit_hosts(&mut faults);
            self.audit_places(&mut faults);
            self.audit_addresses(&mut faults);
        }
        faults
    }

    fn audit_slots(&self, faults: &mut Vec<String>) {
        for (tenant, running) in &self.running {
            let held = self
                .jobs
                .values()
                .filter(|j| j.holds_slot && j.tenant == *tenant)
                .count() as i32;
            if held != *running {
                faults.push(format!(
                    "4: tenant {tenant} runs {running} jobs, {held} hold a slot"
                ));
            }
            if *running > self.cap {
                faults.push(format!("12: tenant {tenant} runs {running} jobs of {}", self.cap));
            }
        }
        for (resource, line) in &self.line {
            let active = line.values().filter(|(_, active)| *active).count();
            if active > 1 {
                faults.push(format!("4: {active} jobs are active on {resource}"));
            }
        }
    }

    fn audit_hosts(&self, faults: &mut Vec<String>) {
        let mut sums: BTreeMap<&HostName, Demand> = BTreeMap::new();
        for ((_, host), demand) in &self.reservations {
            let sum = sums.entry(host).or_default();
            sum.vcpus += demand.vcpus;
            sum.memory_mib += demand.memory_mib;
            sum.disk_gib += demand.disk_gib;
        }
        for (name, host) in &self.hosts {
            let sum = sums.get(name).copied().unwrap_or_default();
            if sum != host.used {
                faults.push(format!(
                    "4: host {name} has {:?} used, {sum:?} is reserved",
                    host.used
                ));
            }
            let over = host.used.vcpus > host.offered.vcpus
                || host.used.memory_mib > host.offered.memory_mib
                || host.used.disk_gib > host.offered.disk_gib;
            if over {
                faults.push(format!(
                    "8: host {name} has {:?} used of {:?}",
                    host.used, host.offered
                ));
            }
            let out = self
                .jobs
                .values()
                .filter(|j| j.dispatched_at.is_some() && j.host.as_ref() == Some(name))
                .count() as i32;
            if out != host.orders_out {
                faults.push(format!(
                    "4: host {name} counts {} orders out, it is {out}",
                    host.orders_out
                ));
            }
        }
    }

    fn audit_places(&self, faults: &mut Vec<String>) {
        for resource in self.resources.values().filter(|r| r.kind == Kind::Instance) {
            let reserved: Vec<&HostName> = self
                .reservations
                .keys()
                .filter(|(id, _)| *id == resource.id)
                .map(|(_, host)| host)
                .collect();
            if reserved != resource.host.iter().collect::<Vec<_>>() {
                faults.push(format!(
                    "8: {} is on {:?}, and has reservations on {reserved:?}",
                    resource.id, resource.host
                ));
            }
            let Some(host) = &resource.host else { continue };
            for (_, to) in self.refs.iter().filter(|(from, _)| *from == resource.id) {
                let network = self.resources.get(to).is_some_and(|r| r.kind == Kind::Network);
                if network && self.homes.get(to) != Some(host) {
                    faults.push(format!(
                        "7: {} is on {host}, its network {to} lives on {:?}",
                        resource.id,
                        self.homes.get(to)
                    ));
                }
            }
        }
        for id in self.usage.keys() {
            if self.resources.get(id).is_none_or(|r| r.applied.is_none()) {
                faults.push(format!("4: usage of {id} is open, and it isn't there"));
            }
        }
    }

    fn audit_addresses(&self, faults: &mut Vec<String>) {
        let mut held = BTreeSet::new();
        for lease in self.leases.values().flatten() {
            if !held.insert((lease.network, lease.ip)) {
                faults.push(format!("8: {} of {} has two holders", lease.ip, lease.network));
            }
        }
        let is_guest = |r: &&super::Resource| r.kind == Kind::Instance && r.stand_in.is_none();
        for resource in self.resources.values().filter(is_guest) {
            if self.leases.get(&resource.id).is_none_or(Vec::is_empty) {
                faults.push(format!("8: {} has no address", resource.id));
            }
        }
    }
}

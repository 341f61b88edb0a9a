//! Taps of guests: made in a namespace, put on its bridge, removed.

use super::{BRIDGE, Link, ip_batch, is_there, links};
use crate::driver::StepError;
use crate::objects::instance::is_tap_name;
use crate::objects::names::Names;

/// A tap of a guest in a namespace, owned by its user, so that QEMU needs no rights to open it. An older one goes first.
pub(crate) async fn make_tap(names: &Names, tap: &str, owner: u32) -> Result<(), StepError> {
    if has_link(names, tap).await? {
        ip_batch(Some(&names.namespace), &[format!("link del dev {tap}")]).await?;
    }
    ip_batch(
        Some(&names.namespace),
        &[format!("tuntap add dev {tap} mode tap user {owner} vnet_hdr")],
    )
    .await
}

/// Puts a tap on the bridge, bringing it from another namespace (the one that QEMU runs in) where it isn't there yet.
pub(crate) async fn attach_tap(from: &Names, to: &Names, tap: &str) -> Result<(), StepError> {
    if from != to {
        ip_batch(
            Some(&from.namespace),
            &[format!("link set dev {tap} netns {}", to.namespace)],
        )
        .await?;
    }
    ip_batch(
        Some(&to.namespace),
        &[
            format!("link set dev {tap} master {BRIDGE}"),
            format!("link set dev {tap} up"),
        ],
    )
    .await
}

/// Pure: whether it is a guest's tap that was put on the bridge and is on none now. One that is still being made is not up.
pub(super) fn is_loose(link: &Link) -> bool {
    is_tap_name(&link.ifname) && link.is_up() && link.master.as_deref() != Some(BRIDGE)
}

/// Pure: what puts it there again.
pub(super) fn onto_bridge(link: &Link) -> String {
    format!("link set dev {} master {BRIDGE}", link.ifname)
}

pub(super) async fn has_link(names: &Names, name: &str) -> Result<bool, StepError> {
    Ok(is_there(names)
        && links(Some(&names.namespace))
            .await?
            .iter()
            .any(|l| l.ifname == name))
}

/// Removes a tap, if it is there.
pub(crate) async fn remove_tap(names: &Names, tap: &str) -> Result<(), StepError> {
    if has_link(names, tap).await? {
        ip_batch(Some(&names.namespace), &[format!("link del dev {tap}")]).await?;
    }
    Ok(())
}

/// Removes all taps of a guest, by what their names begin with.
pub(crate) async fn remove_taps(names: &Names, prefix: &str) -> Result<(), StepError> {
    if !is_there(names) {
        return Ok(());
    }
    let links = links(Some(&names.namespace)).await?;
    let lines: Vec<String> = links
        .iter()
        .filter(|l| is_tap_name(&l.ifname) && l.ifname.starts_with(prefix))
        .map(|l| format!("link del dev {}", l.ifname))
        .collect();
    ip_batch(Some(&names.namespace), &lines).await
}

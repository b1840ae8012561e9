// SPDX-License-Identifier: GPL-2.0

//! The workqueue for work that may wait, chosen by a hash of the user or cgroup: so one delays only
//! the few others whose work has the same workqueue. Nobody can predict who these are.

use crate::{
    net::hash,
    sock::types::Socket, //
};

/// A user may create any number of memory cgroups, so all of a user's share this many workqueues.
const QUEUES: u64 = 4;

/// The workqueue for a user's connects, which may wait for the network. Any context.
pub(super) fn of_user(user: u32) -> u64 {
    hash([0, user.into(), 0])
}

/// The workqueue for work that may wait for memory of the cgroup of `sk`. Any context.
pub(super) fn of_cgroup(sk: &Socket) -> u64 {
    let user = sk.responsible_uid().into();
    // CAST: `u64` is as long, or longer.
    let cgroup = sk.cgroup() as u64;
    hash([1, user, 0]).wrapping_add(hash([2, cgroup, 0]) % QUEUES)
}

// SPDX-License-Identifier: GPL-2.0

//! Who is behind work that may wait, and has one of the workqueues for it, so that it delays no
//! more than the few others who have the same. Nobody can predict who these are.

use crate::{
    net::hash,
    sock::Socket, //
};

/// How many workqueues the memory cgroups of one user have, who may make any number of them.
const QUEUES: u64 = 4;

/// The workqueue of a user's connects, which may wait for the network. Any context.
pub(super) fn of_user(user: u32) -> u64 {
    hash([0, user.into(), 0])
}

/// The workqueue of what may wait for memory of a socket's cgroup. Any context.
pub(super) fn of_cgroup(sk: &Socket) -> u64 {
    let user = sk.answerable().into();
    // CAST: `u64` is as long, or longer.
    let cgroup = sk.cgroup() as u64;
    hash([1, user, 0]).wrapping_add(hash([2, cgroup, 0]) % QUEUES)
}

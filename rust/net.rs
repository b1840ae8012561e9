// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers of the socket layer: what a protocol family needs of it. Of SDP they know only the
//! numbers in `include/uapi`, and the name of `net.sdp.mem`.

use crate::{
    bindings,
    prelude::*, //
};

mod bpf;
pub(crate) mod diag;
pub(crate) mod errno;
pub(crate) mod family;
mod inet;
pub(crate) mod module;
pub(crate) mod msg;
pub(crate) mod namespace;
pub(crate) mod ops;
pub(crate) mod optval;
pub(crate) mod pernet;
pub(crate) mod pipe;
mod proc;
pub(crate) mod reuseport;
pub(crate) mod sk_mem;
pub(crate) mod sock;
pub(crate) mod sockaddr;
pub(crate) mod spinlock_bh;
pub(crate) mod stamp;
pub(crate) mod sysctl;
pub(crate) mod tcp_info;
pub(crate) mod uapi;
pub(crate) mod wait;
pub(crate) mod work;
pub(crate) mod zerocopy;

/// Random bits that nobody can predict. Any context.
pub(crate) fn random() -> u64 {
    // SAFETY: It has no preconditions.
    unsafe { bindings::get_random_u64() }
}

/// A hash of these words that nobody can predict, the same until the module is unloaded. Any
/// context.
pub(crate) fn hash([first, second, third]: [u64; 3]) -> u64 {
    // SAFETY: It only reads its arguments.
    unsafe { bindings::sdp_helper_hash(first, second, third) }
}

/// The CPU that this runs on, or ran on a moment ago. Any context.
pub(crate) fn this_cpu() -> c_int {
    // SAFETY: It has no preconditions.
    unsafe { bindings::sdp_helper_this_cpu() }
}

/// The user who is responsible for the current task: the owner of the outermost user namespace that
/// it is in, below the host's, or where the host's root made that its own root; without one the
/// task's user. Process context.
pub(crate) fn responsible_uid() -> u32 {
    // SAFETY: The current task looks at its own credentials.
    unsafe { bindings::sdp_helper_responsible_uid() }
}

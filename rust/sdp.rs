// SPDX-License-Identifier: GPL-2.0

//! Stream sockets over RDMA with the Sockets Direct Protocol.
//!
//! The layers: `proto` is the protocol, pure; `rdma`, `net` and `mm` wrap the kernel's RDMA and
//! socket layers and its memory management; `sock` is the socket that is made of them. Only `rdma`,
//! `net`, `mm` and `bindings` contain `unsafe`.

mod bindings;
mod mm;
mod net;
mod prelude;
pub mod proto;
mod rdma;
mod sock;

use crate::prelude::*;

module! {
    type: SdpModule,
    name: "sdp",
    authors: ["The sdp developers"],
    description: "Sockets Direct Protocol: stream sockets over RDMA",
    license: "GPL",
    alias: ["net-pf-27", "net-pf-28"],
}

/// The loaded module.
type SdpModule = net::module::Loaded<sock::Sdp>;

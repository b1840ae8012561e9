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

/// The loaded module. Fields are dropped in this order: the families first, since their sockets use
/// the others, then the workqueues, whose last items may use the rest.
struct SdpModule {
    _families: net::family::Registration<sock::Sdp>,
    _workqueues: net::work::Workqueues,
    _devices: rdma::client::Registration,
    _limit: net::account::Registration,
}

impl kernel::Module for SdpModule {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        rdma::pd::init();
        let devices = rdma::client::Registration::new()?;
        let limit = net::account::Registration::new(c"net/sdp")?;
        let workqueues = net::work::Workqueues::new()?;
        Ok(Self {
            _families: net::family::Registration::new()?,
            _workqueues: workqueues,
            _devices: devices,
            _limit: limit,
        })
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Stream sockets over RDMA with the Sockets Direct Protocol.
//!
//! The layers, from the wire to the user: `proto` is the protocol, pure; `rdma`, `net` and `mm` wrap
//! the kernel's RDMA and socket layers and its memory; `sock` is the socket that is made of them.
//! Only `rdma`, `net`, `mm` and `bindings` hold `unsafe`.

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
    alias: ["net-pf-27"],
}

/// The loaded module. Fields are dropped in this order: the family first, since its sockets use
/// the others, then the workqueue, whose last items may use the rest.
struct SdpModule {
    _family: net::family::Registration<sock::Sdp>,
    _workqueue: net::work::Workqueue,
    _ports: sock::ports::Registration,
    _settings: sock::settings::Registration,
    _limit: net::account::Registration,
    _stats: sock::stats::Registration,
}

impl kernel::Module for SdpModule {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        rdma::pd::init();
        let ports = sock::ports::Registration::new()?;
        let settings = sock::settings::Registration::new()?;
        let limit = net::account::Registration::new(c"net/sdp")?;
        let stats = sock::stats::Registration::new()?;
        let workqueue = net::work::Workqueue::new(c"sdp")?;
        Ok(Self {
            _family: sock::register()?,
            _workqueue: workqueue,
            _ports: ports,
            _settings: settings,
            _limit: limit,
            _stats: stats,
        })
    }
}

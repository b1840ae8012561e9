// SPDX-License-Identifier: GPL-2.0

//! What the set-up of a connection makes at either end: the machine, the QP, and what they ask of
//! the device.
//!
//! Locks and references are those of [`Conn`].

use crate::{
    prelude::*,
    proto::{
        Config,
        ADVERTS, //
    },
    rdma::{
        cm::{
            ConnParam,
            PeerParam, //
        },
        device::Device,
        pd::Pd,
        qp::{
            Caps,
            Qp, //
        }, //
    },
    sock::{
        buffers::BUFFER_SLOTS,
        conn::{
            Conn,
            Id, //
        },
        flow::{
            new_machine,
            PeerBuffers, //
        },
        notes::Setup,
        output::{
            PAYLOAD_PIECES,
            SEND_ORDER,
            SEND_SLOTS, //
        },
        recv_buffers::{
            Limits,
            RecvBuffers,
            FIRST, //
        },
        ring::Ring,
        settings, //
    }, //
};
use kernel::{
    page::PAGE_SIZE,
    sync::{
        atomic::Relaxed,
        UniqueArc, //
    }, //
};

/// Pages that the set-up of a connection takes, beside its buffers and the device's queue of them:
/// measured on rxe, where `make connections` shows what a connection takes, and how much of that is
/// charged.
const FIXED_PAGES: usize = 5;

/// Sends to a peer that has posted no receive are retried without end; credits keep it ready.
const RNR_RETRY_FOR_EVER: u8 = 7;

/// How long a peer waits before it tries again to send to us: 0.64 ms, as the InfiniBand
/// specification encodes it, where 0 means 655 ms.
const RNR_TIMER: u8 = 12;

/// RDMA Reads in flight each way. Devices reserve memory for what is asked for.
// CAST: It is 8.
const READS: u8 = ADVERTS as u8;

/// How often the device sends a packet again: the most that the CM allows.
const RETRIES: u8 = 7;

/// Whether a cm id is of an iWARP device; false where it has none yet.
pub(super) fn is_iwarp(id: &Id) -> bool {
    id.device().is_ok_and(|device| device.is_iwarp())
}

impl Conn {
    /// Makes the machine and the QP for the device of the cm id. Sleeps. Fails with `ENOBUFS` where
    /// the charge is refused, `ENOMEM`, and the driver's error; nothing has been set up then.
    pub(super) fn make_qp(&self, setup: &mut Setup<Id>) -> Result {
        // Charged all at once, before anything is made.
        let device = setup.id.as_ref().ok_or(ENOTCONN)?.device()?;
        let limits = Limits::new(&self.net, &device);
        self.charge_first(FIXED_PAGES.saturating_add(limits.queue_pages()))?;
        let pd = Pd::new(device)?;
        self.make_machine(pd.device(), limits)?;
        let caps = Caps {
            send_wr: SEND_SLOTS.saturating_add(BUFFER_SLOTS),
            recv_wr: limits.count.into(),
            payload_sge: PAYLOAD_PIECES,
            // CAST: There are a few.
            recv_sge: limits.pages as u32,
        };
        let room = UniqueArc::new_uninit(GFP_KERNEL)?;
        let id = setup.id.take().ok_or(ENOTCONN)?;
        match Qp::new(id, &pd, caps, self.arc()) {
            Ok(qp) => {
                self.post.lock().qp = Some(room.write(qp).into());
                Ok(())
            }
            Err((e, id)) => {
                setup.id = Some(id);
                Err(e)
            }
        }
    }

    fn make_machine(&self, device: &Device, limits: Limits) -> Result {
        // A payload of a full chunk starts and ends inside one: it lies in two of them.
        let send_size = u32::try_from(PAGE_SIZE << SEND_ORDER)?;
        let config = Config {
            side: self.side,
            // CAST: It is 8.
            max_adverts: ADVERTS as u16,
            ord: device.max_qp_init_rd_atom().clamp(1, READS).into(),
            ird: device.max_qp_rd_atom().clamp(1, READS).into(),
            recv_size: u32::try_from(PAGE_SIZE)?,
            recv_depth: FIRST,
            send_size,
            desired_remote: limits.size(),
        };
        let mut machine = new_machine(config)?;
        machine.set_resizable(true);
        let iwarp = device.is_iwarp();
        if iwarp {
            machine.set_initiator_first();
        }
        self.fatal.store(false, Relaxed);
        let mut rx = Ring::new(FIRST.into())?;
        let mut early = Ring::new(FIRST.into())?;
        {
            let mut flow = self.flow.lock();
            flow.options.apply(&mut machine, &self.net);
            core::mem::swap(&mut flow.machine, &mut machine);
            // Left by the attempt before.
            flow.flushed = false;
            flow.failure.cause = None;
            flow.iwarp = iwarp;
            flow.peer_buffers = PeerBuffers {
                message_size: limits.size().min(send_size),
                ..PeerBuffers::default()
            };
            flow.recv = RecvBuffers::new(limits);
            core::mem::swap(&mut flow.rx, &mut rx);
            core::mem::swap(&mut flow.early, &mut early);
        }
        Ok(())
    }

    /// The parameters of this end for rdma_cm: for a connect, or an accept of what `peer` asks for.
    pub(super) fn param(&self, setup: &Setup<Id>, peer: Option<PeerParam>) -> ConnParam {
        let (responder_resources, initiator_depth) = self.qp(setup).map_or((1, 1), |qp| {
            let device = qp.pd().device();
            (
                device.max_qp_rd_atom().min(READS),
                device.max_qp_init_rd_atom().min(READS),
            )
        });
        // Neither side may have more RDMA Reads in flight than the other answers.
        let (responder_resources, initiator_depth) = match peer {
            Some(peer) => (
                responder_resources.min(peer.responder_resources),
                initiator_depth.min(peer.initiator_depth),
            ),
            None => (responder_resources, initiator_depth),
        };
        ConnParam {
            responder_resources,
            initiator_depth,
            retry_count: RETRIES,
            rnr_retry_count: RNR_RETRY_FOR_EVER,
            ack_timeout: settings::ack_timeout(&self.net),
            min_rnr_timer: RNR_TIMER,
        }
    }
}

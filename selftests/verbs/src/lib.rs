// SPDX-License-Identifier: GPL-2.0

//! The part of librdmacm's and libibverbs' interfaces that the test programs need, as their headers
//! have it.

#![expect(
    missing_docs,
    reason = "the headers and manual pages of rdma-core say what all of it is"
)]

use libc::{
    c_int,
    c_void, //
};
use std::mem::{
    offset_of,
    size_of, //
};

pub const PS_TCP: u32 = 0x0106;
pub const ACCESS_LOCAL_WRITE: c_int = 1;
pub const ACCESS_REMOTE_WRITE: c_int = 2;
pub const ACCESS_REMOTE_READ: c_int = 4;
pub const QPT_RC: u32 = 2;
pub const WR_WRITE: u32 = 0;
pub const WR_SEND: u32 = 2;
pub const WR_READ: u32 = 4;
pub const WR_SEND_WITH_INVALIDATE: u32 = 9;
pub const SEND_SIGNALED: u32 = 2;
pub const WC_SUCCESS: u32 = 0;
pub const WC_WR_FLUSH_ERR: u32 = 5;

#[repr(C)]
pub struct EventChannel {
    pub fd: c_int,
}

#[repr(C)]
pub struct CmId {
    pub verbs: *mut Context,
    pub channel: *mut EventChannel,
    pub context: *mut c_void,
    pub qp: *mut c_void,
    route: [u64; 39],
    port_space: u32,
    port_num: u8,
    event: *mut CmEvent,
    send_cq_channel: *mut c_void,
    pub send_cq: *mut c_void,
    recv_cq_channel: *mut c_void,
    pub recv_cq: *mut c_void,
    srq: *mut c_void,
    pub pd: *mut c_void,
    qp_type: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub struct ConnParam {
    pub private_data: *const c_void,
    pub private_data_len: u8,
    pub responder_resources: u8,
    pub initiator_depth: u8,
    pub flow_control: u8,
    pub retry_count: u8,
    pub rnr_retry_count: u8,
    pub srq: u8,
    pub qp_num: u32,
}

#[repr(C)]
pub struct CmEvent {
    pub id: *mut CmId,
    listen_id: *mut CmId,
    pub event: u32,
    pub status: c_int,
    pub param: ConnParam,
    rest: [u64; 4],
}

#[repr(C)]
pub struct QpInitAttr {
    pub qp_context: *mut c_void,
    pub send_cq: *mut c_void,
    pub recv_cq: *mut c_void,
    pub srq: *mut c_void,
    pub max_send_wr: u32,
    pub max_recv_wr: u32,
    pub max_send_sge: u32,
    pub max_recv_sge: u32,
    pub max_inline_data: u32,
    pub qp_type: u32,
    pub sq_sig_all: c_int,
}

#[repr(C)]
pub struct Sge {
    pub addr: u64,
    pub length: u32,
    pub lkey: u32,
}

#[repr(C)]
pub struct SendWr {
    pub wr_id: u64,
    pub next: *mut SendWr,
    pub sg_list: *mut Sge,
    pub num_sge: c_int,
    pub opcode: u32,
    pub send_flags: u32,
    /// Or the key to invalidate.
    pub imm_data: u32,
    pub remote_addr: u64,
    pub rkey: u32,
    pub rest: [u64; 9],
}

#[repr(C)]
pub struct RecvWr {
    pub wr_id: u64,
    pub next: *mut RecvWr,
    pub sg_list: *mut Sge,
    pub num_sge: c_int,
}

#[derive(Default)]
#[repr(C)]
pub struct Wc {
    pub wr_id: u64,
    pub status: u32,
    opcode: u32,
    vendor_err: u32,
    pub byte_len: u32,
    imm_data: u32,
    qp_num: u32,
    src_qp: u32,
    wc_flags: u32,
    rest: u64,
}

#[repr(C)]
pub struct Mr {
    before: [u32; 9],
    pub lkey: u32,
    pub rkey: u32,
}

/// The calls that the headers make through the provider's table.
#[repr(C)]
pub struct Context {
    before: [usize; 12],
    pub poll_cq: unsafe extern "C" fn(*mut c_void, c_int, *mut Wc) -> c_int,
    pub req_notify_cq: unsafe extern "C" fn(*mut c_void, c_int) -> c_int,
    between: [usize; 12],
    pub post_send: unsafe extern "C" fn(*mut c_void, *mut SendWr, *mut *mut SendWr) -> c_int,
    pub post_recv: unsafe extern "C" fn(*mut c_void, *mut RecvWr, *mut *mut RecvWr) -> c_int,
}

// The sizes and places that the C compiler gives for the headers of rdma-core on 64 bits.
const _: () = {
    assert!(
        size_of::<CmId>() == 416 && offset_of!(CmId, send_cq) == 368 && offset_of!(CmId, pd) == 400
    );
    assert!(size_of::<CmEvent>() == 80 && offset_of!(CmEvent, param) == 24);
    assert!(size_of::<ConnParam>() == 24 && offset_of!(ConnParam, qp_num) == 16);
    assert!(size_of::<QpInitAttr>() == 64 && offset_of!(QpInitAttr, qp_type) == 52);
    assert!(
        size_of::<SendWr>() == 128
            && offset_of!(SendWr, opcode) == 28
            && offset_of!(SendWr, rkey) == 48
    );
    assert!(size_of::<RecvWr>() == 32 && size_of::<Wc>() == 48 && offset_of!(Wc, byte_len) == 20);
    assert!(offset_of!(Mr, lkey) == 36);
    assert!(offset_of!(Context, poll_cq) == 96 && offset_of!(Context, post_recv) == 216);
};

#[link(name = "rdmacm")]
extern "C" {
    pub fn rdma_create_event_channel() -> *mut EventChannel;
    pub fn rdma_destroy_event_channel(channel: *mut EventChannel);
    pub fn rdma_create_id(
        channel: *mut EventChannel,
        id: *mut *mut CmId,
        context: *mut c_void,
        ps: u32,
    ) -> c_int;
    pub fn rdma_destroy_id(id: *mut CmId) -> c_int;
    pub fn rdma_migrate_id(id: *mut CmId, channel: *mut EventChannel) -> c_int;
    pub fn rdma_bind_addr(id: *mut CmId, addr: *const libc::sockaddr) -> c_int;
    pub fn rdma_listen(id: *mut CmId, backlog: c_int) -> c_int;
    pub fn rdma_get_src_port(id: *mut CmId) -> u16;
    pub fn rdma_resolve_addr(
        id: *mut CmId,
        src: *const libc::sockaddr,
        dst: *const libc::sockaddr,
        timeout_ms: c_int,
    ) -> c_int;
    pub fn rdma_resolve_route(id: *mut CmId, timeout_ms: c_int) -> c_int;
    pub fn rdma_create_qp(id: *mut CmId, pd: *mut c_void, attr: *mut QpInitAttr) -> c_int;
    pub fn rdma_destroy_qp(id: *mut CmId);
    pub fn rdma_connect(id: *mut CmId, param: *mut ConnParam) -> c_int;
    pub fn rdma_accept(id: *mut CmId, param: *mut ConnParam) -> c_int;
    pub fn rdma_reject(id: *mut CmId, private_data: *const c_void, len: u8) -> c_int;
    pub fn rdma_disconnect(id: *mut CmId) -> c_int;
    pub fn rdma_get_cm_event(channel: *mut EventChannel, event: *mut *mut CmEvent) -> c_int;
    pub fn rdma_ack_cm_event(event: *mut CmEvent) -> c_int;
}

#[link(name = "ibverbs")]
extern "C" {
    pub fn ibv_reg_mr(pd: *mut c_void, addr: *mut c_void, len: usize, access: c_int) -> *mut Mr;
    pub fn ibv_dereg_mr(mr: *mut Mr) -> c_int;
    pub fn ibv_create_comp_channel(context: *mut Context) -> *mut c_void;
    pub fn ibv_destroy_comp_channel(channel: *mut c_void) -> c_int;
    pub fn ibv_create_cq(
        context: *mut Context,
        entries: c_int,
        cq_context: *mut c_void,
        channel: *mut c_void,
        vector: c_int,
    ) -> *mut c_void;
    pub fn ibv_destroy_cq(cq: *mut c_void) -> c_int;
    pub fn ibv_get_cq_event(
        channel: *mut c_void,
        cq: *mut *mut c_void,
        cq_context: *mut *mut c_void,
    ) -> c_int;
    pub fn ibv_ack_cq_events(cq: *mut c_void, events: u32);
}

// SPDX-License-Identifier: GPL-2.0

//! Connection identifiers of the RDMA connection manager.

use super::device::{
    Device,
    OWNER, //
};
use crate::{
    bindings,
    net::namespace::Net,
    prelude::*, //
};
use core::{
    cell::Cell,
    mem::{
        self,
        MaybeUninit, //
    },
    net::{
        Ipv4Addr,
        Ipv6Addr,
        SocketAddr,
        SocketAddrV4,
        SocketAddrV6, //
    },
    ptr::{
        self,
        NonNull, //
    },
    slice,
};
use kernel::{
    error::{
        from_err_ptr,
        to_result, //
    },
    sync::atomic::{
        Acquire,
        AtomicFlag,
        Release, //
    },
    types::NotThreadSafe, //
};

/// The handler of a connection identifier's events.
pub(crate) trait CmHandler: Send + Sync + Sized + 'static {
    /// Handles an event, one at a time for each identifier.
    ///
    /// All RDMA users of the host share the few workers that call this, so it must not wait for a
    /// program, nor set anything up: it leaves a note for other work and returns. It runs in
    /// process context, under the handler mutex of the identifier, and must not drop the [`CmId`].
    /// The [`CmEvent::ConnectRequest`] of a child is an event of its listener.
    fn event(&self, event: CmEvent<'_>);
}

/// The `context` of an identifier in rdma_cm.
struct Context<C> {
    handler: C,
    /// Whether the CM below rdma_cm has a connection, which it then keeps as long as the identifier
    /// lives. Before that, calls about the connection would read a pointer that
    /// `rdma_connect_locked()` may be setting or clearing.
    connection: AtomicFlag,
}

/// A connection identifier, which passes its events to a `C`.
///
/// Dropping it destroys it: no handler runs any more after that. It sleeps and waits for a running
/// handler, so it must not be dropped in its own handler, nor under a lock that a handler takes.
/// The same holds for every method that takes the "handler mutex".
///
/// # Invariants
///
/// `id` is live, only this value destroys it, its `context` is this one, and it came from a box.
pub(crate) struct CmId<C: CmHandler> {
    id: NonNull<bindings::rdma_cm_id>,
    context: NonNull<Context<C>>,
}

// SAFETY: An identifier may be used and destroyed from any thread, and so may a `C`.
unsafe impl<C: CmHandler> Send for CmId<C> {}
// SAFETY: What `&self` gives is synchronised by rdma_cm; the rest takes `&mut self`.
unsafe impl<C: CmHandler> Sync for CmId<C> {}

impl<C: CmHandler> CmId<C> {
    /// Makes an identifier for reliable connections in the TCP port space of `net`. Sleeps. Fails
    /// with `ENOMEM`.
    pub(crate) fn new(net: &Net, handler: C) -> Result<Self> {
        let context = Context::new(handler, false)?;
        // SAFETY: The namespace is valid, `event_handler::<C>` expects such a context, and the
        // name is static.
        let id = from_err_ptr(unsafe {
            bindings::__rdma_create_kernel_id(
                net.as_ptr(),
                Some(event_handler::<C>),
                (&raw const *context).cast_mut().cast(),
                bindings::rdma_ucm_port_space_RDMA_PS_TCP,
                bindings::ib_qp_type_IB_QPT_RC,
                OWNER.as_char_ptr(),
            )
        })?;
        let id = NonNull::new(id).ok_or(ENOMEM)?;
        // An unspecified IPv6 address must not include IPv4. That cannot fail on a new identifier.
        // SAFETY: The identifier is live.
        let _ = unsafe { bindings::rdma_set_afonly(id.as_ptr(), 1) };
        // INVARIANT: It was just created with this context.
        Ok(Self {
            id,
            // SAFETY: A box is never null.
            context: unsafe { NonNull::new_unchecked(KBox::into_raw(context)) },
        })
    }

    /// Sets whether others may bind the local address too (`SO_REUSEADDR`). Any context.
    ///
    /// Fails with `EINVAL` on a listener.
    pub(crate) fn set_reuseaddr(&mut self, on: bool) -> Result {
        // SAFETY: By the type invariants the identifier is live.
        to_result(unsafe { bindings::rdma_set_reuseaddr(self.as_ptr(), on.into()) })
    }

    /// Binds to a local address and returns that, with the port that was chosen for port 0. Whether
    /// the caller may use the port is not checked.
    ///
    /// Sleeps. Fails with `EADDRINUSE`; with `EADDRNOTAVAIL` where the port is in use for the
    /// unspecified address, or for any address if that is asked for, and for an address that the
    /// namespace does not have; with `ENODEV` for one that is on no RDMA device; and with `EINVAL`
    /// if already bound.
    pub(crate) fn bind(&mut self, addr: &SocketAddr) -> Result<SocketAddr> {
        let _creds = KernelCreds::for_port(addr.port());
        let mut addr = to_sockaddr(addr);
        // SAFETY: The identifier is live and the address valid.
        to_result(unsafe { bindings::rdma_bind_addr(self.as_ptr(), (&raw mut addr).cast()) })?;
        // SAFETY: The identifier is live. Nobody changes the address of one that was just bound,
        // because resolving takes `&mut self`.
        unsafe {
            read_addr(
                self.as_ptr(),
                &raw const (*self.as_ptr()).route.addr.src_addr,
            )
        }
    }

    /// Listens; requests may come before this returns. Sleeps.
    ///
    /// Fails with `EADDRINUSE` where another identifier shares the port.
    pub(crate) fn listen(&mut self, backlog: i32) -> Result {
        let _creds = KernelCreds::for_port(self.local_addr()?.port());
        // SAFETY: By the type invariants the identifier is live.
        to_result(unsafe { bindings::rdma_listen(self.as_ptr(), backlog) })
    }

    /// Begins to resolve the address `dst`, which ends in [`CmEvent::AddrResolved`] or
    /// [`CmEvent::AddrError`], perhaps before this returns. An identifier that is not bound is
    /// bound to `source`, for port 0 to one that no other connection to `dst` has.
    ///
    /// Sleeps. Fails with the error of the route lookup, such as `ENETUNREACH`, with `EINVAL` where
    /// the local address is of another version of IP, and as [`Self::bind`] does.
    pub(crate) fn resolve_addr(
        &mut self,
        source: &SocketAddr,
        dst: &SocketAddr,
        timeout_ms: u32,
    ) -> Result {
        let _creds = KernelCreds::for_port(source.port());
        let mut source = to_sockaddr(source);
        let dst = to_sockaddr(dst);
        // SAFETY: The identifier is live, and the addresses valid.
        to_result(unsafe {
            bindings::rdma_resolve_addr(
                self.as_ptr(),
                (&raw mut source).cast(),
                (&raw const dst).cast(),
                // CAST: `c_ulong` has at least 32 bits.
                timeout_ms as c_ulong,
            )
        })
    }

    /// Sets the interface by which peers are reached. To be called before it has an address.
    pub(crate) fn set_interface(&mut self, interface: u32) {
        let interface = c_int::try_from(interface).unwrap_or(c_int::MAX);
        // SAFETY: The identifier is live, and rdma_cm does not use the field before it has an
        // address.
        unsafe { (*self.as_ptr()).route.addr.dev_addr.bound_dev_if = interface };
    }

    /// The interface that has its address, or 0. Any context.
    pub(crate) fn interface(&self) -> u32 {
        // SAFETY: The identifier is live.
        unsafe { read_interface(self.as_ptr()) }
    }

    /// Sets the service type of packets (IPv4's TOS), for the route that is resolved next.
    pub(crate) fn set_service_type(&mut self, tos: u8) {
        // SAFETY: The identifier is live.
        unsafe { bindings::rdma_set_service_type(self.as_ptr(), tos.into()) };
    }

    /// Sets how many routers packets may pass, both ways, for a connection over RoCE whose route is
    /// resolved; over others this does nothing.
    pub(crate) fn set_hop_limit(&mut self, hops: u8) {
        // SAFETY: The identifier is live. Its path is allocated and freed in `resolve_route()`,
        // which takes `&mut self` too; over InfiniBand it is filled in later, but the type is an
        // integer.
        unsafe {
            let path = (*self.as_ptr()).route.path_rec;
            if !path.is_null()
                && (&raw const (*path).rec_type).read_volatile()
                    == bindings::sa_path_rec_type_SA_PATH_REC_TYPE_ROCE_V2
            {
                (*path).hop_limit = hops;
            }
        }
    }

    /// Begins to resolve the route to the resolved address, which ends in
    /// [`CmEvent::RouteResolved`] or [`CmEvent::RouteError`], perhaps before this returns. Sleeps.
    /// Fails with `EINVAL` unless the address has been resolved.
    pub(crate) fn resolve_route(&mut self, timeout_ms: u32) -> Result {
        // CAST: `c_ulong` has at least 32 bits.
        let timeout_ms = timeout_ms as c_ulong;
        // SAFETY: By the type invariants the identifier is live.
        to_result(unsafe { bindings::rdma_resolve_route(self.as_ptr(), timeout_ms) })
    }

    /// Asks the peer for a connection. Sleeps, on siw until the TCP connection is made, and takes
    /// the handler mutex.
    ///
    /// Fails with `EINVAL` unless the route has been resolved, or when `private_data` is more than
    /// the transport carries: 56 bytes on InfiniBand and RoCE.
    pub(crate) fn connect(&self, param: &ConnParam, private_data: &[u8]) -> Result {
        self.set_timers(param)?;
        let mut param = param.to_raw(private_data)?;
        // SAFETY: The identifier is live; the parameters are valid for the time of the call.
        to_result(unsafe { bindings::rdma_connect(self.as_ptr(), &mut param) })?;
        // SAFETY: By the type invariants the context is valid.
        unsafe { self.context.as_ref() }
            .connection
            .store(true, Release);
        Ok(())
    }

    /// Accepts the connection that the peer asked for. Sleeps, and takes the handler mutex.
    ///
    /// Fails with the CM's or the driver's error. Then the peer has been told, unless the
    /// connection was gone, and the QP, if any, is in the error state.
    pub(crate) fn accept(&self, param: &ConnParam, private_data: &[u8]) -> Result {
        self.connection()?;
        self.set_timers(param)?;
        let mut param = param.to_raw(private_data)?;
        // SAFETY: The identifier is live and its handler mutex held; the parameters are valid for
        // the time of the call.
        to_result(unsafe {
            bindings::rdma_lock_handler(self.as_ptr());
            let result = bindings::rdma_accept(self.as_ptr(), &mut param);
            bindings::rdma_unlock_handler(self.as_ptr());
            result
        })
    }

    /// Sets the timers with which the QP is to be connected.
    fn set_timers(&self, param: &ConnParam) -> Result {
        if param.ack_timeout > 0 {
            // SAFETY: The identifier is live.
            to_result(unsafe { bindings::rdma_set_ack_timeout(self.as_ptr(), param.ack_timeout) })?;
        }
        // SAFETY: The identifier is live.
        to_result(unsafe { bindings::rdma_set_min_rnr_timer(self.as_ptr(), param.min_rnr_timer) })
    }

    /// Rejects the connection that the peer asked for, with `private_data`. Sleeps. Fails with
    /// `ENOTCONN` for an identifier without a request, and with the CM's error.
    pub(crate) fn reject(&self, private_data: &[u8]) -> Result {
        self.connection()?;
        // SAFETY: The identifier is live and has a connection.
        unsafe { reject(self.as_ptr(), private_data) }
    }

    /// The local address and port. Any context. Fails with `EAFNOSUPPORT` where there is none yet.
    pub(crate) fn local_addr(&self) -> Result<SocketAddr> {
        // SAFETY: The identifier is live.
        unsafe {
            read_addr(
                self.as_ptr(),
                &raw const (*self.as_ptr()).route.addr.src_addr,
            )
        }
    }

    /// The peer's address and port. Any context. Fails with `EAFNOSUPPORT` where there is none yet.
    pub(crate) fn peer_addr(&self) -> Result<SocketAddr> {
        // SAFETY: The identifier is live.
        unsafe {
            read_addr(
                self.as_ptr(),
                &raw const (*self.as_ptr()).route.addr.dst_addr,
            )
        }
    }

    /// The device that the identifier is bound to: from [`CmEvent::AddrResolved`] on, and for
    /// children. Any context. Fails with `ENODEV` where there is none, or it is being removed.
    pub(crate) fn device(&self) -> Result<Device> {
        // SAFETY: The identifier is live. It gets its device before the event that tells so, and
        // loses it when it is destroyed.
        let device = unsafe { ptr::read_volatile(&raw const (*self.as_ptr()).device) };
        let device = NonNull::new(device).ok_or(ENODEV)?;
        // SAFETY: rdma_cm does not let the device go before the identifier.
        unsafe { Device::get(device) }
    }

    /// Tells the peer that the connection has ended. Sleeps.
    ///
    /// Fails with `ENOTCONN` before a successful [`Self::connect`].
    pub(super) fn disconnect(&self) -> Result {
        self.connection()?;
        // SAFETY: The identifier is live and has a connection.
        to_result(unsafe { bindings::rdma_disconnect(self.as_ptr()) })
    }

    /// Tells the CM that the peer uses the connection: it has our reply, although its RTU may be
    /// lost. Any context. Fails with `ENOTCONN` for an identifier without a connection, and where
    /// the CM cannot take it now.
    pub(crate) fn notify_established(&self) -> Result {
        self.connection()?;
        let event = bindings::ib_event_type_IB_EVENT_COMM_EST;
        // SAFETY: The identifier is live and has a connection.
        to_result(unsafe { bindings::rdma_notify(self.as_ptr(), event) })
    }

    /// The most bytes of a packet on the way to the peer; 0 where the device does not tell, as on
    /// iWARP. Of one that is connected, or has a QP. Any context.
    pub(crate) fn path_mtu(&self) -> u32 {
        // SAFETY: The identifier is live. Its path is set before it has a QP, and stays.
        let mtu = unsafe {
            let path = (*self.as_ptr()).route.path_rec;
            match path.is_null() {
                true => 0,
                false => bindings::sdp_helper_path_mtu(path),
            }
        };
        mtu.unsigned_abs()
    }

    fn connection(&self) -> Result {
        // SAFETY: By the type invariants the context is valid.
        let context = unsafe { self.context.as_ref() };
        if context.connection.load(Acquire) {
            Ok(())
        } else {
            Err(ENOTCONN)
        }
    }

    /// The C identifier, valid as long as `self`.
    pub(super) fn as_ptr(&self) -> *mut bindings::rdma_cm_id {
        self.id.as_ptr()
    }
}

impl<C: CmHandler> Drop for CmId<C> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is live and ours, and a QP on it owns it and is
        // destroyed before.
        unsafe { bindings::rdma_destroy_id(self.id.as_ptr()) };
        // SAFETY: It came from a box, and no handler, nor the identifier, is left to use it.
        drop(unsafe { KBox::from_raw(self.context.as_ptr()) });
    }
}

impl<C> Context<C> {
    fn new(handler: C, connection: bool) -> Result<KBox<Self>> {
        let context = Self {
            handler,
            connection: AtomicFlag::new(connection),
        };
        Ok(KBox::new(context, GFP_KERNEL)?)
    }
}

/// The kernel's credentials for the current task, until dropped: rdma_cm, and some devices, have
/// rules of their own for privileged ports.
///
/// # Invariants
///
/// `old` is what the current task had.
struct KernelCreds {
    old: *const bindings::cred,
    _not_send: NotThreadSafe,
}

impl KernelCreds {
    /// Takes them, if the port needs them. Otherwise the task keeps its own, also for a socket that
    /// siw makes.
    fn for_port(port: u16) -> Option<Self> {
        if u32::from(port) >= bindings::PROT_SOCK {
            return None;
        }
        // INVARIANT: They were just exchanged.
        Some(Self {
            // SAFETY: They are put back by this task, before it does anything else with them.
            old: unsafe { bindings::sdp_helper_override_kernel_creds() },
            _not_send: NotThreadSafe,
        })
    }
}

impl Drop for KernelCreds {
    fn drop(&mut self) {
        // SAFETY: By the type invariant, on the same task.
        unsafe { bindings::sdp_helper_revert_creds(self.old) };
    }
}

/// The parameters of one side of a connection.
#[derive(Clone, Copy)]
pub(crate) struct ConnParam {
    /// How many RDMA Reads of the peer this side answers at a time.
    pub(crate) responder_resources: u8,
    /// How many RDMA Reads this side has in flight.
    pub(crate) initiator_depth: u8,
    /// How often a lost packet is retransmitted, up to 7; the accepting side's is ignored.
    pub(crate) retry_count: u8,
    /// How often a send is retried when the peer has posted no receive; 7 is without end.
    pub(crate) rnr_retry_count: u8,
    /// How long this side waits for the answer to a packet: 4.096 us times 2 to this power, or for
    /// 0 what the CM chooses.
    pub(crate) ack_timeout: u8,
    /// How long the peer waits before it retries when this side has posted no receive, as the
    /// InfiniBand specification encodes it; below 32.
    pub(crate) min_rnr_timer: u8,
}

impl ConnParam {
    fn to_raw(self, private_data: &[u8]) -> Result<bindings::rdma_conn_param> {
        Ok(bindings::rdma_conn_param {
            private_data: private_data.as_ptr().cast(),
            private_data_len: private_data.len().try_into()?,
            responder_resources: self.responder_resources,
            initiator_depth: self.initiator_depth,
            flow_control: 1,
            retry_count: self.retry_count,
            rnr_retry_count: self.rnr_retry_count,
            ..Default::default()
        })
    }
}

/// The peer's parameters of a connection, as seen from this side.
#[derive(Clone, Copy)]
pub(crate) struct PeerParam {
    /// How many RDMA Reads the peer wants answered at a time.
    pub(crate) responder_resources: u8,
    /// How many RDMA Reads this side may have in flight.
    pub(crate) initiator_depth: u8,
}

/// An event of a connection identifier.
///
/// The private data is the peer's, with the padding of the transport's message.
pub(crate) enum CmEvent<'a> {
    /// The address is resolved, and the identifier bound to a device.
    AddrResolved,
    /// The address could not be resolved, or does not lead through an RDMA device (`ENODEV`).
    AddrError(Error),
    /// The route is resolved.
    RouteResolved,
    /// The route could not be resolved.
    RouteError,
    /// A peer asks a listener for a connection.
    ConnectRequest {
        /// The new connection.
        child: ChildId<'a>,
        /// The peer's parameters.
        param: PeerParam,
        /// The private data of its connect.
        private_data: &'a [u8],
    },
    /// The connection is established.
    Established {
        /// The private data of the peer's accept; empty on the accepting side.
        private_data: &'a [u8],
    },
    /// The connection failed on this side.
    ConnectError,
    /// The peer did not answer.
    Unreachable,
    /// The peer rejected the connection, or nobody listens there, which iWARP cannot tell apart.
    Rejected {
        /// The private data of its reject.
        private_data: &'a [u8],
    },
    /// The connection was disconnected.
    Disconnected,
    /// The device is being removed, which waits until the identifier has been destroyed.
    DeviceRemoval,
    /// The local address moved to another device.
    AddrChange,
    /// The QP number may be used again.
    TimewaitExit,
}

/// The identifier of a connection that a peer asks for.
///
/// Unless it is adopted, rdma_cm rejects the peer and destroys it when the handler returns.
///
/// # Invariants
///
/// `id` is live, and its handler mutex is held by this thread, for `'a`.
pub(crate) struct ChildId<'a> {
    id: NonNull<bindings::rdma_cm_id>,
    adopted: &'a Cell<bool>,
    _not_send: NotThreadSafe,
}

impl ChildId<'_> {
    /// Takes over the identifier, whose next events go to `handler`. Without memory it gives itself
    /// back.
    pub(crate) fn adopt<D: CmHandler>(self, handler: D) -> Result<CmId<D>, Self> {
        let Ok(context) = Context::new(handler, true) else {
            return Err(self);
        };
        // SAFETY: A box is never null.
        let context = unsafe { NonNull::new_unchecked(KBox::into_raw(context)) };
        let id = self.id;
        // SAFETY: By the type invariants the identifier is live, and its handler mutex, which
        // guards both fields, held; `event_handler::<D>` expects such a context.
        unsafe {
            (*id.as_ptr()).context = context.as_ptr().cast();
            (*id.as_ptr()).event_handler = Some(event_handler::<D>);
        }
        self.adopted.set(true);
        // INVARIANT: rdma_cm leaves an adopted identifier to us, and it has this context.
        Ok(CmId { id, context })
    }

    /// The interface through which the request came.
    pub(crate) fn interface(&self) -> u32 {
        // SAFETY: By the type invariants the identifier is live.
        unsafe { read_interface(self.id.as_ptr()) }
    }

    /// The local address and port that the peer asks for.
    pub(crate) fn local_addr(&self) -> Result<SocketAddr> {
        // SAFETY: By the type invariants the identifier is live.
        unsafe {
            read_addr(
                self.id.as_ptr(),
                &raw const (*self.id.as_ptr()).route.addr.src_addr,
            )
        }
    }

    /// The peer's address and port, as it claims.
    pub(crate) fn peer_addr(&self) -> Result<SocketAddr> {
        // SAFETY: By the type invariants the identifier is live.
        unsafe {
            read_addr(
                self.id.as_ptr(),
                &raw const (*self.id.as_ptr()).route.addr.dst_addr,
            )
        }
    }

    /// Whether the answer goes to the very port of the device that received the request: this
    /// proves a peer's claim that it is this host. The address itself, and the GIDs of the path,
    /// are only claimed by the peer; the destination of the answer is taken from the packet. Always
    /// true on iWARP, where TCP ensures it.
    pub(crate) fn is_own(&self) -> bool {
        // SAFETY: By the type invariants the identifier is live. The path and the addresses of a
        // request's are set before its handler runs, and stay; a MAC has as many bytes as are read.
        unsafe {
            let id = self.id.as_ptr();
            let path = (*id).route.path_rec;
            if path.is_null() {
                return true;
            }
            let mac = bindings::sdp_helper_sa_path_get_dmac(path);
            if !mac.is_null() {
                let own = &raw const (*id).route.addr.dev_addr.src_dev_addr;
                return *mac.cast::<[u8; 6]>() == *own.cast::<[u8; 6]>();
            }
            let mut port = MaybeUninit::<bindings::ib_port_attr>::zeroed();
            if bindings::ib_query_port((*id).device, (*id).port_num, port.as_mut_ptr()) != 0 {
                return false;
            }
            // A port has 2^lmc addresses from its first on.
            let port = port.assume_init();
            let lid = u32::from_be(bindings::sdp_helper_sa_path_get_dlid(path));
            lid.checked_sub(port.lid)
                .is_some_and(|at| at.checked_shr(port.lmc.into()) == Some(0))
        }
    }

    /// Rejects the peer, with `private_data`; without memory for that rdma_cm rejects it without
    /// any.
    pub(crate) fn reject(self, private_data: &[u8]) {
        // SAFETY: By the type invariants the identifier is live, and it was made for a request.
        let sent = unsafe { reject(self.id.as_ptr(), private_data) };
        // If that fails rdma_cm rejects the peer, without private data.
        let _ = sent;
    }
}

/// Rejects the peer of `id`, with `private_data`.
///
/// # Safety
///
/// `id` is live, and the CM below has a request for it.
unsafe fn reject(id: *mut bindings::rdma_cm_id, private_data: &[u8]) -> Result {
    let len = u8::try_from(private_data.len())?;
    // CAST: The reasons are small numbers.
    let reason = bindings::ib_cm_rej_reason_IB_CM_REJ_CONSUMER_DEFINED as u8;
    // SAFETY: By the contract; the bytes are valid for the time of the call.
    to_result(unsafe { bindings::rdma_reject(id, private_data.as_ptr().cast(), len, reason) })
}

/// Passes an event of rdma_cm to the `C` of the identifier.
///
/// # Safety
///
/// rdma_cm calls it: under the handler mutex of `id`, with a valid event. The context of `id`, or
/// for a connect request of its listener, which cannot go meanwhile, is a `Context<C>`.
unsafe extern "C" fn event_handler<C: CmHandler>(
    id: *mut bindings::rdma_cm_id,
    event: *mut bindings::rdma_cm_event,
) -> c_int {
    // SAFETY: By the contract.
    let (context, event) = unsafe { (&*(*id).context.cast::<Context<C>>(), &*event) };
    let Some(id) = NonNull::new(id) else {
        return 0;
    };
    if event.event == bindings::rdma_cm_event_type_RDMA_CM_EVENT_CONNECT_REQUEST {
        let adopted = Cell::new(false);
        // INVARIANT: By the contract, for the time of this call.
        let child = ChildId {
            id,
            adopted: &adopted,
            _not_send: NotThreadSafe,
        };
        context.handler.event(CmEvent::ConnectRequest {
            child,
            param: PeerParam::of(event),
            private_data: private_data(event),
        });
        // Anything but zero has rdma_cm destroy the child.
        return if adopted.get() {
            0
        } else {
            ECONNREFUSED.to_errno()
        };
    }
    if let Some(event) = translate(event) {
        context.handler.event(event);
    }
    0
}

/// The [`CmEvent`] of a C event other than a connect request; `None` for those of other transports
/// and services.
fn translate(event: &bindings::rdma_cm_event) -> Option<CmEvent<'_>> {
    let error = || to_result(event.status).err().unwrap_or(EIO);
    Some(match event.event {
        bindings::rdma_cm_event_type_RDMA_CM_EVENT_ADDR_RESOLVED => CmEvent::AddrResolved,
        bindings::rdma_cm_event_type_RDMA_CM_EVENT_ADDR_ERROR => CmEvent::AddrError(error()),
        bindings::rdma_cm_event_type_RDMA_CM_EVENT_ROUTE_RESOLVED => CmEvent::RouteResolved,
        bindings::rdma_cm_event_type_RDMA_CM_EVENT_ROUTE_ERROR => CmEvent::RouteError,
        bindings::rdma_cm_event_type_RDMA_CM_EVENT_ESTABLISHED => CmEvent::Established {
            private_data: private_data(event),
        },
        bindings::rdma_cm_event_type_RDMA_CM_EVENT_CONNECT_ERROR => CmEvent::ConnectError,
        bindings::rdma_cm_event_type_RDMA_CM_EVENT_UNREACHABLE => CmEvent::Unreachable,
        bindings::rdma_cm_event_type_RDMA_CM_EVENT_REJECTED => CmEvent::Rejected {
            private_data: private_data(event),
        },
        bindings::rdma_cm_event_type_RDMA_CM_EVENT_DISCONNECTED => CmEvent::Disconnected,
        bindings::rdma_cm_event_type_RDMA_CM_EVENT_DEVICE_REMOVAL => CmEvent::DeviceRemoval,
        bindings::rdma_cm_event_type_RDMA_CM_EVENT_ADDR_CHANGE => CmEvent::AddrChange,
        bindings::rdma_cm_event_type_RDMA_CM_EVENT_TIMEWAIT_EXIT => CmEvent::TimewaitExit,
        _ => return None,
    })
}

/// The parameters of an event of a reliable connection.
fn conn(event: &bindings::rdma_cm_event) -> &bindings::rdma_conn_param {
    // SAFETY: Identifiers of reliable connections get this member of the union, and all bytes are
    // initialised in any case, and any are valid.
    unsafe { event.param.conn.as_ref() }
}

impl PeerParam {
    fn of(event: &bindings::rdma_cm_event) -> Self {
        let conn = conn(event);
        Self {
            responder_resources: conn.responder_resources,
            initiator_depth: conn.initiator_depth,
        }
    }
}

fn private_data(event: &bindings::rdma_cm_event) -> &[u8] {
    let conn = conn(event);
    if conn.private_data.is_null() {
        return &[];
    }
    // SAFETY: The CM below gives so many bytes with the event.
    unsafe { slice::from_raw_parts(conn.private_data.cast(), conn.private_data_len.into()) }
}

/// An address as C has it.
fn to_sockaddr(addr: &SocketAddr) -> bindings::__kernel_sockaddr_storage {
    let mut storage = MaybeUninit::<bindings::__kernel_sockaddr_storage>::zeroed();
    match addr {
        SocketAddr::V4(addr) => {
            let sin = bindings::sockaddr_in {
                sin_family: AF_INET,
                sin_port: addr.port().to_be(),
                sin_addr: bindings::in_addr {
                    s_addr: u32::from_ne_bytes(addr.ip().octets()),
                },
                ..Default::default()
            };
            let to: *mut bindings::sockaddr_in = storage.as_mut_ptr().cast();
            // SAFETY: The storage holds any address.
            unsafe { to.write(sin) };
        }
        SocketAddr::V6(addr) => {
            let mut sin6 = bindings::sockaddr_in6 {
                sin6_family: AF_INET6,
                sin6_port: addr.port().to_be(),
                sin6_flowinfo: addr.flowinfo().to_be(),
                sin6_scope_id: addr.scope_id(),
                ..Default::default()
            };
            sin6.sin6_addr.in6_u.u6_addr8 = addr.ip().octets();
            let to: *mut bindings::sockaddr_in6 = storage.as_mut_ptr().cast();
            // SAFETY: The storage holds any address.
            unsafe { to.write(sin6) };
        }
    }
    // SAFETY: All bytes are initialised, and any are valid.
    unsafe { storage.assume_init() }
}

/// Reads the interface of an identifier.
///
/// # Safety
///
/// `id` is live.
unsafe fn read_interface(id: *mut bindings::rdma_cm_id) -> u32 {
    // SAFETY: By the contract; volatile as the addresses are.
    let interface =
        unsafe { ptr::read_volatile(&raw const (*id).route.addr.dev_addr.bound_dev_if) };
    u32::try_from(interface).unwrap_or(0)
}

/// Reads an address of an identifier. A link-local one gets the interface as its scope, which a
/// request does not have. Fails as [`read_sockaddr`] does.
///
/// # Safety
///
/// `id` is live, and `addr` one of its addresses.
unsafe fn read_addr(
    id: *mut bindings::rdma_cm_id,
    addr: *const bindings::__kernel_sockaddr_storage,
) -> Result<SocketAddr> {
    // SAFETY: By the contract.
    let mut addr = unsafe { read_sockaddr(addr) }?;
    if let SocketAddr::V6(addr) = &mut addr {
        if addr.ip().is_unicast_link_local() && addr.scope_id() == 0 {
            // SAFETY: By the contract.
            addr.set_scope_id(unsafe { read_interface(id) });
        }
    }
    Ok(addr)
}

/// Reads an address of C. Fails with `EAFNOSUPPORT` for other families.
///
/// # Safety
///
/// `addr` may be read. It may change meanwhile: then the result is of no use, but valid.
unsafe fn read_sockaddr(addr: *const bindings::__kernel_sockaddr_storage) -> Result<SocketAddr> {
    // SAFETY: By the contract; volatile, because an identifier that is being resolved by one
    // thread may have its device removed on another.
    let bytes: [u8; mem::size_of::<bindings::__kernel_sockaddr_storage>()] =
        unsafe { ptr::read_volatile(addr.cast()) };
    let at = bytes.as_ptr();
    match u16::from_ne_bytes([bytes[0], bytes[1]]) {
        AF_INET => {
            // SAFETY: The storage holds any address, and any bytes are valid.
            let sin = unsafe { at.cast::<bindings::sockaddr_in>().read_unaligned() };
            let ip = Ipv4Addr::from(sin.sin_addr.s_addr.to_ne_bytes());
            let port = u16::from_be(sin.sin_port);
            Ok(SocketAddrV4::new(ip, port).into())
        }
        AF_INET6 => {
            // SAFETY: The storage holds any address, and any bytes are valid.
            let sin6 = unsafe { at.cast::<bindings::sockaddr_in6>().read_unaligned() };
            // SAFETY: Any bytes are a valid array of bytes.
            let ip = Ipv6Addr::from(unsafe { sin6.sin6_addr.in6_u.u6_addr8 });
            let port = u16::from_be(sin6.sin6_port);
            // Flow labels are not used, and addresses are compared without.
            Ok(SocketAddrV6::new(ip, port, 0, sin6.sin6_scope_id).into())
        }
        _ => Err(EAFNOSUPPORT),
    }
}

// CAST: The families are 2 and 10.
const AF_INET: u16 = bindings::AF_INET as u16;
const AF_INET6: u16 = bindings::AF_INET6 as u16;

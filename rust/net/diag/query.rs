// SPDX-License-Identifier: GPL-2.0

//! `sock_diag`, which speaks inet_diag's protocol for our families.

use super::{
    bytecode::Bytecode,
    length,
    words,
    View,
    Visible, //
};
use crate::{
    bindings,
    net::{
        inet,
        ops::Protocol,
        pernet::{
            NetOf,
            PerNet, //
        },
        sock::TcpState,
        sockaddr::IpVersion,
        tcp_info::TcpInfo, //
    },
    prelude::*, //
};
use core::{
    marker::PhantomData,
    ptr::{
        addr_of,
        addr_of_mut,
        NonNull, //
    },
};
use kernel::{
    error::{
        from_result,
        to_result, //
    },
    sync::Arc, //
};

/// A handler of `sock_diag`, until dropped.
///
/// # Invariants
///
/// It is registered.
struct Handler(&'static bindings::sock_diag_handler);

// SAFETY: It is only unregistered, which any thread may do.
unsafe impl Send for Handler {}
// SAFETY: Nothing can be done with a reference.
unsafe impl Sync for Handler {}

impl Handler {
    fn new(handler: &'static bindings::sock_diag_handler) -> Result<Self> {
        // SAFETY: It lives as long as the module, which whoever runs one of its functions holds.
        to_result(unsafe { bindings::sock_diag_register(handler) })?;
        // INVARIANT: It was just registered.
        Ok(Self(handler))
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::sock_diag_unregister(self.0) };
    }
}

/// The handlers of the families, until dropped.
pub(in crate::net) struct Registration<P: Protocol> {
    _v4: Handler,
    _v6: Handler,
    _protocol: PhantomData<fn() -> P>,
}

impl<P: Protocol> Registration<P> {
    const V4: bindings::sock_diag_handler = Self::handler(P::FAMILY);
    const V6: bindings::sock_diag_handler = Self::handler(P::FAMILY6);

    const fn handler(family: c_int) -> bindings::sock_diag_handler {
        bindings::sock_diag_handler {
            owner: &raw mut bindings::__this_module,
            // CAST: There are less than 256 families.
            family: family as u8,
            dump: Some(Request::<'static, P>::on_query),
            get_info: None,
            destroy: Some(Request::<'static, P>::on_destroy),
        }
    }

    /// Registers the handlers. Fails with `EBUSY` where another module has one for the families.
    pub(in crate::net) fn new() -> Result<Self> {
        Ok(Self {
            _v4: Handler::new(const { &Self::V4 })?,
            _v6: Handler::new(const { &Self::V6 })?,
            _protocol: PhantomData,
        })
    }
}

/// A request to `sock_diag`.
struct Request<'a, P: Protocol> {
    req: bindings::inet_diag_req_v2,
    /// What a dump is to have; all if it is none.
    filter: Option<Bytecode<'a>>,
    /// Whether the caller may see what is for administrators.
    net_admin: bool,
    _protocol: PhantomData<fn() -> P>,
}

impl<'a, P: Protocol> Request<'a, P> {
    /// Reads a message. Fails with `EINVAL` where it is too short, with `ENOENT` for a protocol
    /// other than TCP, which ours are listed as, with `EOPNOTSUPP` where it asks for the storage
    /// that BPF programs keep with a socket, and for a dump as [`Bytecode::new`] does if this
    /// `is_first` to read it.
    ///
    /// # Safety
    ///
    /// `skb` is the request, which lives for `'a`, and `nlh` is in it.
    unsafe fn new(
        skb: *mut bindings::sk_buff,
        nlh: *const bindings::nlmsghdr,
        is_first: bool,
    ) -> Result<Self> {
        // SAFETY: By the contract the message is there, with the length that it says.
        let bytes = unsafe {
            let len = (*nlh).nlmsg_len as usize;
            core::slice::from_raw_parts(nlh.cast::<u8>(), len)
        };
        let payload = bytes.get(HEADER..).ok_or(EINVAL)?;
        let (req, attributes) = payload
            .split_at_checked(size_of::<bindings::inet_diag_req_v2>())
            .ok_or(EINVAL)?;
        // SAFETY: There are as many bytes as it has, any of which are valid.
        let req: bindings::inet_diag_req_v2 = unsafe {
            req.as_ptr()
                .cast::<bindings::inet_diag_req_v2>()
                .read_unaligned()
        };
        // SAFETY: By the contract.
        let (is_dump, net_admin) = unsafe {
            let flags = u32::from((*nlh).nlmsg_flags);
            (
                flags & bindings::NLM_F_DUMP == bindings::NLM_F_DUMP,
                bindings::netlink_net_capable(skb, CAP_NET_ADMIN),
            )
        };
        let mut protocol = u32::from(req.sdiag_protocol);
        let mut filter = None;
        for attribute in Attributes(attributes) {
            match attribute {
                (bindings::INET_DIAG_REQ_BYTECODE, code) if is_dump => {
                    filter = Some(match is_first {
                        true => Bytecode::new(code, net_admin)?,
                        false => Bytecode::again(code),
                    });
                }
                (bindings::INET_DIAG_REQ_SK_BPF_STORAGES, _) => return Err(EOPNOTSUPP),
                (bindings::INET_DIAG_REQ_PROTOCOL, value) => {
                    protocol = u32::from_ne_bytes(value.try_into().map_err(|_| EINVAL)?);
                }
                _ => {}
            }
        }
        if protocol != bindings::IPPROTO_TCP {
            return Err(ENOENT);
        }
        Ok(Self {
            req,
            filter,
            net_admin,
            _protocol: PhantomData,
        })
    }

    /// Whether a dump is to include it.
    fn wants(&self, view: &View<P>) -> bool {
        let state = match view.state {
            // As in inet_diag, which has a state of its own for that.
            TcpState::Close => bindings::BPF_TCP_BOUND_INACTIVE,
            state => state as u32,
        };
        let (sport, dport) = (self.req.id.idiag_sport, self.req.id.idiag_dport);
        view.family() == c_int::from(self.req.sdiag_family)
            && self.req.idiag_states & (1 << state) != 0
            && (sport == 0 || sport == view.local.port().to_be())
            && (dport == 0 || dport == view.peer.port().to_be())
            && self
                .filter
                .as_ref()
                .is_none_or(|filter| filter.passes(view))
    }

    /// The socket that it names: the connection between two addresses, or else the listener at the
    /// first. Fails with `ENOENT` where there is none, or only one with another cookie.
    fn find(&self, here: &P::PerNet) -> Result<(Arc<dyn Visible<P>>, View<P>)> {
        let id = &self.req.id;
        let [low, high] = id.idiag_cookie;
        let cookie = u64::from(low) | u64::from(high) << 32;
        let any_cookie = cookie == u64::MAX;
        let mut found = None;
        let mut from = 0;
        while let Some((number, socket)) = here.next(from) {
            from = number.saturating_add(1);
            let Some(view) = socket.view() else { continue };
            let local = words(view.shown(view.local).ip()).0;
            let same_family = view.family() == c_int::from(self.req.sdiag_family);
            if !same_family || view.local.port().to_be() != id.idiag_sport {
                continue;
            }
            let is_connection = local == id.idiag_src
                && words(view.shown(view.peer).ip()).0 == id.idiag_dst
                && view.peer.port().to_be() == id.idiag_dport;
            let is_listener = view.state == TcpState::Listen
                && (local == id.idiag_src || view.local.ip().is_unspecified());
            if !is_connection && !is_listener {
                continue;
            }
            if !any_cookie && cookie != view.cookie {
                continue;
            }
            if is_connection {
                return Ok((socket, view));
            }
            if found.is_none() {
                found = Some((socket, view));
            }
        }
        found.ok_or(ENOENT)
    }

    /// # Safety
    ///
    /// `sock_diag` calls it, with a request that it holds, and this module too.
    unsafe extern "C" fn on_query(
        skb: *mut bindings::sk_buff,
        nlh: *mut bindings::nlmsghdr,
    ) -> c_int {
        from_result(|| {
            // SAFETY: By the contract.
            let request = unsafe { Request::<'_, P>::new(skb, nlh, true) }?;
            // SAFETY: By the contract; whoever runs the dump holds the module.
            unsafe {
                if u32::from((*nlh).nlmsg_flags) & bindings::NLM_F_DUMP == bindings::NLM_F_DUMP {
                    return to_result(bindings::sdp_helper_netlink_dump_start(
                        skb,
                        nlh,
                        Some(Self::on_dump),
                    ))
                    .map(|()| 0);
                }
                let (socket, view) = request.find(net_of::<P>(skb)?.own())?;
                let reply = bindings::sdp_helper_nlmsg_new(REPLY);
                let reply = NonNull::new(reply).ok_or(ENOMEM)?.as_ptr();
                if let Err(e) = request.answer(reply, skb, nlh, 0, (&*socket, &view)) {
                    bindings::sdp_helper_nlmsg_free(reply);
                    return Err(e);
                }
                to_result(bindings::sdp_helper_nlmsg_reply(reply, skb))?;
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Netlink calls it, to fill `skb` with what follows in a dump that [`Self::on_query`] began.
    unsafe extern "C" fn on_dump(
        skb: *mut bindings::sk_buff,
        cb: *mut bindings::netlink_callback,
    ) -> c_int {
        from_result(|| {
            // SAFETY: By the contract; `args` is ours.
            let (request, nlh, at) = unsafe {
                let at = addr_of_mut!((*cb).__bindgen_anon_1).cast::<c_long>();
                ((*cb).skb, (*cb).nlh, at)
            };
            // SAFETY: The callback keeps the request.
            let this = unsafe { Request::<'_, P>::new(request, nlh, false) }?;
            // SAFETY: As above. CAST: What was stored below comes back.
            let (net, mut from) = unsafe { (net_of::<P>(skb)?, *at as u64) };
            while let Some((number, socket)) = net.own().next(from) {
                if let Some(view) = socket.view().filter(|view| this.wants(view)) {
                    let flags = bindings::NLM_F_MULTI as c_int;
                    // SAFETY: As above.
                    if unsafe { this.answer(skb, request, nlh, flags, (&*socket, &view)) }.is_err()
                    {
                        break;
                    }
                }
                from = number.saturating_add(1);
                // SAFETY: As above. CAST: It is a count, which does not come that far.
                unsafe { *at = from as c_long };
            }
            // SAFETY: The buffer is live.
            Ok(c_int::try_from(unsafe { (*skb).len }).unwrap_or(c_int::MAX))
        })
    }

    /// # Safety
    ///
    /// As for [`Self::on_query`].
    unsafe extern "C" fn on_destroy(
        skb: *mut bindings::sk_buff,
        nlh: *mut bindings::nlmsghdr,
    ) -> c_int {
        from_result(|| {
            // SAFETY: By the contract.
            let (request, net) =
                unsafe { (Request::<'_, P>::new(skb, nlh, true)?, net_of::<P>(skb)?) };
            let (socket, _) = request.find(net.own())?;
            // SAFETY: The namespace is live.
            if !unsafe { bindings::sdp_helper_net_admin(net.as_ptr()) } {
                return Err(EPERM);
            }
            socket.abort()?;
            Ok(0)
        })
    }

    /// Appends a socket to the answer to `request`. Fails with `EMSGSIZE` where there is no room.
    ///
    /// # Safety
    ///
    /// `skb` is a live buffer for messages, and `request` a live request with `nlh` in it.
    unsafe fn answer(
        &self,
        skb: *mut bindings::sk_buff,
        request: *mut bindings::sk_buff,
        nlh: *const bindings::nlmsghdr,
        flags: c_int,
        (socket, view): (&dyn Visible<P>, &View<P>),
    ) -> Result {
        let len = size_of::<bindings::inet_diag_msg>() as c_int;
        // SAFETY: By the contract.
        let begun = unsafe { bindings::sdp_helper_nlmsg_put(skb, request, nlh, len, flags) };
        let nlh = NonNull::new(begun).ok_or(EMSGSIZE)?.as_ptr();
        let sk = view.sock.as_deref();
        // SAFETY: By the contract.
        let uid = unsafe { bindings::sdp_helper_netlink_uid(request, view.uid) };
        let msg = bindings::inet_diag_msg {
            // CAST: There are less than 256 families.
            idiag_family: view.family() as u8,
            idiag_state: view.state as u8,
            id: bindings::inet_diag_sockid {
                idiag_sport: view.local.port().to_be(),
                idiag_dport: view.peer.port().to_be(),
                idiag_src: words(view.shown(view.local).ip()).0,
                idiag_dst: words(view.shown(view.peer).ip()).0,
                idiag_if: sk.map_or(0, |sk| sk.interface()),
                // CAST: Its halves.
                idiag_cookie: [view.cookie as u32, (view.cookie >> 32) as u32],
            },
            idiag_timer: view.timer.map_or(0, |timer| match timer.is_keepalive {
                true => 2,
                false => 4,
            }),
            idiag_retrans: (view.timer)
                .map_or(0, |timer| u8::try_from(timer.probes).unwrap_or(u8::MAX)),
            idiag_expires: view.timer.map_or(0, |timer| timer.in_ms),
            idiag_rqueue: length(view.recv_queue),
            idiag_wqueue: length(view.send_queue),
            idiag_uid: uid,
            // CAST: As inet_diag has it.
            idiag_inode: sk.map_or(0, |sk| sk.inode() as u32),
        };
        // SAFETY: The message was just made, with room for it behind its header.
        unsafe {
            let to = nlh.byte_add(HEADER).cast::<bindings::inet_diag_msg>();
            to.write_unaligned(msg);
        }
        // SAFETY: By the contract; the message was begun there.
        unsafe {
            match self.attributes(skb, socket, view) {
                Ok(()) => bindings::sdp_helper_nlmsg_end(skb, nlh),
                Err(e) => {
                    bindings::sdp_helper_nlmsg_cancel(skb, nlh);
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    /// Appends the attributes that inet_diag has, as far as there are values for them.
    ///
    /// # Safety
    ///
    /// `skb` is a live buffer with a message that was begun.
    unsafe fn attributes(
        &self,
        skb: *mut bindings::sk_buff,
        socket: &dyn Visible<P>,
        view: &View<P>,
    ) -> Result {
        let put = |kind: c_uint, value: &[u8]| {
            // SAFETY: By the contract, and `value` is as long as is said. CAST: A few bytes.
            to_result(unsafe {
                bindings::nla_put(
                    skb,
                    kind as c_int,
                    value.len() as c_int,
                    value.as_ptr().cast(),
                )
            })
        };
        let asked = |kind: c_uint| u32::from(self.req.idiag_ext) & (1 << (kind - 1)) != 0;
        let (recv, send) = view.shut;
        put(
            bindings::INET_DIAG_SHUTDOWN,
            &[u8::from(recv) | u8::from(send) << 1],
        )?;
        if asked(bindings::INET_DIAG_INFO) {
            let info = TcpInfo {
                state: view.state as u8,
                pacing_rate: u64::MAX,
                max_pacing_rate: view.sock.as_ref().map_or(0, |sk| sk.max_pacing_rate()),
                ..socket.info()
            };
            let bytes = info.to_bytes();
            // SAFETY: By the contract, and it is as long as is said. CAST: A few hundred bytes.
            to_result(unsafe {
                bindings::nla_put_64bit(
                    skb,
                    bindings::INET_DIAG_INFO as c_int,
                    bytes.len() as c_int,
                    bytes.as_ptr().cast(),
                    bindings::INET_DIAG_PAD as c_int,
                )
            })?;
        }
        if asked(bindings::INET_DIAG_CONG) {
            let name = socket.congestion();
            let end = name.iter().position(|byte| *byte == 0);
            // It ends by a zero.
            let len = end.map_or(name.len(), |end| end.saturating_add(1));
            put(bindings::INET_DIAG_CONG, name.get(..len).unwrap_or(&name))?;
        }
        let Some(sk) = &view.sock else { return Ok(()) };
        let raw = sk.as_ptr();
        let inet = raw.cast::<bindings::inet_sock>();
        if asked(bindings::INET_DIAG_TOS) {
            // SAFETY: The sock is live, and begins with an `inet_sock`.
            let tos = unsafe { addr_of!((*inet).tos).read_volatile() };
            put(bindings::INET_DIAG_TOS, &[tos])?;
        }
        if sk.version() == IpVersion::V6 {
            if asked(bindings::INET_DIAG_TCLASS) {
                // SAFETY: The sock is live; the field is an integer.
                let class = unsafe { addr_of!((*sk.pinet6()).tclass).read_volatile() };
                put(bindings::INET_DIAG_TCLASS, &[class])?;
            }
            if matches!(view.state, TcpState::Listen | TcpState::Close) {
                put(bindings::INET_DIAG_SKV6ONLY, &[u8::from(sk.is_v6only())])?;
            }
        }
        if self.net_admin {
            put(bindings::INET_DIAG_MARK, &sk.packet_mark().to_ne_bytes())?;
        }
        if asked(bindings::INET_DIAG_TCLASS) {
            // SAFETY: As above.
            let class = unsafe { addr_of!((*raw).sk_priority).read_volatile() };
            put(bindings::INET_DIAG_CLASS_ID, &class.to_ne_bytes())?;
        }
        // SAFETY: As above.
        put(bindings::INET_DIAG_SOCKOPT, &unsafe { inet::flags(inet) })?;
        let cgroup = sk.cgroup_id();
        if cgroup != 0 {
            // SAFETY: By the contract.
            to_result(unsafe {
                bindings::sdp_helper_nla_put_u64(
                    skb,
                    bindings::INET_DIAG_CGROUP_ID as c_int,
                    cgroup,
                    bindings::INET_DIAG_PAD as c_int,
                )
            })?;
        }
        if asked(bindings::INET_DIAG_MEMINFO) {
            let mut info = bindings::inet_diag_meminfo::default();
            // SAFETY: The sock is live.
            unsafe { bindings::sdp_helper_sk_meminfo(raw, &mut info) };
            let words = [
                info.idiag_rmem,
                info.idiag_wmem,
                info.idiag_fmem,
                info.idiag_tmem,
            ];
            put(
                bindings::INET_DIAG_MEMINFO,
                words.map(u32::to_ne_bytes).as_flattened(),
            )?;
        }
        if asked(bindings::INET_DIAG_SKMEMINFO) {
            // SAFETY: The sock and the buffer are live.
            to_result(unsafe {
                bindings::sock_diag_put_meminfo(raw, skb, bindings::INET_DIAG_SKMEMINFO as c_int)
            })?;
        }
        Ok(())
    }
}

/// The length of a message's header.
const HEADER: usize = size_of::<bindings::nlmsghdr>();

/// Room for an answer with all its attributes.
const REPLY: usize = 1024;

const CAP_NET_ADMIN: c_int = bindings::CAP_NET_ADMIN as c_int;

/// The namespace of a request to `sock_diag`, or of the answer. Fails with `ENOENT` while the
/// module is being loaded.
///
/// # Safety
///
/// `skb` is live and on its way through the socket of `sock_diag`, by a function of our handler,
/// whose caller holds the module.
unsafe fn net_of<'a, P: Protocol>(skb: *mut bindings::sk_buff) -> Result<&'a NetOf<P>> {
    if !P::family(IpVersion::V4).is_open() {
        return Err(ENOENT);
    }
    // SAFETY: The socket that it is of is live by the contract, and so is its namespace. The
    // families are open, as long as the module is held.
    Ok(unsafe { NetOf::from_ptr(bindings::sdp_helper_skb_net(skb)) })
}

/// The attributes behind a message, with their values.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (c_uint, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, _) = self.0.split_first_chunk::<4>()?;
        let [len_low, len_high, kind_low, kind_high] = *head;
        let len = usize::from(u16::from_ne_bytes([len_low, len_high]));
        let kind = u16::from_ne_bytes([kind_low, kind_high]);
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        // Two bits are flags.
        Some((c_uint::from(kind) & 0x3fff, value))
    }
}

// SPDX-License-Identifier: GPL-2.0

//! `struct inet_sock`: the options at IP's level, which the kernel keeps there, and what a new
//! socket has of them.

use crate::{
    bindings,
    net::{
        ops::Protocol,
        optval::OptionValue,
        sock::Sock,
        uapi::IPPROTO_IPV6, //
    },
    prelude::*, //
};
use kernel::error::to_result;

/// Checks whether an option of IP's level can be set; the kernel then sets it, as for TCP. Options
/// that mean nothing to TCP mean nothing here. What a program relies on and an RDMA device cannot
/// do fails, if it does not with TCP:
///
/// * `ENOPROTOOPT`: options in IP's header;
/// * `EOPNOTSUPP`: what keeps packets away, which a program must not take for granted.
pub(super) fn check_option<P: Protocol>(
    sk: &Sock<P>,
    name: c_int,
    value: OptionValue<'_>,
) -> Result {
    // CAST: They are small.
    let error = match name as u32 {
        // There are none.
        bindings::IP_OPTIONS if value.len() == 0 => return Ok(()),
        bindings::IP_OPTIONS => ENOPROTOOPT,
        bindings::IP_IPSEC_POLICY | bindings::IP_XFRM_POLICY => EOPNOTSUPP,
        bindings::IP_MINTTL => match byte_or_int(value)? {
            0 => return Ok(()),
            ttl if (1..=255).contains(&ttl) => return Err(EOPNOTSUPP),
            _ => return Err(EINVAL),
        },
        // As TCP says it.
        bindings::IP_ADD_MEMBERSHIP | bindings::IP_DROP_MEMBERSHIP => return Err(EPROTO),
        bindings::IP_UNBLOCK_SOURCE..=bindings::MCAST_MSFILTER => return Err(EINVAL),
        _ => return Ok(()),
    };
    Err(sk.refusal(bindings::SOL_IP as c_int, name, value, error))
}

/// Gives a socket the route to its peer where an option of IP's level, or of IPv6's, tells of that:
/// with TCP's sockets their packets do so. Sleeps.
pub(super) fn find_route<P: Protocol>(sk: &Sock<P>, level: c_int, name: c_int) {
    // CAST: They are small.
    let is_told = matches!(
        (level as u32, name as u32),
        (bindings::SOL_IP, bindings::IP_MTU)
            | (
                bindings::SOL_IPV6,
                bindings::IPV6_MTU | bindings::IPV6_PATHMTU
            )
    );
    if is_told {
        let _s = sk.lock();
        // SAFETY: The sock is live, begins with an `inet_sock`, and is locked.
        unsafe { bindings::sdp_helper_sk_find_route(sk.as_ptr()) };
    }
}

/// Sets an option of IPv6's level, of a socket of IPv6. The kernel does it, but for those where it
/// looks at the family of the socket. What fails beside what TCP has fail:
///
/// * `ENOPROTOOPT`: headers and labels of packets, and addresses that rdma_cm does not choose by;
/// * `EOPNOTSUPP`: as above.
pub(super) fn set_option6<P: Protocol>(
    sk: &Sock<P>,
    name: c_int,
    value: OptionValue<'_>,
) -> Result {
    // CAST: They are small.
    let option = name as u32;
    // As the kernel has it, most options fail then.
    let is_short = value.len() < size_of::<c_int>();
    let given = match is_short || value.is_null() {
        true => 0,
        false => value.int()?,
    };
    match option {
        // There is none.
        bindings::IPV6_PKTINFO if value.len() == 0 => return Ok(()),
        bindings::IPV6_ADDRFORM
        | bindings::IPV6_2292PKTOPTIONS
        | bindings::IPV6_PKTINFO
        | bindings::IPV6_FLOWLABEL_MGR => {
            return Err(sk.refusal(IPPROTO_IPV6, name, value, ENOPROTOOPT));
        }
        bindings::IPV6_IPSEC_POLICY | bindings::IPV6_XFRM_POLICY => {
            return Err(sk.refusal(IPPROTO_IPV6, name, value, EOPNOTSUPP));
        }
        bindings::IPV6_ADD_MEMBERSHIP | bindings::IPV6_DROP_MEMBERSHIP => {
            return match value.len() {
                len if len < size_of::<bindings::ipv6_mreq>() => Err(EINVAL),
                _ => Err(EPROTO),
            }
        }
        bindings::MCAST_JOIN_GROUP..=bindings::MCAST_MSFILTER => return Err(EINVAL),
        bindings::IPV6_RECVFRAGSIZE => {}
        bindings::IPV6_MINHOPCOUNT if (1..=255).contains(&given) => return Err(EOPNOTSUPP),
        bindings::IPV6_ADDR_PREFERENCES | bindings::IPV6_FLOWINFO_SEND if given != 0 => {
            return Err(sk.refusal(IPPROTO_IPV6, name, value, ENOPROTOOPT));
        }
        bindings::IPV6_FREEBIND
        | bindings::IPV6_TRANSPARENT
        | bindings::IPV6_V6ONLY
        | bindings::IPV6_TCLASS
        | bindings::IPV6_ROUTER_ALERT
            if is_short =>
        {
            return Err(EINVAL)
        }
        _ if is_short && received_bit(option).is_some() => return Err(EINVAL),
        _ => {}
    }
    match option {
        bindings::IPV6_FREEBIND => set_ip_option(sk, bindings::IP_FREEBIND, given),
        bindings::IPV6_TRANSPARENT => set_ip_option(sk, bindings::IP_TRANSPARENT, given),
        bindings::IPV6_V6ONLY => {
            let mut s = sk.lock();
            // Bound by bind, connect or listen.
            if sk.has_port() {
                return Err(EINVAL);
            }
            s.set_v6only(given != 0);
            Ok(())
        }
        bindings::IPV6_TCLASS => {
            let class = match given {
                -1 => 0,
                class => u8::try_from(class).map_err(|_| EINVAL)?,
            };
            let _s = sk.lock();
            // SAFETY: The sock is live, is of IPv6, and locked by who changes the field.
            unsafe {
                let at = &raw mut (*sk.pinet6()).tclass;
                at.write_volatile(class & !ECN_MASK | at.read_volatile() & ECN_MASK);
            }
            Ok(())
        }
        _ => match received_bit(option) {
            Some(set) => {
                let _s = sk.lock();
                // SAFETY: The sock is live, is of IPv6, and locked by who changes the bits.
                unsafe { set((*sk.pinet6()).rxopt.bits.as_mut(), u16::from(given != 0)) };
                Ok(())
            }
            None => {
                let (value, len) = value.raw();
                let level = bindings::SOL_IPV6 as c_int;
                // SAFETY: The socket is live and of IPv6; the value is that of the call.
                to_result(unsafe {
                    bindings::ipv6_setsockopt(sk.as_ptr(), level, name, value, len)
                })
            }
        },
    }
}

/// The bits of a service type that are not the program's.
const ECN_MASK: u8 = bindings::INET_ECN_MASK as u8;

type Received = bindings::ipv6_pinfo__bindgen_ty_2__bindgen_ty_1;

/// What sets that a program wants to be told something of packets.
fn received_bit(option: u32) -> Option<fn(&mut Received, u16)> {
    Some(match option {
        bindings::IPV6_RECVPKTINFO => Received::set_rxinfo,
        bindings::IPV6_2292PKTINFO => Received::set_rxoinfo,
        bindings::IPV6_RECVHOPLIMIT => Received::set_rxhlim,
        bindings::IPV6_2292HOPLIMIT => Received::set_rxohlim,
        bindings::IPV6_RECVRTHDR => Received::set_srcrt,
        bindings::IPV6_2292RTHDR => Received::set_osrcrt,
        bindings::IPV6_RECVHOPOPTS => Received::set_hopopts,
        bindings::IPV6_2292HOPOPTS => Received::set_ohopopts,
        bindings::IPV6_RECVDSTOPTS => Received::set_dstopts,
        bindings::IPV6_2292DSTOPTS => Received::set_odstopts,
        bindings::IPV6_RECVTCLASS => Received::set_rxtclass,
        bindings::IPV6_FLOWINFO => Received::set_rxflow,
        bindings::IPV6_RECVPATHMTU => Received::set_rxpmtu,
        bindings::IPV6_RECVORIGDSTADDR => Received::set_rxorigdstaddr,
        bindings::IPV6_RECVFRAGSIZE => Received::set_recvfragsize,
        _ => return None,
    })
}

/// An option of IPv6's level that the kernel keeps with IP's.
fn set_ip_option<P: Protocol>(sk: &Sock<P>, name: u32, value: c_int) -> Result {
    let bytes = value.to_ne_bytes();
    let (pointer, len) = OptionValue::of(&bytes).raw();
    let level = bindings::SOL_IP as c_int;
    // SAFETY: The socket is live and begins with an `inet_sock`; the value is there for the call.
    // CAST: They are small.
    to_result(unsafe { bindings::ip_setsockopt(sk.as_ptr(), level, name as c_int, pointer, len) })
}

/// The values of IP's level are integers, or bytes.
fn byte_or_int(value: OptionValue<'_>) -> Result<c_int> {
    match value.len() {
        1..4 => value.bytes::<1>().map(|[byte]| byte.into()),
        _ => value.int(),
    }
}

/// What `socket(2)` makes of the options of IP, as for TCP.
///
/// # Safety
///
/// `inet` is a new socket, which nobody knows yet, and all zeroes but for its `sk`.
pub(super) unsafe fn set_up(inet: *mut bindings::inet_sock) {
    // SAFETY: By the contract; a live socket has its namespace.
    unsafe {
        let net = bindings::sdp_helper_sock_net(inet.cast());
        (*inet).uc_ttl = -1;
        (*inet).mc_ttl = 1;
        (*inet).inet_flags = 1 << bindings::INET_FLAGS_MC_LOOP | 1 << bindings::INET_FLAGS_MC_ALL;
        (*inet).pmtudisc = bindings::sdp_helper_pmtudisc(net);
    }
}

/// The same of IPv6.
///
/// # Safety
///
/// `inet` and `np` are those of a new socket, which nobody knows yet; `np` is all zeroes.
pub(super) unsafe fn set_up6(inet: *mut bindings::inet_sock, np: *mut bindings::ipv6_pinfo) {
    // SAFETY: By the contract.
    unsafe {
        (*inet).inet_flags = 1 << bindings::INET_FLAGS_MC_LOOP
            | 1 << bindings::INET_FLAGS_MC6_LOOP
            | 1 << bindings::INET_FLAGS_MC6_ALL;
        (*inet).pinet6 = np;
        (*np).hop_limit = -1;
        // CAST: They are small numbers.
        (*np).mcast_hops = bindings::IPV6_DEFAULT_MCASTHOPS as u8;
        (*np).pmtudisc = bindings::IPV6_PMTUDISC_WANT as u8;
    }
}

/// The options of IP that `sock_diag` shows, as a `struct inet_diag_sockopt`.
///
/// # Safety
///
/// `inet` is live.
pub(super) unsafe fn flags(inet: *const bindings::inet_sock) -> [u8; 2] {
    // In the order of that, which says a 1 in the second place of what TCP's sockets are.
    const SHOWN: [Option<u32>; 11] = [
        Some(bindings::INET_FLAGS_RECVERR),
        None,
        Some(bindings::INET_FLAGS_FREEBIND),
        Some(bindings::INET_FLAGS_HDRINCL),
        Some(bindings::INET_FLAGS_MC_LOOP),
        Some(bindings::INET_FLAGS_TRANSPARENT),
        Some(bindings::INET_FLAGS_MC_ALL),
        Some(bindings::INET_FLAGS_NODEFRAG),
        Some(bindings::INET_FLAGS_BIND_ADDRESS_NO_PORT),
        Some(bindings::INET_FLAGS_RECVERR_RFC4884),
        Some(bindings::INET_FLAGS_DEFER_CONNECT),
    ];
    // SAFETY: By the contract; the field is an integer.
    let flags = unsafe { core::ptr::addr_of!((*inet).inet_flags).read_volatile() };
    let is_set = |flag: Option<u32>| flag.is_none_or(|flag| flags & 1 << flag != 0);
    let bits = SHOWN.into_iter().enumerate();
    let shown = bits.fold(0u16, |all, (at, flag)| all | u16::from(is_set(flag)) << at);
    shown.to_le_bytes()
}

/// The options of a socket that what it accepts has too.
pub(super) struct Inherited {
    flags: c_ulong,
    ttl: i16,
    multicast_ttl: u8,
    tos: u8,
    pmtudisc: u8,
    interface: c_int,
    ports: u32,
}

impl Inherited {
    /// Those of a socket. Any context.
    ///
    /// # Safety
    ///
    /// It is live.
    pub(super) unsafe fn of(from: *const bindings::inet_sock) -> Self {
        use core::ptr::addr_of;
        // SAFETY: By the contract. The fields are integers that setsockopt may change at any time,
        // and either value serves.
        unsafe {
            Self {
                flags: addr_of!((*from).inet_flags).read_volatile(),
                ttl: addr_of!((*from).uc_ttl).read_volatile(),
                multicast_ttl: addr_of!((*from).mc_ttl).read_volatile(),
                tos: addr_of!((*from).tos).read_volatile(),
                pmtudisc: addr_of!((*from).pmtudisc).read_volatile(),
                interface: addr_of!((*from).uc_index).read_volatile(),
                ports: addr_of!((*from).local_port_range).read_volatile(),
            }
        }
    }

    /// Gives them to a socket.
    ///
    /// # Safety
    ///
    /// It is live, and nobody else knows it.
    pub(super) unsafe fn give(&self, to: *mut bindings::inet_sock) {
        // SAFETY: By the contract.
        unsafe {
            (*to).inet_flags = self.flags;
            (*to).uc_ttl = self.ttl;
            (*to).mc_ttl = self.multicast_ttl;
            (*to).tos = self.tos;
            (*to).pmtudisc = self.pmtudisc;
            (*to).uc_index = self.interface;
            (*to).local_port_range = self.ports;
        }
    }
}

/// The options of IPv6 that what a socket accepts has too.
pub(super) struct Inherited6 {
    hop_limit: i16,
    pmtudisc: u8,
    class: u8,
    frag_size: u32,
    interface: c_int,
    /// What the program wants to be told of packets, as bits.
    received: u16,
}

impl Inherited6 {
    /// Those of a socket. Any context.
    ///
    /// # Safety
    ///
    /// It is live.
    pub(super) unsafe fn of(from: *const bindings::ipv6_pinfo) -> Self {
        use core::ptr::addr_of;
        // SAFETY: As above.
        unsafe {
            Self {
                hop_limit: addr_of!((*from).hop_limit).read_volatile(),
                pmtudisc: addr_of!((*from).pmtudisc).read_volatile(),
                class: addr_of!((*from).tclass).read_volatile(),
                frag_size: addr_of!((*from).frag_size).read_volatile(),
                interface: addr_of!((*from).ucast_oif).read_volatile(),
                received: addr_of!((*from).rxopt).cast::<u16>().read_volatile(),
            }
        }
    }

    /// Gives them to a socket.
    ///
    /// # Safety
    ///
    /// It is live, and nobody else knows it.
    pub(super) unsafe fn give(&self, to: *mut bindings::ipv6_pinfo) {
        // SAFETY: By the contract.
        unsafe {
            (*to).hop_limit = self.hop_limit;
            (*to).pmtudisc = self.pmtudisc;
            (*to).tclass = self.class;
            (*to).frag_size = self.frag_size;
            (*to).ucast_oif = self.interface;
            (&raw mut (*to).rxopt).cast::<u16>().write(self.received);
        }
    }
}

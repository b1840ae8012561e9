// SPDX-License-Identifier: GPL-2.0

//! The names of what `net` has for this protocol: its sockets and its namespaces.

use crate::net::{
    pernet,
    sock::Sock,
    wait::OpenSock, //
};

/// The protocol of the sockets.
pub(crate) struct Sdp;

/// An SDP socket.
pub(crate) type Socket = Sock<Sdp>;

/// One whose file is open: its calls may wait.
pub(crate) type OpenSocket = OpenSock<Sdp>;

/// A namespace, with what the protocol keeps there.
pub(crate) type Net = pernet::NetOf<Sdp>;

/// A counted reference of one.
pub(crate) type NetRef = pernet::NetRef<Sdp>;
